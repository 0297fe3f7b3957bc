# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 1, read: a BERT checkpoint's config and headers, whole or in part."""

from __future__ import annotations

import dataclasses
import functools

from .bert import (
    DECODER_BIAS,
    DROPPED,
    ENCODER,
    HEAD,
    MLM_BIAS,
    POOLER,
    TIED,
    current_names,
    expected_shapes,
    lineage_key,
)
from .errors import ConversionError, listed
from .formats import DENSE, DENSE_NAMES, FORMATS, MODEL_TYPE, MODULES, Format
from .opening import read_config
from .other_kinds import refuse_empty, refuse_other_names
from .provenance import PoolerSource
from .sources import Folder, Source, read_bytes
from .tensors import FLOATS, Tensor, same_bytes
from .weights import read_header, read_tensors


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A BERT checkpoint, the input or a donor: its config and tensors, under today's names, none of them read yet."""

    source: Source
    config: dict  # with BertConfig's sizes filled in
    tensors: dict[str, Tensor]
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)  # stored name -> reason
    stored_bare: bool = False  # as BertModel saves it, without `bert.` in the names

    @property
    def lineage(self) -> Tensor:
        return self.tensors[lineage_key(self.config)]

    @property
    def dtype(self) -> str:
        return self.lineage.dtype

    @property
    def has_mlm_head(self) -> bool:
        return any(key.startswith(HEAD) for key in self.tensors)

    @property
    def pooler(self) -> dict[str, Tensor]:
        """The pooler's tensors that there are: both, in a whole one."""
        return {key: self.tensors[key] for key in POOLER if key in self.tensors}

    @functools.cached_property
    def pooler_in_memory(self) -> dict[str, Tensor]:
        """The same, read once: of a donor on the Hub, it does not come over the wire for each checkpoint anew."""
        return {key: tensor if tensor.data is not None else tensor.in_memory() for key, tensor in self.pooler.items()}

    @property
    def pooler_source(self) -> PoolerSource | None:
        """Where its pooler came from, as far as config.json says so of this very pooler."""
        source = PoolerSource.from_config(self.config.get("pooler_source"))
        return source if source and source.sha256 == {k: it.sha256() for k, it in self.pooler.items()} else None

    @property
    def format(self) -> Format:
        """The format that it is written in."""
        if self.config["model_type"] == MODEL_TYPE:
            return FORMATS["pooled"]
        return FORMATS["encoder" if self.stored_bare else "bert"]

    @property
    def is_converted(self) -> bool:
        """Whether its pooler is one that this program or the pooled classes stored, not a later, random one."""
        if len(self.pooler) < len(POOLER) or never_trained(self):
            return False
        return self.config["model_type"] == MODEL_TYPE or self.pooler_source is not None


def never_trained(checkpoint: Checkpoint) -> bool:
    """Whether its pooler is as it was initialised: any training step moves the bias, which starts at exactly zero."""
    return not checkpoint.pooler[POOLER[1]].values().any()


def lacks_modules(source: Folder) -> bool:
    """Whether sentence-transformers finds no list of modules here, or one whose folders are not there."""
    if MODULES[0] not in source.names():
        return True
    listing = read_bytes(source, MODULES[0]).decode(errors="replace")
    parts = (name.partition("/")[0] for name in MODULES if "/" in name)
    return any(f'"{part}"' in listing and not (source.path / part).is_dir() for part in parts)


def read_dense(source: Folder) -> dict[str, Tensor]:
    """The pooler's tensors as sentence-transformers stores them beside the model; empty where there are none.

    Raises:
        ConversionError: The file is damaged.
    """
    if not (source.path / DENSE).is_file():
        return {}
    stored = read_header(source, DENSE)[0]
    return {key: stored[name] for key, name in zip(POOLER, DENSE_NAMES, strict=True) if name in stored}


def read_part(source: Source, as_donor: bool = False) -> Checkpoint:
    """Whatever tensors there are, under today's names: all that is asked of a donor.

    Raises:
        ConversionError: No config or no weights of a BERT, or a tensor is stored twice.
    """
    config, stored = read_config(source, as_donor), read_tensors(source)
    refuse_other_names(source, stored)
    names = current_names(stored)
    tensors: dict[str, Tensor] = {}
    for key, name in names.items():
        if name in tensors:
            raise ConversionError(f"{source.where()}: {name} is stored twice, once as {key}; save it under one name")
        tensors[name] = stored[key]
    return Checkpoint(source, config, tensors, stored_bare=any(name == ENCODER + key for key, name in names.items()))


