# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Which pooler the output gets, and from where; whether the checkpoint's own one may be replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from .bert import POOLER
from .checkpoint import Checkpoint
from .donors import Donor, Donors
from .errors import ConversionError
from .formats import DENSE
from .options import Options
from .provenance import Fit, PoolerSource
from .tensors import Tensor, same_pooler


@dataclasses.dataclass(frozen=True)
class Graft:
    """A checkpoint and the pooler that it gets."""

    checkpoint: Checkpoint
    donor: Donor | None  # None: the checkpoint keeps its own pooler
    pooler: dict[str, Tensor]  # as it is going to be stored
    notes: tuple[str, ...] = ()  # on donors that were not taken
    replaced: bool = False  # whether the input's own pooler is replaced
    fit: Fit | None = None  # how the donor's pooler was refitted
    tokenizer_from: Checkpoint | None = None  # the donor, where the checkpoint has no tokenizer

    def refitted(self, pooler: dict[str, Tensor], fit: Fit) -> Graft:
        """The same with a pooler that was fitted, starting from the donor's."""
        return dataclasses.replace(self, pooler=pooler, fit=fit)

    def source(self) -> PoolerSource | None:
        """Where the pooler came from."""
        if self.donor is None:
            return self.checkpoint.pooler_source
        source = self.donor.checkpoint.source
        return PoolerSource(
            PoolerSource.name_of(source.label),
            source.commit,
            {key: tensor.sha256 for key, tensor in self.pooler.items()},
            round(self.donor.cosine, 6),
            self.donor.objections,
            self.fit,
            {key: tensor.sha256 for key, tensor in self.donor.pooler.items()} if self.fit else None,
        )


def choose_pooler(checkpoint: Checkpoint, donors: Donors, options: Options) -> Graft:
    """Finds the donor, where one is needed.

    Raises:
        ConversionError: There is none, or the checkpoint's own pooler must not be replaced.
    """
    _check_own_pooler(checkpoint, options.replace_pooler)
    kept = {} if options.replace_pooler else checkpoint.pooler
    pooler_from = None if options.pooler_from is None else os.fspath(options.pooler_from)
    search = checkpoint, pooler_from, options.pooler_revision, options.force_donor
    needs_tokenizer = checkpoint.tokenizer.source is None and not checkpoint.tokenizer.needs_code
    if options.calibrate is None and len(kept) == len(POOLER):
        donor = None
        if needs_tokenizer:
            with contextlib.suppress(ConversionError):  # it is not needed for more
                donor = donors.find(*search)[0].checkpoint
        return Graft(checkpoint, None, kept, tokenizer_from=donor)
    donor, notes = donors.find(*search)
    _check_replaceable(checkpoint, donor, kept)
    lender = donor.checkpoint if needs_tokenizer else None
    return Graft(checkpoint, donor, donor.pooler, notes, options.replace_pooler, tokenizer_from=lender)


def _check_own_pooler(checkpoint: Checkpoint, replace: bool) -> None:
    """Raises ConversionError where the checkpoint has a pooler, and nobody has asked to replace or to keep it."""
    where, pooler = checkpoint.source.where(), checkpoint.pooler
    if not pooler or replace or checkpoint.simcse:
        return
    if not checkpoint.is_converted:
        if len(pooler) == len(POOLER) and not checkpoint.has_trained_pooler:
            raise ConversionError(
                where,
                "its pooler was never trained (the bias is exactly zero, as allow_missing_pooler=True initialises it, "
                "and any training step moves it)",
                "graft the original over it with --replace-pooler",
            )
        raise ConversionError(
            where,
            "has a pooler already (bert.pooler.dense.*), so no load initialises one randomly",
            "if that pooler was random when it was saved, graft the original over it: --replace-pooler",
        )
    if checkpoint.dense and not same_pooler(checkpoint.dense, pooler):
        raise ConversionError(
            where,
            f"{DENSE} differs from bert.pooler.dense: one of them was trained after the other was stored, usually the "
            "former in sentence-transformers; writing one would lose the other",
            "use the folder as it is with SentenceTransformer, or convert a copy without 2_Dense, to keep "
            "bert.pooler.dense",
        )


def _check_replaceable(checkpoint: Checkpoint, donor: Donor, kept: dict[str, Tensor]) -> None:
    """Raises ConversionError where a fit would replace a pooler that is neither the donor's nor a grafted one."""
    digests = {key: tensor.sha256 for key, tensor in kept.items()}
    original = {key: tensor.sha256 for key, tensor in donor.pooler.items()}
    if digests and digests != original and checkpoint.pooler_source is None:
        raise ConversionError(
            checkpoint.source.where(),
            f"its pooler is not that of {donor}: it has been trained, or came from another model; a fit starts from "
            "the donor's, and would replace it",
            "--replace-pooler",
        )
