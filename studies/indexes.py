# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures of a vector index whose encoder has changed, and the fits of a pooler that index_fidelity.py compares.

The index holds passages that the donor encoded, and the adapted model encodes the queries. All functions take states
or vectors that are computed already.
"""

import functools
from collections.abc import Callable

import torch
from torch.nn import functional

NEIGHBOURS = 10
FALSE_POSITIVES = 0.01  # the donor's false-positive rate at the threshold
PENALTIES = [10.0 ** (exponent / 2) for exponent in range(-16, 5)]
FOLDS = 5  # the last one is held out, as in conversion/regression.py
TEMPERATURE = 0.1  # of similarities in a softmax
Pooler = torch.Tensor  # [weight | bias], (hidden_size, hidden_size + 1), float64


def with_ones(states: torch.Tensor) -> torch.Tensor:
    return functional.pad(states.double(), (0, 1), value=1.0)


def pooled(states: torch.Tensor, pooler: Pooler) -> torch.Tensor:
    """`pooler_output`, float64."""
    return torch.tanh(with_ones(states) @ pooler.T)


# --- Measures --------------------------------------------------------------------------------------------------------


def unit(vectors: torch.Tensor, centre: torch.Tensor | float = 0.0) -> torch.Tensor:
    return functional.normalize(vectors - centre, dim=-1)


def nearest(similarities: torch.Tensor) -> torch.Tensor:
    """`(queries, NEIGHBOURS)`: the numbers of the passages that are found."""
    return similarities.topk(NEIGHBOURS, dim=1).indices


def quality(similarities: torch.Tensor) -> dict[str, float]:
    """Query n belongs to passage n: the fraction that is among the first ten, and the mean reciprocal rank."""
    own = similarities.diagonal().unsqueeze(1)
    ranks = 1 + (similarities > own).sum(1)
    return {"own": (ranks <= NEIGHBOURS).double().mean().item(), "mrr": (1 / ranks).mean().item()}


def neighbours_kept(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The fraction of the expected neighbours that are found."""
    return (found.unsqueeze(2) == expected.unsqueeze(1)).any(1).double().mean().item()


def decisions(similarities: torch.Tensor, before: torch.Tensor) -> dict[str, float]:
    """Decisions at the threshold that gave the donor's similarities (`before`) a false-positive rate of 1 %."""
    other = ~torch.eye(len(before), dtype=torch.bool, device=before.device)
    rank = max(1, round(FALSE_POSITIVES * int(other.sum())))
    threshold = before[other].topk(rank).values[-1]
    accepted, were = similarities >= threshold, before >= threshold
    return {
        "false_positives": accepted[other].double().mean().item(),
        "true_positives": accepted.diagonal().double().mean().item(),
        "true_positives_donor": were.diagonal().double().mean().item(),
        "accepted_kept": ((accepted & were).sum() / were.sum()).item(),
    }


def compared(queries: torch.Tensor, passages: torch.Tensor, before: dict[str, torch.Tensor]) -> dict:
    """All measures of adapted vectors; `before` has the donor's, as "queries" and "passages".

    Each is measured by the cosine, and by the centred cosine, which subtracts the mean vector of the index.
    """
    half = torch.where(
        torch.arange(len(passages), device=passages.device)[:, None] % 2 == 0, before["passages"], passages
    )
    found = {}
    for name, centred in (("cosine", False), ("centred", True)):

        def similarities(asked, index, centred=centred):
            centre = index.mean(0) if centred else 0.0
            return unit(asked, centre) @ unit(index, centre).T

        theirs = similarities(before["queries"], before["passages"])
        ours = similarities(queries, before["passages"])
        expected = nearest(theirs)
        centre = before["passages"].mean(0) if centred else 0.0
        row = {"vectors": (unit(queries, centre) * unit(before["queries"], centre)).sum(1).mean().item()}
        row |= {"kept": neighbours_kept(nearest(ours), expected)} | quality(ours) | decisions(ours, theirs)
        for how, index in (("reembedded", passages), ("half", half)):
            other = similarities(queries, index)
            row[how] = quality(other) | {"kept": neighbours_kept(nearest(other), expected)}
        found[name] = row | {"donor": quality(theirs)}
    return found


# --- Fits of a pooler ------------------------------------------------------------------------------------------------


