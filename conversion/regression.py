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
import hashlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.nn.functional import cosine_similarity, normalize, pad
from tqdm import tqdm

from .bert import POOLER
from .provenance import Fit, PoolerSource
from .texts import TOKENIZED, Readings, Text, tokenize_with_both

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-16, 5))  # 1e-8 to 100
FOLDS = 5  # the last one is held out
WINDOW = 64  # batches that are sorted by length together
NEIGHBOURS = 10
FEWEST_COMPARED = 5 * NEIGHBOURS  # of fewer texts, chance alone keeps more than a fifth of the neighbours
MOST_COMPARED = 2000  # whose vectors are in memory at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration(Fit):
    """The result of a fit; the texts themselves are not in it."""

    improved: bool  # whether the new pooler was taken
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def record(self) -> Fit:
        """What config.json and model card state of it."""
        return Fit(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Fit)})

    def __str__(self) -> str:
        change = f"cosine to the original model's pooler_output {self.cosine_before:.4f} -> {self.cosine_after:.4f}"
        if self.neighbours_kept_after is not None:
            change += f", its ten nearest neighbours kept {self.neighbours_kept_before:.2f} -> "
            change += f"{self.neighbours_kept_after:.2f}"
        kept = "" if self.improved else "; no better, so the original pooler stays"
        return f"{change} on {self.held_out} held-out of {self.texts} texts (penalty {self.penalty:.2g}){kept}"


def _states(encoders: Sequence, rows: Sequence[tuple], batch_size: int) -> Iterator[list[torch.Tensor]]:
    """For each batch and each encoder: the final [CLS] states and a column of ones, `(rows, hidden_size + 1)`."""
    window = WINDOW * batch_size
    for start in range(0, len(rows), window):
        near = sorted(rows[start : start + window], key=lambda row: len(row[0]["input_ids"]))  # less padding
        for batch in (near[at : at + batch_size] for at in range(0, len(near), batch_size)):
            yield [_encode(encoder, side) for encoder, side in zip(encoders, zip(*batch, strict=True), strict=True)]


@torch.no_grad()
def _encode(encoder, rows: Sequence[dict]) -> torch.Tensor:
    def padded(name: str) -> torch.Tensor:
        columns = [torch.from_numpy(row[name]).long() for row in rows]
        # Padded with zeros: whatever token that is, nothing attends to it.
        return torch.nn.utils.rnn.pad_sequence(columns, batch_first=True).to(encoder.device)

    states = encoder(**{name: padded(name) for name in TOKENIZED if name in rows[0]}).last_hidden_state[:, 0]
    return pad(states.cpu().double(), (0, 1), value=1.0)  # float64 on the CPU, since Apple's devices have none


# --- The fit ---------------------------------------------------------------------------------------------------------


def _moments(states: torch.Tensor, residuals: torch.Tensor) -> torch.Tensor:
    """All that the fit needs of any number of texts is the sum of these: the second moments of [H | Z0 - H W0']."""
    both = torch.cat([states, residuals], 1)
    return both.T @ both


def _parts(moments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """With the residuals R: H'H, R'H and ||R||^2."""
    size = len(moments) // 2 + 1  # hidden_size + 1; of the residuals, hidden_size
    return moments[:size, :size], moments[size:, :size], moments[size:, size:].trace()


def _choose_penalty(folds: Sequence[torch.Tensor]) -> float:
    """The penalty with the smallest error on the texts of the fold that each fit leaves out."""
    errors = torch.zeros(len(PENALTIES))
    for fold in folds:
        gram, cross, _ = _parts(sum(it for it in folds if it is not fold))
        values, vectors = torch.linalg.eigh(gram)
        left_out, target, square = _parts(fold)
        cross, left_out, target = cross @ vectors, vectors.T @ left_out @ vectors, target @ vectors
        for number, penalty in enumerate(PENALTIES):
            change = cross / (values.clamp(min=0) + penalty * values.mean())
            errors[number] += square - 2 * (change * target).sum() + ((change @ left_out) * change).sum()
    return PENALTIES[errors.argmin()]


def _fit(moments: torch.Tensor, penalty: float) -> torch.Tensor:
    """The change of [weight | bias], `(hidden_size, hidden_size + 1)`."""
    gram, cross, _ = _parts(moments)
    ridge = penalty * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, cross.T).T


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

    It starts from the donor's pooler. Where the fit is no better on the held-out fold, `adapted` is not changed;
    otherwise its config's `pooler_source`, if it has one, states the fit. The states are summed up in float64 batch
    by batch, so memory does not grow with the number of texts.

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
        The result, measured before and after on the held-out fold.

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
    found = fit_pooler(adapted, donor, readings, batch_size=batch_size, progress=progress)
    if found.improved and hasattr(adapted.config, "pooler_source"):  # this package's; it described the pooler before
        adapted.config.pooler_source = _source(adapted.base_model, donor.base_model, found).to_config()
    return found


