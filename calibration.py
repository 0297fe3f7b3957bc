# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Refits the original pooler to the encoder that continued pre-training has moved: in closed form, without labels.

On unlabelled texts, the adapted encoder's pooled vector is made to say what the original model's said. With `H` the
adapted encoder's final [CLS] states and a column of ones, `W0` the original pooler's [weight | bias], and `Z0` the
original model's pooled vectors before the tanh, on the same `n` texts, ridge regression (Hoerl & Kennard 1970,
https://doi.org/10.1080/00401706.1970.10488634) shrinks towards `W0`, not towards zero:

    W = W0 + argmin_D  ||Z0 - H W0' - H D'||^2 / n  +  penalty * mean(H^2) * ||D||^2

Of every five texts, four fit `D` and choose the penalty by cross-validation; the fifth judges what came out. If it is
better than what was there, the fit is made once more on all of them, with the same penalty.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import hashlib
import itertools
import json
import operator
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

__all__ = ["Calibration", "calibrate_pooler", "check_tokenizers", "read_texts"]

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-16, 5))  # 1e-8 to 100
FOLDS = 5  # the last one judges, the others fit
FEWEST_TEXTS = 100  # measured (docs/calibration.md): with 50, the fit was worse than none
WINDOW = 64  # batches that are sorted by length together

Text = str | tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What a fit found; the texts themselves are not in it."""

    improved: bool  # whether the new pooler was taken
    texts: int  # all of them
    held_out: int  # those of them that judged
    sha256: str  # of the texts
    penalty: float
    cosine_before: float  # between the original model's pooler_output and ours on the held-out texts: their mean
    cosine_after: float
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        change = f"cosine to the original model's pooler_output {self.cosine_before:.4f} -> {self.cosine_after:.4f}"
        kept = "" if self.improved else "; no better, so the original pooler stays"
        return f"{change} on {self.held_out} held-out of {self.texts} texts (penalty {self.penalty:.2g}){kept}"


# --- The texts -------------------------------------------------------------------------------------------------------


def read_texts(source: str | os.PathLike, samples: int) -> list[Text]:
    """At most `samples` different texts, chosen at random, the same ones each time.

    Args:
        source: A text file with one text a line; a `.tsv` (with a header) or `.jsonl` file with the fields `text` and,
            for pairs, `text_pair`; or, with the library `datasets`, the Hub id or folder of a data set, with the name
            of its column behind a colon where that is not `text` (`user/reviews:comment`).
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
            if path.suffix == ".tsv":
                rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                yield from (_text(row, f"{path}, line {rows.line_num}") for row in rows)
            elif path.suffix == ".jsonl":
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _text(_json(line, f"{path}, line {number}"), f"{path}, line {number}")
            else:
                yield from (line.strip() for line in file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start} of a block)") from error
    except (OSError, csv.Error) as error:
        raise ValueError(f"{path}: can't be read ({error})") from error


