# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures of a vector index whose encoder has changed.

The index holds passages that the donor encoded, and the adapted model encodes the queries.
"""

import torch
from torch.nn import functional

NEIGHBOURS = 10
FALSE_POSITIVES = 0.01  # the donor's false-positive rate at the threshold


def unit(vectors: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    return functional.normalize(vectors - centre, dim=-1)


def nearest(similarities: torch.Tensor) -> torch.Tensor:
    """`(queries, NEIGHBOURS)`: the numbers of the passages that are found."""
    return similarities.topk(min(NEIGHBOURS, similarities.shape[1]), dim=1).indices


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
    other = ~torch.eye(len(before), dtype=torch.bool)
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
    half, found = torch.where(torch.arange(len(passages))[:, None] % 2 == 0, before["passages"], passages), {}
    for name, centred in (("cosine", 0), ("centred", 1)):

        def similarities(asked, index, centred=centred):
            centre = centred * index.mean(0)
            return unit(asked, centre) @ unit(index, centre).T

        theirs, ours = (similarities(it, before["passages"]) for it in (before["queries"], queries))
        expected, centre = nearest(theirs), centred * before["passages"].mean(0)
        row = {"vectors": (unit(queries, centre) * unit(before["queries"], centre)).sum(1).mean().item()}
        row |= {"kept": neighbours_kept(nearest(ours), expected)} | quality(ours) | decisions(ours, theirs)
        for how, index in (("reembedded", passages), ("half", half)):
            other = similarities(queries, index)
            row[how] = quality(other) | {"kept": neighbours_kept(nearest(other), expected)}
        found[name] = row | {"donor": quality(theirs)}
    return found