def _source(adapted, donor, found: Calibration) -> PoolerSource:
    """The origin of a refitted pooler, in the form that convert.py writes."""

    def digests(encoder) -> dict[str, str]:
        tensors = (encoder.pooler.dense.weight, encoder.pooler.dense.bias)
        stored = (it.detach().cpu().contiguous().view(torch.uint8).numpy() for it in tensors)
        return {name: hashlib.sha256(data).hexdigest() for name, data in zip(POOLER, stored, strict=True)}

    lasts = (it.encoder.layer[-1].attention.output.dense.weight.detach().cpu().double() for it in (donor, adapted))
    name = donor.name_or_path or "unknown"
    return PoolerSource(
        donor=PoolerSource.name_of(Path(name).resolve().name if Path(name).exists() else name),
        revision=getattr(donor.config, "_commit_hash", None),
        sha256=digests(adapted),
        lineage_cosine=round(cosine_similarity(*map(torch.flatten, lasts), dim=0).item(), 6),
        calibration=found.record,
        donor_sha256=digests(donor),
    )


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
    before = torch.cat([original.weight.detach(), original.bias.detach()[:, None]], 1).cpu().double()
    folds, held_out = [rows[number::FOLDS] for number in range(FOLDS - 1)], rows[FOLDS - 1 :: FOLDS]
    with _in_evaluation(encoders), tqdm(total=len(rows), unit=" texts", disable=None if progress else True) as bar:
        if progress:
            _print_duration(encoders, rows, batch_size)

        def read(rows: Sequence) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
            for ours, theirs in _states(encoders, rows, batch_size):
                yield ours, theirs, _moments(ours, (theirs - ours) @ before.T)
                bar.update(len(ours))

        moments = [functools.reduce(torch.add, (it for *_, it in read(fold))) for fold in folds]
        if not all(it.isfinite().all() for it in moments):
            raise ValueError("the encoders' states are not finite on these texts: one of the checkpoints is damaged")
        penalty = _choose_penalty(moments)
        total, cosines, kept = sum(moments), torch.zeros(2, dtype=torch.double), []
        fitted = (before + _fit(total, penalty)).to(dense.weight.dtype).double()  # as it would be stored
        for ours, theirs, added in read(held_out):
            vectors = torch.tanh(torch.stack([theirs @ before.T, ours @ before.T, ours @ fitted.T]))
            cosines += cosine_similarity(vectors[1:], vectors[0], dim=-1).sum(1)
            if len(kept) * batch_size < MOST_COMPARED:
                kept.append(vectors)
            total = total + added
    cosine_before, cosine_after = (cosines / len(held_out)).tolist()
    improved = cosine_after > cosine_before
    if improved:  # on all texts, now that the held-out fold has confirmed it
        fitted = before + _fit(total, penalty)
        with torch.no_grad():
            dense.weight.copy_(fitted[:, :-1])
            dense.bias.copy_(fitted[:, -1])
    found = (len(rows), len(held_out), readings.sha256, penalty, cosine_before, cosine_after)
    measured = _measured(torch.cat(kept, 1)) if len(held_out) >= FEWEST_COMPARED else {}
    return Calibration(*found, improved=improved, notes=notes, **measured)


def _measured(vectors: torch.Tensor) -> dict[str, float]:
    """What `Fit` has of the vectors of the donor, and of the adapted model before and after the fit."""

    def nearest(queries: torch.Tensor) -> torch.Tensor:
        """The other texts that an index of the donor's vectors gives for each text, by cosine."""
        similarities = normalize(queries, dim=-1) @ normalize(donor, dim=-1).T
        return similarities.fill_diagonal_(-2).topk(NEIGHBOURS).indices

    donor, found = vectors[0], {}
    for when, own in zip(("before", "after"), vectors[1:], strict=True):
        centred = cosine_similarity(own - donor.mean(0), donor - donor.mean(0), dim=-1)
        kept = (nearest(own)[:, :, None] == nearest(donor)[:, None]).any(1)
        found |= {f"centred_cosine_{when}": centred.mean().item()}
        found |= {f"neighbours_kept_{when}": kept.double().mean().item()}
    return found


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


def _print_duration(encoders: Sequence, rows: Sequence, batch_size: int) -> None:
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        next(_states(encoders, rows[:batch_size], batch_size))
    seconds = (time.perf_counter() - began) * len(rows) / min(batch_size, len(rows))
    length = f"{seconds / 60:.0f} min" if seconds > 90 else f"{max(seconds, 1):.0f} s"
    print(f"calibrating on {len(rows)} texts, on {encoders[0].device}: about {length}", file=sys.stderr, flush=True)
