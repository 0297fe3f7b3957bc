# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Refits the original pooler to the encoder that continued pre-training has moved: in closed form, without labels.

On unlabelled texts, the pooler output of the adapted model is fitted to that of the original model. With `H` the
adapted encoder's final [CLS] states and a column of ones, `W0` the original pooler's [weight | bias], and `Z0` the
original model's pooled vectors before the tanh, on the same `n` texts, ridge regression (Hoerl & Kennard 1970,
https://doi.org/10.1080/00401706.1970.10488634) shrinks towards `W0`, not towards zero:

    W = W0 + argmin_D  ||Z0 - H W0' - H D'||^2 / n  +  penalty * mean(H^2) * ||D||^2

Four of five folds fit `D` and choose the penalty by cross-validation; it is evaluated on the fifth, held-out fold. If
it is better there than the original pooler, it is made once more on all texts, with the same penalty.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tqdm import tqdm

from .texts import TOKENIZED, Readings, Text, tokenize_with_both

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-16, 5))  # 1e-8 to 100
FOLDS = 5  # the last one is held out
WINDOW = 64  # batches that are sorted by length together


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The result of a fit; the texts themselves are not in it."""

    improved: bool  # whether the new pooler was taken
    texts: int  # all of them
    held_out: int  # those in the held-out fold
    sha256: str  # of the texts
    penalty: float
    cosine_before: float  # between the two models' pooler_output, mean over the held-out fold
    cosine_after: float
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        change = f"cosine to the original model's pooler_output {self.cosine_before:.4f} -> {self.cosine_after:.4f}"
        kept = "" if self.improved else "; no better, so the original pooler stays"
        return f"{change} on {self.held_out} held-out of {self.texts} texts (penalty {self.penalty:.2g}){kept}"


def _states(encoders: Sequence, rows: Sequence[tuple], batch_size: int) -> Iterator[list[np.ndarray]]:
    """For each batch and each encoder: the final [CLS] states and a column of ones, `(rows, hidden_size + 1)`."""
    window = WINDOW * batch_size
    for start in range(0, len(rows), window):
        near = sorted(rows[start : start + window], key=lambda row: len(row[0]["input_ids"]))  # less padding
        for batch in (near[at : at + batch_size] for at in range(0, len(near), batch_size)):
            yield [_encode(encoder, side) for encoder, side in zip(encoders, zip(*batch, strict=True), strict=True)]


def _encode(encoder, rows: Sequence[dict]) -> np.ndarray:
    import torch

    def padded(name: str) -> torch.Tensor:
        columns = [torch.from_numpy(row[name]).long() for row in rows]
        # Padded with zeros: whatever token that is, nothing attends to it.
        return torch.nn.utils.rnn.pad_sequence(columns, batch_first=True).to(encoder.device)

    with torch.inference_mode():
        batch = {name: padded(name) for name in TOKENIZED if name in rows[0]}
        # float64 on the CPU, since Apple's devices have none.
        states = encoder(**batch).last_hidden_state[:, 0].cpu().double().numpy()
    return np.pad(states, ((0, 0), (0, 1)), constant_values=1.0)


# --- The fit ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Moments:
    """All that the fit needs of any number of texts: sums over them, float64."""

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
        """The value added to the diagonal of `gram`."""
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


def _fit(parts: Sequence[_Moments], penalty: float) -> np.ndarray:
    """The change of [weight | bias], `(hidden_size, hidden_size + 1)`."""
    moments = functools.reduce(operator.add, parts)
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
    """Refits the pooler of `adapted` in place, so that its output for the texts is close to that of `donor`.

    It starts from the donor's pooler. Where the fit is no better on the held-out fold, `adapted` is not changed. The
    states are summed up in float64 batch by batch, so memory does not grow with the number of texts.

    Args:
        adapted: A BERT with a pooler, any class of transformers or of this package, after continued pre-training.
        donor: The BERT that its training started from. Neither model is moved to another device.
        tokenizer: The tokenizer of `adapted`.
        texts: Unlabelled texts, or pairs of texts, like those that the pooler will be used on.
        donor_tokenizer: The donor's; default: the same one.
        max_length: Tokens of a text at most.
        batch_size: Texts that are encoded at once.
        progress: Print to stderr how long it will take, and show a bar.

    Returns:
        The result, with the cosines before and after.

    Raises:
        ValueError: A model has no pooler, the hidden sizes differ, there are too few texts, they are too long, or the
            two tokenizers don't match.
    """
    tokenizers = [tokenizer, donor_tokenizer or tokenizer]
    for model, name in ((adapted.base_model, "adapted"), (donor.base_model, "donor")):
        longest = model.config.max_position_embeddings
        if max_length > longest:
            raise ValueError(f"max_length is {max_length}; the {name} model reads {longest} tokens at most")
    readings = tokenize_with_both(tokenizers, texts, max_length)
    return fit_pooler(adapted, donor, readings, batch_size=batch_size, progress=progress)


def fit_pooler(adapted, donor, readings: Readings, *, batch_size: int, progress: bool) -> Calibration:
    """`calibrate_pooler`, on texts that have been tokenized."""
    encoders = [adapted.base_model, donor.base_model]
    for side, (model, name) in enumerate(zip(encoders, ("adapted", "donor"), strict=True)):
        if getattr(model, "pooler", None) is None:
            raise ValueError(f"the {name} model has no pooler: load it with one")
        readings.check_sizes(side, model.config.vocab_size, model.config.type_vocab_size, f"the {name} model")
    dense, original = (encoder.pooler.dense for encoder in encoders)
    if dense.weight.shape != original.weight.shape:
        sizes = " and ".join(str(len(it.weight)) for it in (dense, original))
        raise ValueError(f"the two models have different hidden sizes: {sizes}")
    rows, notes = readings.rows, list(readings.notes)
    if len(rows) < 2 * len(dense.weight):
        notes.append(f"{len(rows)} texts are few for a hidden size of {len(dense.weight)}: more would fit better")
    before = _as_array(original)
    folds, held_out = [rows[number::FOLDS] for number in range(FOLDS - 1)], rows[FOLDS - 1 :: FOLDS]
    with _in_evaluation(encoders), tqdm(total=len(rows), unit=" texts", disable=None if progress else True) as bar:
        states = functools.partial(_states, encoders, batch_size=batch_size)
        if progress:
            _print_duration(states, rows, batch_size, encoders[0].device)
        moments = [_summed(states(fold), before, bar) for fold in folds]
        if not all(np.isfinite(it.gram).all() and np.isfinite(it.cross).all() for it in moments):
            raise ValueError("the encoders' states are not finite on these texts: one of the checkpoints is damaged")
        penalty = _choose_penalty(moments)
        fitted, cosines = _rounded(before + _fit(moments, penalty), dense), np.zeros(2)
        for ours, theirs in states(held_out):
            target = np.tanh(theirs @ before.T)
            cosines += [_cosines(np.tanh(ours @ it.T), target).sum() for it in (before, fitted)]
            moments[-1] += _Moments.of(ours, (theirs - ours) @ before.T)
            bar.update(len(ours))
    cosine_before, cosine_after = (cosines / len(held_out)).tolist()
    improved = cosine_after > cosine_before
    if improved:  # on all texts, now that the held-out fold has confirmed it
        _store(before + _fit(moments, penalty), dense)
    return Calibration(
        improved, len(rows), len(held_out), readings.sha256, penalty, cosine_before, cosine_after, notes
    )


def _as_array(dense) -> np.ndarray:
    """[weight | bias], float64."""
    import torch

    return torch.cat([dense.weight.detach(), dense.bias.detach()[:, None]], 1).cpu().double().numpy()


def _store(values: np.ndarray, dense) -> None:
    import torch

    with torch.no_grad():
        dense.weight.copy_(torch.from_numpy(values[:, :-1]))
        dense.bias.copy_(torch.from_numpy(values[:, -1]))


def _rounded(values: np.ndarray, dense) -> np.ndarray:
    """`values` in the dtype of `dense`."""
    import torch

    return torch.from_numpy(values).to(dense.weight.dtype).double().numpy()


def _summed(batches: Iterator[list[np.ndarray]], before: np.ndarray, bar: tqdm) -> _Moments:
    moments: list[_Moments] = []
    for ours, theirs in batches:
        moments = [functools.reduce(operator.add, [*moments, _Moments.of(ours, (theirs - ours) @ before.T)])]
        bar.update(len(ours))
    return moments[0]


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Row by row."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(1) / np.maximum(lengths, np.finfo(float).tiny)


@contextlib.contextmanager
def _in_evaluation(models) -> Iterator[None]:
    """Without dropout; afterwards each model is in the mode that it was in."""
    training = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, was in zip(models, training, strict=True):
            model.train(was)


def _print_duration(states: Callable, rows: Sequence, batch_size: int, device) -> None:
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        next(states(rows[:batch_size]))
    seconds = (time.perf_counter() - began) * len(rows) / min(batch_size, len(rows))
    length = f"{seconds / 60:.0f} min" if seconds > 90 else f"{max(seconds, 1):.0f} s"
    print(f"calibrating on {len(rows)} texts, on {device}: about {length}", file=sys.stderr, flush=True)
