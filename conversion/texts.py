# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Unlabelled texts for `--calibrate`: read, sampled, hashed, and tokenized for two models."""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import heapq
import itertools
import json
import operator
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from .errors import first_line

FEWEST_TEXTS = 100  # measured (docs/fidelity.md): with 50, the fit was worse than none
LINE_LIMIT = 1 << 24  # characters of one line
TOKENIZED = ("input_ids", "attention_mask", "token_type_ids")
# Files that `datasets` reads, by the name of its builder; anything else is taken for text, one a line.
BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".parquet": "parquet", ".arrow": "arrow"}
CSV_OPTIONS = {"keep_default_na": False}  # "NA" and "null" are texts
TSV_OPTIONS = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, **CSV_OPTIONS}

Text = str | tuple[str, str]


def split_column(source: str | os.PathLike) -> tuple[str, str]:
    """The file, folder or dataset, and the name of its column: `reviews.csv:comment`. The column is "" by default."""
    name = os.path.expanduser(source)
    head, _, column = name.rpartition(":")
    is_drive = len(head) == 1  # C:\texts.txt
    return (head, column) if head and not is_drive and not os.path.exists(name) else (name, "")


def check_source(source: str | os.PathLike) -> None:
    """Raises ValueError, in one line, for what can be seen at once: no such file, an unreadable first text."""
    name, column = split_column(source)
    if os.path.isfile(name):
        next(_file(Path(name), column), None)
    elif os.path.lexists(name) and not os.path.isdir(name):
        raise ValueError("not a file; write the texts into one")
    elif not os.path.isdir(name):
        known = {".txt", ".jsonl", *BUILDERS}
        if Path(name).suffix in known or re.match(r"[./~\\]|.*/.*/|\w:", name):
            raise ValueError("no such file")


def read_texts(source: str | os.PathLike, samples: int) -> list[Text]:
    """At most `samples` different texts, chosen at random, the same ones each time.

    Args:
        source: A text file with one text a line, or a `.jsonl` file with `text` and, for pairs, `text_pair`.
            With the library `datasets` also `.csv`, `.tsv`, `.json`, `.parquet` and `.arrow` files, and the Hub id or
            the folder of a dataset. A column that is not named `text` follows after a colon (`user/reviews:comment`).
        samples: How many.

    Raises:
        ValueError: It can't be read, or has no such field. The message is one line.
    """
    name, column = split_column(source)
    if os.path.isfile(name):
        return _sample(_file(Path(name), column), samples)
    rows = _dataset(name, column, shuffled=True)
    return list(itertools.islice(_unique(rows), samples))


def _file(path: Path, column: str) -> Iterator[Text]:
    if path.suffix in BUILDERS:
        yield from _dataset(str(path), column)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(iter(functools.partial(file.readline, LINE_LIMIT), ""), start=1):
                if len(line) == LINE_LIMIT:
                    raise ValueError(f"line {number} is longer than {LINE_LIMIT} characters; expected one text a line")
                if path.suffix != ".jsonl":
                    yield line.strip()
                elif line.strip():
                    yield _text(_json(line, f"line {number}"), f"line {number}", column)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start} of a block)") from error
    except OSError as error:
        raise ValueError(f"can't be read ({error.strerror})") from error


def _json(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error


def _text(row: object, where: str, column: str) -> Text:
    if isinstance(row, str) and not column:
        return row.strip()
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(row).__name__}")
    name = column or "text"
    if name not in row:
        fields = ", ".join(str(field) for field in row)
        raise ValueError(f"{where}: expected a text in the field {name!r}; its fields: {fields[:200]}")
    if not isinstance(row[name], str):
        raise ValueError(f"{where}: expected a text in the field {name!r}, found {type(row[name]).__name__}")
    text, pair = row[name].strip(), row.get("text_pair")
    return (text, pair.strip()) if isinstance(pair, str) and pair.strip() else text


def _dataset(name: str, column: str, shuffled: bool = False) -> Iterator[Text]:
    for number, row in enumerate(_rows(name, shuffled), start=1):
        yield _text(row, f"row {number}", column)


def _rows(name: str, shuffled: bool) -> Iterator[object]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError("not a .txt or .jsonl file; to read anything else, run `pip install datasets`") from error
    suffix = Path(name).suffix
    try:
        if os.path.isdir(name) and {"state.json", "dataset_dict.json"}.intersection(os.listdir(name)):
            rows = datasets.load_from_disk(name)
        elif os.path.isfile(name):
            options = {".csv": CSV_OPTIONS, ".tsv": TSV_OPTIONS}.get(suffix, {})
            rows = datasets.load_dataset(BUILDERS[suffix], data_files=name, streaming=True, **options)
        else:
            rows = datasets.load_dataset(name, streaming=True)
        if isinstance(rows, dict):
            rows = rows["train"] if "train" in rows else next(iter(rows.values()))
        yield from rows.shuffle(seed=0) if shuffled else rows
    except Exception as error:  # not found, not reached, or nothing in it that can be read: datasets has many errors
        what = "can't be read" if os.path.exists(name) else "no such file, nor a dataset that can be read"
        raise ValueError(f"{what} ({first_line(error)})") from error