class Moments:
    """The sums that ridge regression needs: H'H, H'R and ||R||² of residuals R = Z0 - H W0' (by output dimension)."""

    def __init__(self, states: torch.Tensor, residuals: torch.Tensor):
        self.gram, self.cross, self.square = states.T @ states, states.T @ residuals, residuals.square().sum(0)

    @classmethod
    def of_folds(cls, adapted: torch.Tensor, donor: torch.Tensor, pooler: Pooler, turn=None) -> list["Moments"]:
        """Of each fold; `turn` rotates the outputs."""
        ours, theirs = with_ones(adapted), with_ones(donor)
        residuals = (theirs - ours) @ pooler.T
        residuals = residuals if turn is None else residuals @ turn
        return [cls(ours[fold::FOLDS], residuals[fold::FOLDS]) for fold in range(FOLDS)]

    def __add__(self, other: "Moments") -> "Moments":
        total = object.__new__(Moments)
        for name in ("gram", "cross", "square"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total


def solved(folds: list[Moments], by_output: bool) -> torch.Tensor:
    """The change of the pooler, fitted on all folds; the penalty is cross-validated on all but the last.

    Args:
        by_output: Choose a penalty for each output instead of one for all.
    """
    errors = 0.0
    for left_out in range(FOLDS - 1):
        fitted = functools.reduce(Moments.__add__, [it for n, it in enumerate(folds[:-1]) if n != left_out])
        values, vectors = torch.linalg.eigh(fitted.gram)
        scale = fitted.gram.trace() / len(fitted.gram)
        cross, fold = vectors.T @ fitted.cross, folds[left_out]
        gram, target = vectors.T @ fold.gram @ vectors, vectors.T @ fold.cross
        changes = [cross / (values.clamp(min=0) + penalty * scale)[:, None] for penalty in PENALTIES]
        rows = [fold.square - 2 * (it * target).sum(0) + (gram @ it * it).sum(0) for it in changes]
        errors = errors + torch.stack(rows)
    best = errors.argmin(0) if by_output else errors.sum(1).argmin().expand(errors.shape[1])
    fitted = functools.reduce(Moments.__add__, folds)
    values, vectors = torch.linalg.eigh(fitted.gram)
    penalties = torch.tensor(PENALTIES, dtype=torch.double, device=values.device)[best]
    scale = fitted.gram.trace() / len(fitted.gram)
    return vectors @ ((vectors.T @ fitted.cross) / (values.clamp(min=0)[:, None] + penalties * scale))


def ridge(adapted: torch.Tensor, donor: torch.Tensor, pooler: Pooler) -> Pooler:
    """What `calibrate_pooler` fits."""
    return pooler + solved(Moments.of_folds(adapted, donor, pooler), by_output=False).T


def ridge_by_direction(adapted: torch.Tensor, donor: torch.Tensor, pooler: Pooler) -> Pooler:
    """Ridge regression with a penalty for each principal direction of the donor's outputs before the tanh.

    One penalty for all is chosen by the directions of the largest variance, which separate texts the least.
    """
    targets = with_ones(donor) @ pooler.T
    turn = torch.linalg.eigh(torch.cov(targets.T)).eigenvectors
    return pooler + (solved(Moments.of_folds(adapted, donor, pooler, turn), by_output=True) @ turn.T).T


def refined(adapted, donor, pooler: Pooler, start: Pooler, loss_of: Callable, steps: int = 40) -> Pooler:
    """Minimises a loss of the pooled outputs from `start`, with the penalty that the last fold prefers."""
    ours, targets = with_ones(adapted), pooled(donor, pooler)
    held_out = torch.arange(len(ours), device=ours.device) % FOLDS == FOLDS - 1
    scale = ours.square().sum(1).mean()

    def fit(rows: torch.Tensor, penalty: float) -> Pooler:
        value = start.clone(memory_format=torch.contiguous_format).requires_grad_()
        optimizer = torch.optim.LBFGS([value], max_iter=steps, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = loss_of(torch.tanh(ours[rows] @ value.T), targets[rows])
            loss = loss + penalty * scale * (value - start).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return value.detach()

    def error(value: Pooler) -> float:
        return loss_of(torch.tanh(ours[held_out] @ value.T), targets[held_out]).item()

    penalties = [1e-1, 1e-2, 1e-3, 1e-4]
    errors = [error(fit(~held_out, penalty)) for penalty in penalties]
    if min(errors) >= error(start):
        return start
    return fit(torch.ones_like(held_out), penalties[errors.index(min(errors))])


def variance_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared distances in units of the targets' total variance."""
    return (outputs - targets).square().sum(1).mean() / (targets - targets.mean(0)).square().sum(1).mean()


def search_loss(outputs: torch.Tensor, targets: torch.Tensor, bank: torch.Tensor | None = None) -> torch.Tensor:
    """Divergence between the similarities of outputs and targets to a bank of donor vectors (default: the targets).

    It distils the result of a search in the donor's index. Vectors are centred by the mean of the bank.
    """
    bank = targets if bank is None else bank
    centre = bank.mean(0)
    index = unit(bank, centre)
    ours, theirs = (unit(it, centre) @ index.T / TEMPERATURE for it in (outputs, targets))
    return functional.kl_div(ours.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="batchmean")


def after_tanh(adapted, donor, pooler: Pooler) -> Pooler:
    """Least squares of the outputs after the tanh."""
    return refined(adapted, donor, pooler, ridge(adapted, donor, pooler), variance_loss)


def by_search(adapted, donor, pooler: Pooler) -> Pooler:
    """Least squares after the tanh, plus the divergence of similarities."""
    bank = pooled(donor[:: max(1, len(donor) // 1000)], pooler)

    def loss(outputs, targets):
        return variance_loss(outputs, targets) + search_loss(outputs, targets, bank)

    return refined(adapted, donor, pooler, ridge(adapted, donor, pooler), loss)


FITS = {"ridge": ridge, "by direction": ridge_by_direction, "after tanh": after_tanh, "search": by_search}
