# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 2, find the donor: the checkpoint whose pooler is grafted, named or guessed, and proved by its lineage."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np

from . import hub
from .bert import POOLER, SIZES, lineage_key
from .checkpoint import Checkpoint, never_trained, read_part
from .errors import ConversionError, HubError, HubUnreachable, printable
from .origins import GUESSED, known_donors, named_donors
from .sources import checkpoint_files, weights_file
from .tensors import COARSENESS, FLOATS, Tensor, same_pooler
from .wire import log

# Measured (docs/lineage.md): continued pre-training keeps the cosine above 0.98, strangers stay below 0.02.
LINEAGE_THRESHOLD = 0.5
# Two donors whose distances (1 - cosine; below the floor, rounding) are within the factor can't be told apart.
TIE_FACTOR, DISTANCE_FLOOR = 2, 5e-6
VANISHED = 0.01  # of the values that were not zero
RESIZED = {"hidden_size", "vocab_size", "max_position_embeddings"}  # the first is checked, the others may grow
SAME_AS_DONOR = {"hidden_act": "gelu", "layer_norm_eps": 1e-12} | {k: SIZES[k] for k in SIZES if k not in RESIZED}
EXPLICIT = "--pooler-from"


@dataclasses.dataclass(frozen=True, eq=False)
class Donor:
    """A candidate held against a checkpoint."""

    checkpoint: Checkpoint  # the candidate's own, read in part
    found_by: str
    cosine: float  # of the lineage tensors
    dtype: str  # the checkpoint's, which its pooler is cast to
    objections: tuple[str, ...]  # why its pooler must not be taken
    notes: tuple[str, ...] = ()  # what is odd about it, and does not speak against it

    @property
    def distance(self) -> float:
        return max(1 - self.cosine, DISTANCE_FLOOR)

    @functools.cached_property
    def pooler(self) -> dict[str, Tensor]:
        return {key: tensor.cast(self.dtype) for key, tensor in self.checkpoint.pooler_in_memory.items()}

    @property
    def says_nothing(self) -> str | None:
        """Why a pooler of this kind must not be taken, whosever it is; of a repo, it comes over the wire now."""
        weight = self.checkpoint.pooler_in_memory[POOLER[0]].values()
        if weight.min() != weight.max():
            return None
        return f"its pooler's weight is {weight[0]:g} everywhere: of a text, its vectors say a single number"

    @property
    def width(self) -> int:
        """Of the dtype that its pooler is stored in."""
        return -COARSENESS.index(self.checkpoint.tensors[POOLER[0]].dtype)

    @property
    def remarks(self) -> Iterator[str]:
        """What the report says of taking it."""
        yield from self.notes
        for key, stored in self.checkpoint.pooler_in_memory.items():
            before, after = stored.values(), self.pooler[key].values()
            lost = np.count_nonzero((before != 0) & (after == 0)) / max(np.count_nonzero(before), 1)
            if lost > VANISHED:
                yield f"{lost:.0%} of {key} become zero as {FLOATS[self.dtype]}; a float32 checkpoint keeps them"

    def __str__(self) -> str:
        source = self.checkpoint.source
        return source.label + (f" @ {source.commit[:7]}" if source.commit else "")


