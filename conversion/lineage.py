# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The lineage check: whether a checkpoint's training started from a donor.

Continued pre-training moves an encoder a little; the weights of unrelated encoders are orthogonal (docs/lineage.md).
"""

from __future__ import annotations

import math

import numpy as np

from .bert import lineage_key
from .checkpoint import Checkpoint
from .errors import ConversionError, listed
from .hub import HubRepo
from .tensors import Tensor

# Measured (docs/lineage.md): continued pre-training keeps the cosine above 0.98; of unrelated models it is below 0.02.
THRESHOLD = 0.5


def compare(checkpoint: Checkpoint, candidate: Checkpoint, part: str) -> tuple[float, list[str]]:
    """The cosine of the last layers, and the objections to taking a part (the pooler, the MLM head) of the candidate.

    Raises:
        ConversionError: One of the two holds NaN or infinity.
    """
    ours, theirs = (side.config["num_hidden_layers"] for side in (checkpoint, candidate))
    key = lineage_key(candidate.config)
    last = _finite(checkpoint, lineage_key(checkpoint.config), checkpoint.lineage)
    similarity = cosine(last, _finite(candidate, key, candidate.lineage))
    if similarity >= THRESHOLD:
        others = _unrelated(checkpoint, candidate) if ours == theirs else []
        what = f"{len(others)} matrices of its encoder are not related to the checkpoint's: {listed(others)}"
        return similarity, [what] if others else []
    if ours != theirs:  # the first layers of a deeper model, perhaps
        key = lineage_key({"num_hidden_layers": min(ours, theirs)})
        both = (_finite(side, key, side.tensors[key]) for side in (checkpoint, candidate))
        if (common := cosine(*both)) >= THRESHOLD:
            return common, [
                f"it has {theirs} layers, the checkpoint {ours}: the layers that both have are related (cosine "
                f"{common:.3f} of {key}), but its {part} was trained for the output of layer {theirs}"
            ]
    return similarity, [
        f"its encoder is not related to the checkpoint's (cosine {similarity:.3f} of {key}, expected at least "
        f"{THRESHOLD}): on this encoder, its {part}'s output is noise"
    ]


def _unrelated(checkpoint: Checkpoint, candidate: Checkpoint) -> list[str]:
    """The matrices of a local candidate, of which a sample of rows is not related to the checkpoint's."""
    if isinstance(candidate.source, HubRepo):  # each would have to be downloaded
        return []
    ours, theirs = (side.sampled_rows for side in (checkpoint, candidate))
    for side, samples in ((checkpoint, ours), (candidate, theirs)):
        for name, values in samples.items():
            _check_finite(side, name, values)
    return [name for name in ours if name in theirs and cosine(ours[name], theirs[name]) < THRESHOLD]


def _finite(side: Checkpoint, key: str, tensor: Tensor) -> np.ndarray:
    values = tensor.values()
    _check_finite(side, key, values)
    return values


def _check_finite(side: Checkpoint, key: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        remedy = "no pooler repairs that: take an earlier checkpoint"
        raise ConversionError(side.source.where(), f"{key} holds NaN or infinity", remedy)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two flat float64 arrays; 0 where one of them has no direction, unless they are equal."""
    if one.shape != other.shape:
        return 0.0
    if np.array_equal(one, other):
        return 1.0
    with np.errstate(all="ignore"):
        # Not by BLAS, whose threads cost more than they bring where other processes use the cores.
        dots = (float(np.einsum("i,i", *pair)) for pair in ((one, other), (one, one), (other, other)))
        product, square, other_square = dots
        product = float(product / np.sqrt(square * other_square))
    return product if math.isfinite(product) else 0.0
