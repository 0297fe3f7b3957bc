# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Which pooler and MLM head the output gets, and from where; whether the checkpoint's pooler may be replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from .bert import POOLER, THE_HEAD, THE_POOLER
from .checkpoint import Checkpoint
from .donors import Donor, Donors
from .errors import ConversionError
from .formats import DENSE
from .head import Head, fit_head
from .options import AUTO, Options
from .origins import Candidate, FoundBy
from .pages import parse_page
from .provenance import Fit, HeadSource, PoolerSource
from .tensors import Tensor, same_pooler


@dataclasses.dataclass(frozen=True)
class Graft:
    """A checkpoint, the pooler that it gets, and the MLM head, where it lost that."""

    checkpoint: Checkpoint
    donor: Donor | None  # None: the checkpoint keeps its own pooler
    pooler: dict[str, Tensor]  # as it is going to be stored
    notes: tuple[str, ...] = ()  # on donors that were not taken
    replaced: bool = False  # whether the input's own pooler is replaced
    fit: Fit | None = None  # how the donor's pooler was refitted
    tokenizer_from: Checkpoint | None = None  # the donor, where the checkpoint has no tokenizer
    head: Head | None = None  # None: the checkpoint has one, or the output gets none

    @property
    def grafted(self) -> dict[str, Tensor]:
        """What the input does not bring; and the pooler, also where it is the input's."""
        return self.pooler | (self.head.tensors if self.head else {})

    @property
    def donors(self) -> list[Donor]:
        return [*([self.donor] if self.donor else []), *([self.head.donor] if self.head else [])]

    def refitted(self, pooler: dict[str, Tensor], fit: Fit) -> Graft:
        """The same with a pooler that was fitted, starting from the donor's."""
        return dataclasses.replace(self, pooler=pooler, fit=fit)

    def source(self) -> PoolerSource | None:
        """Where the pooler came from."""
        if self.donor is None:
            return self.checkpoint.pooler_source
        original = {key: tensor.sha256 for key, tensor in self.donor.tensors.items()}
        fit = (self.fit, original) if self.fit else ()
        return _source(PoolerSource, self.donor, self.pooler, *fit)

    def head_source(self) -> HeadSource | None:
        """Where the MLM head came from."""
        if self.head is None:
            return self.checkpoint.head_source
        return _source(HeadSource, self.head.donor, self.head.tensors)


def _source(kind: type, donor: Donor, tensors: dict[str, Tensor], *fit) -> PoolerSource:
    source = donor.checkpoint.source
    digests = {key: tensor.sha256 for key, tensor in tensors.items()}
    name, cosine = kind.name_of(source.label), round(donor.cosine, 6)
    return kind(name, source.commit, digests, cosine, donor.objections, *fit)


def choose_grafts(checkpoint: Checkpoint, donors: Donors, options: Options) -> Graft:
    """Finds the donors, where they are needed.

    Raises:
        ConversionError: There is none, or the checkpoint's own pooler must not be replaced.
    """
    head = None
    if options.head_from is not None:
        named = None if options.head_from == AUTO else _candidate(options.head_from, FoundBy.HEAD_ARGUMENT)
        head = fit_head(checkpoint, *donors.find(checkpoint, THE_HEAD, named, options.force_donor))
    return dataclasses.replace(_choose_pooler(checkpoint, donors, options, head), head=head)


def _candidate(name: str | os.PathLike, found_by: FoundBy, revision: str | None = None) -> Candidate:
    name, revision = parse_page(os.fspath(name), revision)
    return Candidate(name, found_by, revision)


def _choose_pooler(checkpoint: Checkpoint, donors: Donors, options: Options, head: Head | None) -> Graft:
    """The graft of the pooler; the donor of the head is the first candidate for it."""
    _check_own_pooler(checkpoint, options.replace_pooler, stays=head is not None)
    kept = {} if options.replace_pooler else checkpoint.pooler
    named = options.pooler_from
    named = None if named is None else _candidate(named, FoundBy.ARGUMENT, options.pooler_revision)
    first = head.donor.candidate if head else None
    search = checkpoint, THE_POOLER, named, options.force_donor, first
    needs_tokenizer = checkpoint.tokenizer.source is None and not checkpoint.tokenizer.needs_code
    if options.calibrate is None and len(kept) == len(POOLER):
        donor = head.donor.checkpoint if head else None
        if needs_tokenizer and donor is None:
            with contextlib.suppress(ConversionError):  # it is not needed for more
                donor = donors.find(*search)[0].checkpoint
        return Graft(checkpoint, None, kept, tokenizer_from=donor if needs_tokenizer else None)
    donor, notes = donors.find(*search)
    _check_replaceable(checkpoint, donor, kept)
    tokenizer_from = donor.checkpoint if needs_tokenizer else None
    return Graft(checkpoint, donor, donor.tensors, notes, options.replace_pooler, tokenizer_from=tokenizer_from)


def _check_own_pooler(checkpoint: Checkpoint, replace: bool, stays: bool) -> None:
    """Raises ConversionError where the checkpoint has a pooler, and nobody has asked to replace or to keep it."""
    where, pooler = checkpoint.source.where(), checkpoint.pooler
    if not pooler or replace or checkpoint.simcse or (stays and not checkpoint.is_converted):
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
    original = {key: tensor.sha256 for key, tensor in donor.tensors.items()}
    if digests and digests != original and checkpoint.pooler_source is None:
        raise ConversionError(
            checkpoint.source.where(),
            f"its pooler is not that of {donor}: it has been trained, or came from another model; a fit starts from "
            "the donor's, and would replace it",
            "--replace-pooler",
        )
