# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Unlabelled texts: read from a file or a data set, sampled, digested, and tokenized for two models."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

FEWEST_TEXTS = 100  # measured (docs/fidelity.md): with 50, the fit was worse than none

LINE_LIMIT = 1 << 24  # characters of one line
JSON_LIMIT = 1 << 27  # of a .json file, which is read whole

TOKENIZED = ("input_ids", "attention_mask", "token_type_ids")

Text = str | tuple[str, str]


def path_of(source: str | os.PathLike) -> str:
    """The file or folder that `source` names, if it is one: without the name of a column."""
    name = os.path.expanduser(source)
    head = name.rpartition(":")[0]
    return head if head and not os.path.exists(name) and os.path.exists(head) else name


def check_source(source: str | os.PathLike) -> None:
    """Raises ValueError, one line, for what can be seen at once: no such file, or its first text can't be read."""
    name = path_of(source)
    if os.path.isfile(name):
        next(_lines(Path(name)), None)
    elif os.path.lexists(name) and not os.path.isdir(name):
        raise ValueError(f"{name}: not a file; write the texts into one")
    elif not os.path.isdir(name) and (Path(name).suffix in READERS or re.match(r"[./~\\]|.*/.*/|\w:", name)):
        raise ValueError(f"{name}: no such file")


def read_texts(source: str | os.PathLike, samples: int) -> list[Text]:
    """At most `samples` different texts, chosen at random, the same ones each time.

    Args:
        source: A text file with one text a line; a `.tsv`, `.csv` (both with a header), `.jsonl` or `.json` file with
            the fields `text` and, for pairs, `text_pair`; or, with the library `datasets`, the Hub id or folder of a
            data set, with the name of its column behind a colon where that is not `text` (`user/reviews:comment`).
        samples: How many.

    Raises:
        ValueError: It can't be read, or has no such field. The message is one line.
    """
    name = os.path.expanduser(source)
    if os.path.isfile(name):
        return _sample(_lines(Path(name)), samples)
    return list(itertools.islice(_unique(_dataset(name)), samples))


def _lines(path: Path) -> Iterator[Text]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from READERS.get(path.suffix, _plain)(file, str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start} of a block)") from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path}: can't be read ({error})") from error


def _bounded(file: TextIO, where: str) -> Iterator[str]:
    for number, line in enumerate(iter(functools.partial(file.readline, LINE_LIMIT), ""), start=1):
        if len(line) == LINE_LIMIT:
            raise ValueError(f"{where}, line {number}: longer than {LINE_LIMIT} characters; one text a line")
        yield line


def _plain(file: TextIO, where: str) -> Iterator[Text]:
    return (line.strip() for line in _bounded(file, where))


def _table(file: TextIO, where: str, **dialect) -> Iterator[Text]:
    rows = csv.DictReader(_bounded(file, where), **dialect)
    return (_text(row, f"{where}, line {rows.line_num}") for row in rows)


def _json_lines(file: Iterable[str], where: str) -> Iterator[Text]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _text(_json(line, f"{where}, line {number}"), f"{where}, line {number}")


def _json_list(file: TextIO, where: str) -> Iterator[Text]:
    """A list of objects or of texts; also objects one a line, which many files of that name hold."""
    text = file.read(JSON_LIMIT + 1)
    if len(text) > JSON_LIMIT:
        raise ValueError(f"{where}: longer than {JSON_LIMIT} characters; a .jsonl, one object a line, may be")
    if not text.lstrip().startswith("["):
        return _json_lines(text.splitlines(), where)
    return (_text(row, f"{where}, entry {number}") for number, row in enumerate(_json(text, where), start=1))


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error


READERS: dict[str, Callable[[TextIO, str], Iterator[Text]]] = {
    ".txt": _plain,
    ".tsv": functools.partial(_table, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".csv": _table,
    ".jsonl": lambda file, where: _json_lines(_bounded(file, where), where),
    ".json": _json_list,
}


def _text(row: object, where: str, column: str = "text") -> Text:
    if isinstance(row, str):
        return row.strip()
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(row).__name__}")
    if not isinstance(row.get(column), str):
        fields = ", ".join(str(field) for field in row)
        raise ValueError(f"{where}: expected a text in the field {column!r}; its fields: {fields[:200]}")
    text, pair = row[column].strip(), row.get("text_pair")
    return (text, pair.strip()) if isinstance(pair, str) and pair.strip() else text


def _dataset(name: str) -> Iterator[Text]:
    whole, column = name, ""
    if not os.path.isdir(whole) and ":" in whole:
        name, _, column = whole.rpartition(":")
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{name}: no such file; for a data set, run `pip install datasets` first") from error
    try:
        if os.path.isdir(name) and {"state.json", "dataset_dict.json"}.intersection(os.listdir(name)):
            rows = datasets.load_from_disk(name)
        else:
            rows = datasets.load_dataset(name, streaming=True)
        if isinstance(rows, dict):
            rows = rows["train"] if "train" in rows else next(iter(rows.values()))
        for number, row in enumerate(rows.shuffle(seed=0), start=1):
            yield _text(row, f"{name}, row {number}", column or "text")
    except (OSError, RuntimeError, ValueError) as error:  # not found, not reached, or nothing in it that can be read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: no such file, nor a data set that can be read ({reason})") from error