class Donors:
    """Finds donors; several checkpoints of one call read each donor once."""

    def __init__(self):
        self._opened: dict[tuple[str, str | None], Checkpoint] = {}
        self._unreachable: str | None = None  # why the Hub is not to be had, once that is known

    def examine(self, checkpoint: Checkpoint, name: str, revision: str | None, found_by: str) -> Donor:
        """Compares a candidate with the checkpoint; of one on the Hub, its config, header and two tensors are read.

        Raises:
            ConversionError: It can't be read, is not a BERT, or has no pooler of the right shape.
        """
        if (name, revision) not in self._opened:
            self._opened[name, revision] = self._open(name, revision, found_by)
        candidate = self._opened[name, revision]
        hidden, expected = candidate.config["hidden_size"], checkpoint.config["hidden_size"]
        if hidden != expected:
            raise ConversionError(
                f"{name}: hidden_size is {hidden}, the checkpoint's is {expected}: its training started from another"
            )
        similarity = cosine(checkpoint.lineage.values(), candidate.lineage.values())
        objections = []
        if similarity < LINEAGE_THRESHOLD:
            objections.append(
                f"its encoder is not related to the checkpoint's (cosine {similarity:.3f} of "
                f"{lineage_key(candidate.config)}, expected at least {LINEAGE_THRESHOLD}): read through this encoder, "
                "its pooler is noise"
            )
        if never_trained(candidate):
            objections.append(
                "its pooler was never trained (the bias is exactly zero, and any training step moves it): take [CLS] "
                "or the mean of the last hidden states instead of pooler_output"
            )
        notes = tuple(oddities(checkpoint.config, candidate))
        return Donor(candidate, found_by, similarity, checkpoint.dtype, tuple(objections), notes)

    def _open(self, name: str, revision: str | None, found_by: str) -> Checkpoint:
        source = hub.open_source(name, revision)
        for known in self._opened.values():
            if source.commit and (known.source.label, known.source.commit) == (source.label, source.commit):
                return known  # under an older name of the same repo
        weights = weights_file(source)
        if isinstance(source, hub.HubRepo) and weights is not None and ".bin" in weights:
            if found_by is not EXPLICIT:
                raise ConversionError(
                    f"{name}: has only {weights}, which is downloaded whole or not at all; if it is the donor: "
                    f"--pooler-from {source.label}"
                )
            source = source.fetch(checkpoint_files(source))
        candidate = read_part(source, as_donor=True)
        hidden, lineage = candidate.config["hidden_size"], lineage_key(candidate.config)
        for key, shape in {POOLER[0]: (hidden, hidden), POOLER[1]: (hidden,), lineage: (hidden, hidden)}.items():
            tensor = candidate.tensors.get(key)
            if tensor is None:
                what = "no pooler: it lost its own; name the model before it" if key in POOLER else "no such layer"
                raise ConversionError(f"{name}: has no {key} ({what})")
            if tensor.shape != shape or tensor.dtype not in FLOATS:
                raise ConversionError(f"{name}: {key} is {tensor}, expected a floating {list(shape)}")
        read = {key: candidate.tensors[key].in_memory() for key in (POOLER[1], lineage)}
        return dataclasses.replace(candidate, tensors=candidate.tensors | read)

    def find(
        self, checkpoint: Checkpoint, pooler_from: str | None, revision: str | None, force: bool
    ) -> tuple[Donor, tuple[str, ...]]:
        """The closest donor that nothing speaks against, and notes on those that were not taken.

        Raises:
            ConversionError: None, or several that can't be told apart.
        """
        log.debug("looking for a donor of %s ...", printable(checkpoint.source.label))
        if pooler_from is not None:
            donor = self.examine(checkpoint, pooler_from, revision, EXPLICIT)
            objections = tuple(filter(None, (*donor.objections, donor.says_nothing)))
            if objections and not force:
                raise ConversionError(f"{donor}: {'; and '.join(objections)}. To take it all the same: --force-donor")
            return dataclasses.replace(donor, objections=objections), ()
        refused: dict[str, list[str]] = {}  # reason -> names
        unread = None
        for candidates in (*named_donors(checkpoint), *known_donors(checkpoint.config)):
            fitting, unread = self._sift(checkpoint, candidates, refused)
            while fitting:
                donor = closest(checkpoint, fitting)
                if donor.says_nothing is None:
                    return donor, tuple(_not_taken(refused))
                refused.setdefault(donor.says_nothing, []).append(donor.checkpoint.source.label)
                fitting.remove(donor)
            if unread is not None:  # it may well be the right one: no guessing then
                break
        if unread is not None and not isinstance(unread, HubUnreachable):
            raise unread
        raise self._none_found(checkpoint, refused)

    def _none_found(self, checkpoint: Checkpoint, refused: dict[str, list[str]]) -> ConversionError:
        """The refusal; one cause stands in it once, before all else, however many names it concerns."""
        where = checkpoint.source.where()
        others = " | ".join(_not_taken(refused))
        if [*refused] == [self._unreachable]:
            return ConversionError(
                f"{where}: {self._unreachable}; no donor found for its pooler: name a folder with the model that its "
                f"training started from, --pooler-from FOLDER. Not looked at: {', '.join(refused[self._unreachable])}"
            )
        return ConversionError(
            f"{where}: no donor found for its pooler; name the model that its training started from with "
            f"--pooler-from FOLDER_OR_HUB_ID. Not taken: {others or 'nothing to try'}"
        )

    def _sift(
        self, checkpoint: Checkpoint, candidates: list[tuple[str, str]], refused: dict[str, list[str]]
    ) -> tuple[list[Donor], ConversionError | None]:
        """The candidates that fit, and why one that the checkpoint names could not be read; the others' reasons."""
        fitting: list[Donor] = []
        unread = None
        for name, found_by in candidates:
            try:
                donor = self.examine(checkpoint, name, None, found_by)
                reasons = donor.objections
                if not reasons and all(donor.checkpoint is not other.checkpoint for other in fitting):
                    fitting.append(donor)
            except ConversionError as error:
                reasons = (str(error).removeprefix(f"{name}: "),)
                if isinstance(error, HubUnreachable):
                    self._unreachable, reasons = error.cause, (error.cause,)
                    unread = unread if found_by is GUESSED else error
                elif isinstance(error, HubError) and found_by is not GUESSED:
                    unread = ConversionError(f"{error} (named by {found_by}; to take another: --pooler-from)")
            for reason in reasons:
                refused.setdefault(reason, []).append(name)
        return fitting, unread