def _unique(texts: Iterable[Text]) -> Iterator[Text]:
    """Without empty texts and without repetitions: a text in the held-out fold must not be in the others."""
    seen = set()
    for text in texts:
        if text and text not in seen:
            seen.add(text)
            yield text


def _sample(texts: Iterable[Text], samples: int) -> list[Text]:
    """Those with the smallest random numbers, in their order: the file may be larger than the memory."""
    generator = random.Random(0)
    drawn = ((generator.random(), number, text) for number, text in enumerate(texts) if text)
    chosen = sorted(heapq.nsmallest(samples, drawn), key=operator.itemgetter(1))
    return list(_unique(text for *_, text in chosen))


@dataclasses.dataclass(frozen=True)
class Readings:
    """Texts, each tokenized once by each tokenizer."""

    texts: list[Text]
    rows: list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]  # the adapted model's, the donor's
    notes: list[str]

    @functools.cached_property
    def sha256(self) -> str:
        """Of the texts, one line of JSON each."""
        sha256 = hashlib.sha256()
        for text in self.texts:
            sha256.update(json.dumps(text, ensure_ascii=False).encode("utf-8", errors="surrogatepass") + b"\n")
        return sha256.hexdigest()

    def check_sizes(self, side: int, vocab_size: int, type_vocab_size: int, whose: str) -> None:
        """Raises ValueError where a token or a token type has no embedding in the model of that side."""
        for name, size in (("input_ids", vocab_size), ("token_type_ids", type_vocab_size)):
            largest = max((int(row[side][name].max()) for row in self.rows if name in row[side]), default=0)
            if largest >= size:
                raise ValueError(
                    f"its tokenizer gives {name} up to {largest}, and {whose} has embeddings for {size}: they do not "
                    "belong together"
                )


def tokenize_with_both(tokenizers: Sequence, texts: Sequence[Text], max_length: int) -> Readings:
    """Tokenizes the texts for both models; texts with the same tokens once they are truncated count as one.

    Raises:
        ValueError: A text can't be tokenized; the tokenizers give different tokens for one, although their vocabulary
            is the same, or number the same tokens differently; or there are too few texts.
    """
    ours, theirs = (tokenizer.get_vocab() for tokenizer in tokenizers)
    notes = [] if ours == theirs else [_compare_vocabularies(ours, theirs)]
    rows: dict[bytes, tuple[Text, tuple]] = {}
    for number, text in enumerate(texts, start=1):
        first = _tokenized(tokenizers[0], text, max_length, number)
        second = first if tokenizers[1] is tokenizers[0] else _tokenized(tokenizers[1], text, max_length, number)
        if ours == theirs and not np.array_equal(first["input_ids"], second["input_ids"]):
            raise ValueError(_first_difference(tokenizers, (first, second), number))
        rows.setdefault(b"".join(it.tobytes() for it in first.values()), (text, (first, second)))
    if len(rows) < FEWEST_TEXTS:
        raise ValueError(f"{len(rows)} different texts; at least {FEWEST_TEXTS} are needed, and 2,000 are better")
    return Readings([text for text, _ in rows.values()], [row for _, row in rows.values()], notes)


def _first_difference(tokenizers: Sequence, rows: Sequence[dict], number: int) -> str:
    pairs = zip(*(row["input_ids"] for row in rows), strict=False)
    place = next((at for at, ids in enumerate(pairs) if len(set(ids)) > 1), 0)
    one, other = (
        " ".join(tokenizer.convert_ids_to_tokens(row["input_ids"][place : place + 3].tolist()))
        for tokenizer, row in zip(tokenizers, rows, strict=True)
    )
    return (
        f"the tokenizers of checkpoint and donor tokenize text {number} differently: from token {place} on, {one!r} "
        f"against {other!r}; is one of them of another model, or is only one of them lower-casing?"
    )


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
    except (TypeError, UnicodeError) as error:  # half of a surrogate pair, for example
        raise ValueError(f"text {number} can't be tokenized: {text!r:.80}") from error
    return {name: np.asarray(row[name], np.int32) for name in TOKENIZED if name in row}
