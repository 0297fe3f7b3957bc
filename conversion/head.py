# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""A donor's MLM head for a checkpoint that lost its own: one value of the bias for each token of the checkpoint.

The decoder is tied to the word embeddings, so the head fits only where the embeddings of a token are still that
token's of the donor. Tokens are matched by their ids or, where the vocabularies differ, by their text; rows of both
embeddings are then compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .bert import MLM_BIAS, WORD_EMBEDDINGS
from .checkpoint import Checkpoint
from .donors import Donor
from .errors import ConversionError
from .sources import Folder
from .tensors import Tensor

# The bias of tokens that the donor does not have, as resize_token_embeddings of transformers leaves it. Measured on
# MiniLM with 200 added words: MLM loss in nats on held-out texts with them, and the same where the embedding of a word
# is the mean of its pieces. Zero 6.226 and 6.064, the mean of the donor's bias 6.243 and 6.065, its minimum 6.255 and
# 6.069, its maximum 6.213 and 6.068, -10 6.698 and 6.483.
ADDED_BIAS = 0.0
SAMPLED = 8  # rows of the embeddings; three of four must be nearest to the same token's of the donor


@dataclasses.dataclass(frozen=True)
class Head:
    """An MLM head that is grafted."""

    donor: Donor
    tensors: dict[str, Tensor]  # as they are going to be stored
    notes: tuple[str, ...]  # on donors that were not taken
    remarks: tuple[str, ...] = ()  # on its bias, where the vocabularies differ


def fit_head(checkpoint: Checkpoint, donor: Donor, notes: tuple[str, ...]) -> Head:
    """The donor's head, with a bias of the checkpoint's size.

    Raises:
        ConversionError: The tokens are not the donor's.
    """
    rows = _rows(checkpoint, donor.checkpoint)
    values = donor.original[MLM_BIAS].values()
    if np.array_equal(rows, np.arange(len(values))):
        return Head(donor, donor.tensors, notes)
    added = int((rows < 0).sum())
    fitted = np.where(rows < 0, ADDED_BIAS, values[rows])
    bias = dataclasses.replace(
        donor.original[MLM_BIAS], dtype="F64", shape=rows.shape, data=memoryview(fitted.tobytes())
    )
    remark = f"the bias of the MLM head was taken over by token: {len(rows)} of the donor's {len(values)}"
    if added:
        remark = f"{added} tokens are not the donor's: their bias in the MLM head is {ADDED_BIAS:g}"
    return Head(donor, donor.tensors | {MLM_BIAS: bias.cast(donor.dtype, donor.part.name)}, notes, (remark,))


def _rows(checkpoint: Checkpoint, donor: Checkpoint) -> np.ndarray:
    """For each token of the checkpoint its id in the donor, or -1.

    The donor's tokenizer on the Hub is downloaded only where the ids alone do not do.

    Raises:
        ConversionError: The embeddings of those tokens are not related.
    """
    sides = (checkpoint, donor)
    size, theirs = (side.config["vocab_size"] for side in sides)
    rows = np.where(np.arange(size) < theirs, np.arange(size), -1)
    if not isinstance(donor.source, Folder) and size >= theirs and _related(checkpoint, donor, rows):
        return rows
    ours, others = (side.tokenizer.vocabulary for side in sides)
    if ours and others:
        for token, number in ours.items():
            if number < size:
                rows[number] = number_there if (number_there := others.get(token, -1)) < theirs else -1
    if _related(checkpoint, donor, rows):
        return rows
    what = f"its vocabulary was replaced or reordered ({size} tokens, the donor has {theirs})"
    how = "" if ours and others else ", and without both tokenizers its tokens can't be matched by their text"
    raise ConversionError(
        checkpoint.source.where(),
        f"{what}: the word embeddings are not those of the same tokens of {donor.source.label}{how}; the bias of an "
        "MLM head fits its own vocabulary alone",
        "name the donor that has this vocabulary" if not how else "copy the tokenizer's files into the folder",
    )


def _related(checkpoint: Checkpoint, donor: Checkpoint, rows: np.ndarray) -> bool:
    """Whether a token's embedding is nearest to the one that it had in the donor, for a sample of tokens."""
    common = np.flatnonzero(rows >= 0)
    if len(common) < SAMPLED:
        return False
    ids = common[((np.arange(SAMPLED) + 0.5) * len(common) / SAMPLED).astype(int)]
    ours, theirs = (
        np.stack([side.tensors[WORD_EMBEDDINGS].row(number).values() for number in numbers])
        for side, numbers in ((checkpoint, ids), (donor, rows[ids]))
    )
    with np.errstate(all="ignore"):
        ours, theirs = (it / np.linalg.norm(it, axis=1, keepdims=True) for it in (ours, theirs))
        nearest = (ours @ theirs.T).argmax(1)
    return int((nearest == np.arange(SAMPLED)).sum()) >= SAMPLED * 3 // 4