def read_checkpoint(source: Source, vectors_only: bool = False) -> Checkpoint:
    """The input: every tensor is held against what its config promises.

    Args:
        source: Where it lies.
        vectors_only: Whether it may lack the MLM head, since the output is not going to have one.

    Raises:
        ConversionError: It is not a whole BERT with an MLM head; all offenders are listed.
    """
    part = read_part(source)
    config = part.config
    refuse_empty(source, [name for name, tensor in part.tensors.items() if tensor.shape == (0,)])
    dropped = {name: reason for name, reason in DROPPED.items() if name in part.tensors}
    if vectors_only:
        heads = sorted(name for name in part.tensors if not name.startswith((ENCODER, HEAD)))
        dropped |= dict.fromkeys(heads, "the head of another task")
    tensors = {name: tensor for name, tensor in part.tensors.items() if name not in dropped}
    if not part.has_mlm_head and not vectors_only:
        raise ConversionError(
            f"{source.where()}: no MLM head (cls.predictions.*)"
            + (", but a pooler: nothing was lost; load it with BertModel" if part.pooler else
               "; it was not saved from BertForMaskedLM. Its encoder alone can get its pooler back: --format encoder")
        )  # fmt: skip
    tensors, settled = settle_tied(source, config, tensors)
    shapes = expected_shapes(config)
    if not part.has_mlm_head:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(HEAD)}
    unknown = sorted(tensors.keys() - shapes.keys())
    missing = sorted(shapes.keys() - tensors.keys() - {*POOLER, *TIED})
    if part.has_mlm_head and config.get("tie_word_embeddings") is False and next(iter(TIED)) not in tensors:
        missing.append(f"{next(iter(TIED))} (config.json says tie_word_embeddings: false)")
    wrong = [
        f"{name} is {tensor}, expected a floating {list(shapes[name])}"
        for name, tensor in sorted(tensors.items())
        if name in shapes and (tensor.shape != shapes[name] or tensor.dtype not in FLOATS)
    ]
    for problem, what in ((unknown, "unknown tensors"), (missing, "missing tensors"), (wrong, "wrong tensors")):
        if problem:
            raise ConversionError(
                f"{source.where()}: {what}, for a BERT with this config.json: {listed(problem)}; is the config of "
                "another checkpoint, or the model not a plain BertForMaskedLM?"
            )
    return dataclasses.replace(part, tensors=tensors, dropped=dropped | settled)


def settle_tied(source: Source, config: dict, stored: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """One copy of each tied pair, under the name that every version of transformers reads; and what was left out.

    An untied head gets its bias under both names: 4.x has one bias, and reads either; 5.x has two, and adds
    `decoder.bias` alone, which it starts at zero where it is not stored.

    Raises:
        ConversionError: The two differ, although the config ties them.
    """
    tensors, dropped = dict(stored), {}
    if config.get("tie_word_embeddings", True) is False:
        bias = tensors.get(DECODER_BIAS, tensors.get(MLM_BIAS))
        if bias is not None:
            if MLM_BIAS in tensors and not same_bytes(bias, tensors[MLM_BIAS]):
                dropped[MLM_BIAS] = f"transformers 5 adds {DECODER_BIAS} instead, which stands in its place as well"
            tensors |= {MLM_BIAS: bias, DECODER_BIAS: bias}
        return tensors, dropped
    for copy, original in TIED.items():
        if copy not in tensors:
            continue
        if original not in tensors:
            tensors[original] = tensors.pop(copy)
        elif same_bytes(tensors[copy], tensors[original]):
            del tensors[copy]
            dropped[copy] = f"tied to {original}"
        else:
            raise ConversionError(
                f"{source.where()}: {copy} differs from {original}, which config.json ties it to; a load would lose "
                "it. If the model was trained untied, set tie_word_embeddings to false in config.json"
            )
    return tensors, dropped