def _unique(texts: Iterable[Text]) -> Iterator[Text]:
    """Without empty ones, and without repetitions: a text that judges must not have been fitted to."""
    seen = set()
    for text in texts:
        if text and text not in seen:
            seen.add(text)
            yield text


def _sample(texts: Iterable[Text], samples: int) -> list[Text]:
    """A reservoir (Vitter 1985, algorithm R): the file may be larger than the memory."""
    chosen, generator = [], random.Random(0)
    for number, text in enumerate(filter(None, texts)):
        if number < samples:
            chosen.append(text)
        elif (place := generator.randrange(number + 1)) < samples:
            chosen[place] = text
    return list(_unique(chosen))


def check_texts(texts: Sequence[Text]) -> None:
    """Raises ValueError where there are too few to fit anything."""
    if len(texts) < FEWEST_TEXTS:
        raise ValueError(f"{len(texts)} different texts; at least {FEWEST_TEXTS} are needed, and 2,000 are better")


def digest(texts: Sequence[Text]) -> str:
    """The sha256 of the texts, one line of JSON each."""
    sha256 = hashlib.sha256()
    for text in texts:
        sha256.update(json.dumps(text, ensure_ascii=False).encode("utf-8", errors="surrogatepass") + b"\n")
    return sha256.hexdigest()


@dataclasses.dataclass(frozen=True)
class Readings:
    """Texts, each tokenized once by each tokenizer."""

    texts: list[Text]
    rows: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]  # the adapted model's, the donor's
    notes: list[str]

    def check_sizes(self, side: int, vocab_size: int, type_vocab_size: int, whose: str) -> None:
        """Raises ValueError where a token or a token type has no embedding in the model of that side."""
        for name, size in (("input_ids", vocab_size), ("token_type_ids", type_vocab_size)):
            largest = max((int(row[side][name].max()) for row in self.rows if name in row[side]), default=0)
            if largest >= size:
                raise ValueError(
                    f"its tokenizer gives {name} up to {largest}, and {whose} has embeddings for {size}: they do not "
                    "belong together"
                )


def read_with_both(tokenizers: Sequence, texts: Sequence[Text], max_length: int) -> Readings:
    """Tokenizes the texts for both models; those that read the same once they are cut to length count once.

    Raises:
        ValueError: A text can't be read; the tokenizers read one differently, although neither has tokens that the
            other lacks, or number the same tokens differently; or there are too few texts.
    """
    ours, theirs = (tokenizer.get_vocab() for tokenizer in tokenizers)
    notes = [] if ours == theirs else [_compare_vocabularies(ours, theirs)]
    alone = tokenizers[0] is tokenizers[1]
    rows: dict[bytes, tuple[Text, tuple]] = {}
    for number, text in enumerate(texts, start=1):
        first = _tokenized(tokenizers[0], text, max_length, number)
        second = first if alone else _tokenized(tokenizers[1], text, max_length, number)
        if ours == theirs and not np.array_equal(first["input_ids"], second["input_ids"]):
            pairs = zip(first["input_ids"], second["input_ids"], strict=False)
            place = next((at for at, ids in enumerate(pairs) if len(set(ids)) > 1), 0)
            one, other = (
                " ".join(tokenizer.convert_ids_to_tokens(row["input_ids"][place : place + 3].tolist()))
                for tokenizer, row in zip(tokenizers, (first, second), strict=True)
            )
            raise ValueError(
                f"the tokenizers of checkpoint and donor read text {number} differently: from token {place} on, "
                f"{one!r} against {other!r}; is one of them of another model, or is only one of them lower-casing?"
            )
        rows.setdefault(b"".join(it.tobytes() for it in first.values()), (text, (first, second)))
    kept = [text for text, _ in rows.values()]
    check_texts(kept)
    return Readings(kept, [row for _, row in rows.values()], notes)


def _compare_vocabularies(ours: dict[str, int], theirs: dict[str, int]) -> str:
    moved = sorted(token for token in ours.keys() & theirs.keys() if ours[token] != theirs[token])
    if moved:
        raise ValueError(
            f"the tokenizers of checkpoint and donor number {len(moved)} of the same tokens differently "
            f"({moved[0]!r}: {ours[moved[0]]} against {theirs[moved[0]]}); one of them belongs to another model"
        )
    added, gone = len(ours.keys() - theirs.keys()), len(theirs.keys() - ours.keys())
    return f"the vocabulary has {added} tokens more and {gone} fewer than the donor's: each has its own tokenizer"


def _tokenized(tokenizer, text: Text, max_length: int, number: int) -> dict[str, np.ndarray]:
    parts = (text,) if isinstance(text, str) else text
    try:
        row = tokenizer(*parts, truncation=True, max_length=max_length)
    except (TypeError, UnicodeError) as error:  # half of a surrogate pair, say
        raise ValueError(f"text {number} can't be tokenized: {text!r:.80}") from error
    return {name: np.asarray(row[name], np.int32) for name in TOKENIZED if name in row}
