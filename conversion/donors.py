# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 2, find the donor: whose pooler or MLM head is grafted, named or guessed, and proven by its lineage."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator

import numpy as np

from . import hub
from .bert import DECODER_BIAS, MLM_BIAS, SIZES, THE_HEAD, THE_POOLER, Part, expected_shapes, lineage_key
from .checkpoint import Checkpoint, read_part
from .errors import ConversionError, HubError, HubUnreachable, printable
from .known_donors import without_pooler
from .lineage import compare
from .opening import open_source
from .origins import Candidate, FoundBy, known_donors, named_donors
from .sources import checkpoint_files, local_path, weights_file
from .tensors import COARSENESS, FLOATS, Tensor, same_pooler
from .terminal import log

# Two donors whose distances (1 - cosine; below the floor, rounding) are within the factor can't be told apart.
TIE_FACTOR, DISTANCE_FLOOR = 2, 5e-6
VANISHED = 0.01  # of the values that were not zero
RESIZED = {"hidden_size", "vocab_size", "max_position_embeddings"}  # the first is checked, the others may grow
SAME_AS_DONOR = {"hidden_act": "gelu", "layer_norm_eps": 1e-12} | {k: SIZES[k] for k in SIZES if k not in RESIZED}
TAKE_THE_MEAN = "take the mean of the last hidden states instead of pooler_output"


class PublishedWithoutPooler(ConversionError):
    """The donor never had a pooler."""