def _json(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _text(row: dict, where: str, column: str = "text") -> Text:
    if not isinstance(row.get(column), str):
        fields = ", ".join(str(field) for field in row)
        raise ValueError(f"{where}: expected a text in the field {column!r}; its fields: {fields[:200]}")
    text, pair = row[column].strip(), row.get("text_pair")
    return (text, pair.strip()) if isinstance(pair, str) and pair.strip() else text


def _dataset(name: str) -> Iterator[Text]:
    name, _, column = name.partition(":") if not os.path.isdir(name) else (name, "", "")
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


def check_tokenizers(adapted, donor, texts: Sequence[Text]) -> list[str]:
    """Whether two tokenizers may be used side by side; what the report should say about it.

    Raises:
        ValueError: They read the texts differently, although neither has tokens that the other lacks; or they number
            the same tokens differently.
    """
    ours, theirs = adapted.get_vocab(), donor.get_vocab()
    if ours == theirs:
        for number, text in enumerate(texts, start=1):
            pair = (text,) if isinstance(text, str) else text
            if (one := adapted(*pair)["input_ids"]) != (other := donor(*pair)["input_ids"]):
                place = next((at for at, ids in enumerate(zip(one, other, strict=False)) if len(set(ids)) > 1), 0)
                raise ValueError(
                    f"the tokenizers of checkpoint and donor read text {number} differently: from token {place} on, "
                    f"{' '.join(adapted.convert_ids_to_tokens(one[place : place + 3]))!r} against "
                    f"{' '.join(donor.convert_ids_to_tokens(other[place : place + 3]))!r}; is one of them of another "
                    "model, or is only one of them lower-casing?"
                )
        return []
    moved = sorted(token for token in ours.keys() & theirs.keys() if ours[token] != theirs[token])
    if moved:
        raise ValueError(
            f"the tokenizers of checkpoint and donor number {len(moved)} of the same tokens differently "
            f"({moved[0]!r}: {ours[moved[0]]} against {theirs[moved[0]]}); one of them belongs to another model"
        )
    added, gone = len(ours.keys() - theirs.keys()), len(theirs.keys() - ours.keys())
    return [f"the vocabulary has {added} tokens more and {gone} fewer than the donor's: each has its own tokenizer"]


# --- The states ------------------------------------------------------------------------------------------------------


def _states(
    encoders, tokenizers, texts: Sequence[Text], max_length: int, batch_size: int
) -> Iterator[list[np.ndarray]]:
    """Of each batch, for each encoder: the final [CLS] states and a column of ones, `(rows, hidden_size + 1)`."""
    window = WINDOW * batch_size
    for start in range(0, len(texts), window):
        read = [
            [
                tokenizer(*((text,) if isinstance(text, str) else text), truncation=True, max_length=max_length)
                for tokenizer in tokenizers
            ]
            for text in texts[start : start + window]
        ]
        read.sort(key=lambda row: len(row[0]["input_ids"]))  # less padding
        for batch in (read[at : at + batch_size] for at in range(0, len(read), batch_size)):
            sides = zip(encoders, tokenizers, zip(*batch, strict=True), strict=True)
            yield [_encode(encoder, rows, tokenizer.pad_token_id or 0) for encoder, tokenizer, rows in sides]


def _encode(encoder, rows: Sequence[dict], padding: int) -> np.ndarray:
    import torch

    def padded(name: str, value: int) -> torch.Tensor:
        columns = [torch.tensor(row[name]) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=value).to(encoder.device)

    values = {"input_ids": padding, "attention_mask": 0, "token_type_ids": 0}
    with torch.inference_mode():
        batch = {name: padded(name, value) for name, value in values.items() if name in rows[0]}
        states = encoder(**batch).last_hidden_state[:, 0].double().cpu().numpy()
    return np.pad(states, ((0, 0), (0, 1)), constant_values=1.0)


# --- The fit ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Moments:
    """All that the fit needs to know of any number of texts: sums over them, float64."""

    count: int
    gram: np.ndarray  # H'H, (hidden_size + 1, hidden_size + 1)
    cross: np.ndarray  # R'H with the residuals R = Z0 - H W0', (hidden_size, hidden_size + 1)
    square: float  # ||R||^2

    @classmethod
    def of(cls, states: np.ndarray, residuals: np.ndarray) -> _Moments:
        return cls(len(states), states.T @ states, residuals.T @ states, float((residuals**2).sum()))

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(*(getattr(self, it.name) + getattr(other, it.name) for it in dataclasses.fields(self)))

    def ridge(self, penalty: float) -> float:
        """What is added to the diagonal of `gram`."""
        return penalty * float(np.trace(self.gram)) / len(self.gram)


def _choose_penalty(folds: Sequence[_Moments]) -> float:
    """The penalty with the smallest error on the texts of the fold that each fit leaves out."""
    errors = np.zeros(len(PENALTIES))
    for left_out, fold in enumerate(folds):
        others = [other for number, other in enumerate(folds) if number != left_out]
        fitted = functools.reduce(operator.add, others)
        values, vectors = np.linalg.eigh(fitted.gram)
        cross, gram, target = fitted.cross @ vectors, vectors.T @ fold.gram @ vectors, fold.cross @ vectors
        for number, penalty in enumerate(PENALTIES):
            change = cross / (np.maximum(values, 0) + fitted.ridge(penalty))
            errors[number] += fold.square - 2 * (change * target).sum() + ((change @ gram) * change).sum()
    return PENALTIES[int(errors.argmin())]


def _fit(moments: _Moments, penalty: float) -> np.ndarray:
    """The change of [weight | bias], `(hidden_size, hidden_size + 1)`."""
    ridge = np.eye(len(moments.gram)) * moments.ridge(penalty)
    return np.linalg.solve(moments.gram + ridge, moments.cross.T).T


def calibrate_pooler(
    adapted,
    donor,
    tokenizer,
    texts: Sequence[Text],
    *,
    donor_tokenizer=None,
    max_length: int = 128,
    batch_size: int = 32,
    progress: bool = False,
) -> Calibration:
    """Refits the pooler of `adapted` in place, so that it says of the texts what the pooler of `donor` says.

    It starts from the donor's pooler. Where the fit is no better on texts that it has not seen, `adapted` is left as
    it is. The states are summed up in float64 batch by batch: memory does not grow with the number of texts.

    Args:
        adapted: A BERT with a pooler, any class of transformers or of this package, after continued pre-training.
        donor: The BERT that its training started from. Neither model is moved to another device.
        tokenizer: The tokenizer of `adapted`.
        texts: Unlabelled texts, or pairs of texts, like those that the pooler is going to be used on.
        donor_tokenizer: The donor's; default: the same one.
        max_length: Tokens of a text at most.
        batch_size: Texts that are encoded at once.
        progress: Say on stderr how long it is going to take, and show a bar.

    Returns:
        What the fit found, with the cosines that it was judged by.

    Raises:
        ValueError: A model has no pooler, the hidden sizes differ, there are too few texts, they are too long, or the
            two tokenizers don't go together.
    """
    import torch

    encoders, tokenizers = [adapted.base_model, donor.base_model], [tokenizer, donor_tokenizer or tokenizer]
    for model, name in zip(encoders, ("adapted", "donor"), strict=True):
        if getattr(model, "pooler", None) is None:
            raise ValueError(f"the {name} model has no pooler: load it with one")
        longest = model.config.max_position_embeddings
        if max_length > longest:
            raise ValueError(f"texts of {max_length} tokens: the {name} model reads {longest} at most")
    dense, original = (encoder.pooler.dense for encoder in encoders)
    if dense.weight.shape != original.weight.shape:
        sizes = " and ".join(str(len(it.weight)) for it in (dense, original))
        raise ValueError(f"the two models have different hidden sizes: {sizes}")
    check_texts(texts)
    notes = check_tokenizers(*tokenizers, texts) if donor_tokenizer is not None else []
    if len(texts) < 2 * len(dense.weight):
        notes.append(f"{len(texts)} texts are few for a hidden size of {len(dense.weight)}: more would fit better")

    def as_array(weight, bias) -> np.ndarray:
        return torch.cat([weight.detach(), bias.detach()[:, None]], 1).double().cpu().numpy()

    def solved(moments: Sequence[_Moments]) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias as they are going to be stored."""
        after = torch.from_numpy(before + _fit(functools.reduce(operator.add, moments), penalty))
        return after[:, :-1].to(dense.weight), after[:, -1].to(dense.bias)

    before = as_array(original.weight, original.bias)
    folds, held_out = [texts[number::FOLDS] for number in range(FOLDS - 1)], texts[FOLDS - 1 :: FOLDS]
    with _in_evaluation(encoders), tqdm(total=len(texts), unit=" texts", disable=None if progress else True) as bar:
        states = functools.partial(_states, encoders, tokenizers, max_length=max_length, batch_size=batch_size)
        if progress:
            _foretell(states, texts, batch_size, encoders[0].device)
        moments = []
        for fold in folds:
            parts = []
            for ours, theirs in states(fold):
                parts = [functools.reduce(operator.add, [*parts, _Moments.of(ours, (theirs - ours) @ before.T)])]
                bar.update(len(ours))
            moments += parts
        if not all(np.isfinite(it.gram).all() and np.isfinite(it.cross).all() for it in moments):
            raise ValueError("the encoders' states are not finite on these texts: one of the checkpoints is damaged")
        penalty = _choose_penalty(moments)
        judged, cosines = as_array(*solved(moments)), np.zeros(2)
        for ours, theirs in states(held_out):
            target = np.tanh(theirs @ before.T)
            cosines += [_cosines(np.tanh(ours @ it.T), target).sum() for it in (before, judged)]
            moments[-1] += _Moments.of(ours, (theirs - ours) @ before.T)
            bar.update(len(ours))
    cosine_before, cosine_after = (cosines / len(held_out)).tolist()
    improved = cosine_after > cosine_before
    if improved:
        weight, bias = solved(moments)  # of all texts, now that those held out have said yes
        with torch.no_grad():
            dense.weight.copy_(weight)
            dense.bias.copy_(bias)
    return Calibration(improved, len(texts), len(held_out), digest(texts), penalty, cosine_before, cosine_after, notes)


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


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Row by row."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / np.maximum(lengths, np.finfo(float).tiny)


@contextlib.contextmanager
def _in_evaluation(models) -> Iterator[None]:
    """Without dropout; a model that is being trained is given back as it was."""
    training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, was in zip(models, training, strict=True):
            model.train(was)


def _foretell(states, texts: Sequence[Text], batch_size: int, device) -> None:
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        next(states(texts[:batch_size]))
    seconds = (time.perf_counter() - began) * len(texts) / min(batch_size, len(texts))
    length = f"{seconds / 60:.0f} min" if seconds > 90 else f"{max(seconds, 1):.0f} s"
    print(f"calibrating on {len(texts)} texts, on {device}: about {length}", file=sys.stderr, flush=True)