def _not_taken(refused: dict[str, list[str]]) -> list[str]:
    return [f"{', '.join(names)}: {reason}" for reason, names in refused.items()]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two flat float64 arrays; 0 where one of them has no direction."""
    if one.shape != other.shape:
        return 0.0
    with np.errstate(all="ignore"):
        product = float(one @ other / np.sqrt((one @ one) * (other @ other)))
    return product if math.isfinite(product) else 0.0


def closest(checkpoint: Checkpoint, donors: list[Donor]) -> Donor:
    """The donor at the smallest distance.

    Raises:
        ConversionError: Another one with a different pooler is as close.
    """
    best = min(donors, key=lambda donor: donor.distance)
    near = [donor for donor in donors if donor.distance <= TIE_FACTOR * best.distance]
    # One model in two dtypes is no tie: the wider one is what it was.
    best = max((it for it in near if _same(it, best)), key=lambda donor: donor.width)
    ties = sorted((it for it in near if not _same(it, best)), key=lambda donor: donor.distance)
    if ties:
        raise ConversionError(
            f"{checkpoint.source.where()}: several donors with different poolers are equally close: "
            + ", ".join(f"{donor} ({donor.cosine:.6f})" for donor in (best, *ties))
            + ". Name the one that its training started from: --pooler-from"
        )
    return best


def _same(one: Donor, other: Donor) -> bool:
    return same_pooler(one.checkpoint.pooler_in_memory, other.checkpoint.pooler_in_memory)


def oddities(config: dict, donor: Checkpoint) -> Iterator[str]:
    """In what a donor is not the model which the checkpoint's training started from, by all appearances."""
    if head := next((key for key in donor.tensors if key.startswith("classifier.")), None):
        yield f"the donor has been fine-tuned, and its pooler with it (it holds {head}): its base may be the right one"
    for field, default in SAME_AS_DONOR.items():
        theirs, ours = (it.get(field, default) for it in (donor.config, config))
        if theirs != ours:
            yield f"the donor has {field} {theirs!r}, the checkpoint {ours!r}"