@dataclasses.dataclass(frozen=True, eq=False)
class Donor:
    """A candidate compared with a checkpoint."""

    part: Part  # what it is to give
    checkpoint: Checkpoint  # the candidate's own, read in part
    candidate: Candidate
    cosine: float  # of the lineage tensors
    dtype: str  # the checkpoint's, which the part is cast to
    objections: tuple[str, ...]  # checks that failed: reasons not to take the part
    notes: tuple[str, ...] = ()  # unusual about it, but no reason not to take it

    @property
    def distance(self) -> float:
        return max(1 - self.cosine, DISTANCE_FLOOR)

    @property
    def original(self) -> dict[str, Tensor]:
        """The part as the donor stores it."""
        return self.checkpoint.pooler if self.part is THE_POOLER else self.checkpoint.mlm_head

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The part as it is going to be stored."""
        return {key: tensor.cast(self.dtype, self.part.name) for key, tensor in self.original.items()}

    @property
    def constant(self) -> str | None:
        """An objection that needs the whole pooler, which of a repo is only downloaded now."""
        weight = self.original[self.part.keys[0]].values()
        if weight.min() != weight.max():
            return None
        return f"its {self.part.name}'s weight is {weight[0]:g} everywhere: its output would have rank one"

    @property
    def precision(self) -> int:
        """Of the dtype that the part is stored in; larger is finer."""
        return -COARSENESS.index(self.checkpoint.tensors[self.part.keys[0]].dtype)

    @property
    def remarks(self) -> Iterator[str]:
        """For the report, where it is taken."""
        yield from self.notes
        for key, stored in self.original.items():
            before, after = stored.values(), self.tensors[key].values()
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

    def examine(self, checkpoint: Checkpoint, named: Candidate, part: Part) -> Donor:
        """Compares a candidate with the checkpoint; of one on the Hub, config, header and two tensors are downloaded.

        Raises:
            ConversionError: It can't be read, is not a BERT, or lacks the part in the right shape.
        """
        name, _, revision = named
        if part is THE_POOLER and without_pooler(name) and not os.path.isdir(local_path(name)):
            raise PublishedWithoutPooler(name, "was published without a pooler", TAKE_THE_MEAN)
        if (name, revision) not in self._opened:
            self._opened[name, revision] = self._open(named)
        candidate = self._opened[name, revision]
        _check_has(name, candidate, part)
        hidden, expected = candidate.config["hidden_size"], checkpoint.config["hidden_size"]
        if hidden != expected:
            raise ConversionError(
                name,
                f"hidden_size is {hidden}, the checkpoint's is {expected}: its training started from another model",
            )
        similarity, objections = compare(checkpoint, candidate, part.name)
        if not (objections and part is THE_HEAD) and not candidate.has_trained(part):  # of a head, that costs a read
            instead = ": take [CLS] or the mean of the last hidden states instead of pooler_output"
            objections.append(
                f"its {part.name} was never trained (the bias is exactly zero, and any training step moves it)"
                + (instead if part is THE_POOLER else "")
            )
        notes = tuple(_differences(checkpoint.config, candidate, part))
        return Donor(part, candidate, named, similarity, checkpoint.dtype, tuple(objections), notes)

    def _open(self, named: Candidate) -> Checkpoint:
        name, found_by, revision = named
        source = open_source(name, revision)
        for known in self._opened.values():
            if source.commit and (known.source.label, known.source.commit) == (source.label, source.commit):
                return known  # under an older name of the same repo
        weights = weights_file(source)
        if isinstance(source, hub.HubRepo) and weights is not None and ".bin" in weights:
            if found_by not in (FoundBy.ARGUMENT, FoundBy.HEAD_ARGUMENT):
                raise ConversionError(
                    name,
                    f"has only {weights}, which can't be downloaded in part",
                    f"if it is the donor: {THE_POOLER.flag} {source.label}",
                )
            source = source.fetch(checkpoint_files(source))
        return read_part(source, any_modules=True)

    def find(
        self, checkpoint: Checkpoint, part: Part, named: Candidate | None, force: bool, first: Candidate | None = None
    ) -> tuple[Donor, tuple[str, ...]]:
        """The closest donor that passes all checks, and notes on the candidates that were not taken.

        Args:
            checkpoint: Whose training started from it.
            part: What it is to give.
            named: By the user: it or none.
            force: Take that one although a check failed.
            first: Tried before all others: the donor of another part.

        Raises:
            ConversionError: None, or several that can't be told apart.
        """
        log.debug("looking for a donor of %s ...", printable(checkpoint.source.label))
        if named is not None:
            donor = self.examine(checkpoint, named, part)
            objections = tuple(filter(None, (*donor.objections, donor.constant)))
            if objections and not force:
                remedy = f"to take its {part.name} anyway: --force-donor"
                raise ConversionError(donor, "; and ".join(objections), remedy)
            return dataclasses.replace(donor, objections=objections), ()
        rejected = Rejected(part)
        origins = named_donors(checkpoint.source, checkpoint.config, checkpoint.card)
        for candidates in ([first] if first else [], *origins, *known_donors(checkpoint.config)):
            fitting = self._compare(checkpoint, candidates, rejected)
            while fitting:
                donor = closest(checkpoint, fitting)
                if donor.constant is None:
                    return donor, tuple(rejected.lines())
                rejected.add(donor.constant, donor.checkpoint.source.label)
                fitting.remove(donor)
            if rejected.unread is not None:  # it may well be the right one, so nothing is guessed
                break
        raise rejected.as_error(checkpoint)

    def _compare(self, checkpoint: Checkpoint, candidates: list[Candidate], rejected: Rejected) -> list[Donor]:
        """The candidates that pass all checks; the others are added to `rejected`."""
        fitting: list[Donor] = []
        for candidate in candidates:
            name, found_by, _ = candidate
            try:
                donor = self.examine(checkpoint, candidate, rejected.part)
            except ConversionError as error:
                rejected.add(error.reason, name)
                if isinstance(error, PublishedWithoutPooler):
                    rejected.without_pooler = name
                if isinstance(error, HubError) and found_by is not FoundBy.TABLE:
                    rejected.unread = error, found_by
                elif isinstance(error, HubUnreachable):
                    rejected.unreachable = error
                continue
            for objection in donor.objections:
                rejected.add(objection, name)
            if not donor.objections and all(donor.checkpoint is not other.checkpoint for other in fitting):
                fitting.append(donor)
        return fitting


class Rejected:
    """Candidates that were not taken, by the reason."""

    def __init__(self, part: Part):
        self.part = part  # what they were to give
        self._names: dict[str, list[str]] = {}
        self.unread: tuple[HubError, FoundBy] | None = None  # named by the checkpoint, not read
        self.unreachable: HubUnreachable | None = None
        self.without_pooler: str | None = None  # named by the checkpoint

    def add(self, reason: str, name: str) -> None:
        self._names.setdefault(reason, []).append(name)

    def lines(self) -> list[str]:
        return [f"{', '.join(names)}: {reason}" for reason, names in self._names.items()]

    def as_error(self, checkpoint: Checkpoint) -> ConversionError:
        """The error where no candidate is left; it states one cause once, however many names it concerns."""
        if self.unread is not None and not isinstance(self.unread[0], HubUnreachable):
            error, found_by = self.unread
            remedy = f"{error.remedy} (named by {found_by.value}; to take another donor: {self.part.flag})"
            return ConversionError(error.subject, error.reason, remedy.strip())
        if self.without_pooler is not None:
            return ConversionError(
                checkpoint.source.where(),
                f"it descends from {self.without_pooler}, which was published without a pooler: none was lost",
                TAKE_THE_MEAN,
            )
        where, unreachable = checkpoint.source.where(), self.unread[0] if self.unread else self.unreachable
        model, why = "FOLDER_OR_HUB_ID", f"; not taken: {' | '.join(self.lines())}"
        if not self._names:
            why = ": it names no model that it started from, and the table of well-known BERTs has none of its size"
        elif unreachable is not None and [*self._names] == [unreachable.reason]:
            model, names = "FOLDER", ", ".join(self._names[unreachable.reason])
            why = f"; not looked at: {names} ({unreachable.reason})"
        remedy = f"name the model that its training started from: {self.part.flag} {model}"
        return ConversionError(where, f"no donor found for its {self.part.name}{why}", remedy)


def closest(checkpoint: Checkpoint, donors: list[Donor]) -> Donor:
    """The donor at the smallest distance.

    Raises:
        ConversionError: Another one with a different pooler is as close.
    """
    best = min(donors, key=lambda donor: donor.distance)
    near = [donor for donor in donors if donor.distance <= TIE_FACTOR * best.distance]
    # One model in two dtypes is no tie: the finer one is the original.
    best = max((it for it in near if _same(it, best)), key=lambda donor: donor.precision)
    ties = sorted((it for it in near if not _same(it, best)), key=lambda donor: donor.distance)
    if ties:
        raise ConversionError(
            checkpoint.source.where(),
            f"several donors with different {best.part.name}s are equally close: "
            + ", ".join(f"{donor} ({donor.cosine:.6f})" for donor in (best, *ties)),
            f"name the one that its training started from: {best.part.flag}",
        )
    return best


def _same(one: Donor, other: Donor) -> bool:
    return same_pooler(one.original, other.original)


def _check_has(name: str, candidate: Checkpoint, part: Part) -> None:
    """Raises ConversionError where a candidate lacks the part, or has it in another shape."""
    shapes, lineage = expected_shapes(candidate.config), lineage_key(candidate.config)
    for key in (*part.keys, lineage):
        tensor = candidate.tensors.get(key)
        if tensor is None and key == MLM_BIAS:
            tensor = candidate.tensors.get(DECODER_BIAS)
        if tensor is None:
            what = f"no {part.name}: it lost its own; name the model before it" if key != lineage else "no such layer"
            raise ConversionError(name, f"has no {key} ({what})")
        if tensor.shape != shapes[key] or tensor.dtype not in FLOATS:
            raise ConversionError(name, f"{key} is {tensor}, expected a floating {list(shapes[key])}")
    if part is THE_HEAD and candidate.config.get("tie_word_embeddings") is False:
        raise ConversionError(
            name,
            "its MLM head has a decoder of its own (tie_word_embeddings: false), which fits no other word embeddings",
            "name a donor whose decoder is tied",
        )


def _differences(config: dict, donor: Checkpoint, part: Part) -> Iterator[str]:
    """What makes it unlikely that the checkpoint's training started from just this donor."""
    head = next((key for key in donor.tensors if key.startswith("classifier.")), None)
    if head and part is THE_POOLER:
        yield f"the donor has been fine-tuned, and its pooler with it (it holds {head}): its base may be the right one"
    for field, default in SAME_AS_DONOR.items():
        theirs, ours = (it.get(field, default) for it in (donor.config, config))
        if theirs != ours:
            yield f"the donor has {field} {theirs!r}, the checkpoint {ours!r}"
