# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 1, read: a BERT checkpoint, the input or a donor. What it is, is read once, when it is first asked for."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from .bert import (
    DECODER,
    DECODER_BIAS,
    DROPPED,
    ENCODER,
    HEAD,
    MLM_BIAS,
    MLM_HEAD,
    POOLER,
    THE_POOLER,
    TIED,
    WORD_EMBEDDINGS,
    WRAPPERS,
    Part,
    current_names,
    expected_shapes,
    lineage_key,
    matrices,
)  # fmt: skip
from .card import Card, read_card
from .errors import ConversionError, listed
from .formats import DENSE, DENSE_NAMES, FORMATS, MODEL_TYPE, MODULE_LIST, MODULES, Format
from .modules import has_own_modules, model_folder
from .opening import read_config
from .other_kinds import check_names, check_not_empty
from .provenance import HeadSource, PoolerSource
from .sources import Folder, Source, read_bytes
from .tensors import FLOATS, Tensor, same_bytes
from .tokenizer import Tokenizer, read_tokenizer
from .weights import read_header, read_tensors

SAMPLED_ROWS = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A BERT checkpoint: its config, and its tensors under the names that current transformers gives them."""

    source: Source
    config: dict  # with BertConfig's sizes filled in
    tensors: dict[str, Tensor]
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)  # stored name -> reason
    root: Folder | None = None  # of an input: where its other files are
    stored_bare: bool = False  # as BertModel saves it, without `bert.` in the names
    simcse: bool = False  # whether its pooler is SimCSE's `mlp`
    renamed: bool = False  # whether names were stored with the prefix of a wrapper, as DDP or torch.compile add it

    @functools.cached_property
    def lineage(self) -> Tensor:
        """The encoder tensor by which two checkpoints are compared, in memory."""
        return self.tensors[lineage_key(self.config)].in_memory()

    @functools.cached_property
    def sampled_rows(self) -> dict[str, np.ndarray]:
        """A few rows of each matrix of each layer, float64, flat: what a local donor is compared by besides."""
        names = self.tensors.keys() & matrices(self.config)
        return {name: self.tensors[name].head(SAMPLED_ROWS).values() for name in sorted(names)}

    @property
    def dtype(self) -> str:
        return self.tensors[lineage_key(self.config)].dtype

    @property
    def has_mlm_head(self) -> bool:
        return any(key.startswith(HEAD) for key in self.tensors)

    @functools.cached_property
    def pooler_bias(self) -> Tensor | None:
        return self.tensors[POOLER[1]].in_memory() if POOLER[1] in self.tensors else None

    @functools.cached_property
    def pooler(self) -> dict[str, Tensor]:
        """The pooler's tensors that there are (a whole pooler has two), in memory."""
        in_memory = {POOLER[1]: self.pooler_bias} if self.pooler_bias else {}
        return {key: in_memory.get(key) or self.tensors[key].in_memory() for key in POOLER if key in self.tensors}

    @functools.cached_property
    def mlm_head(self) -> dict[str, Tensor]:
        """The MLM head's own tensors that there are, in memory; without the decoder, which is tied to the encoder."""
        stored = {MLM_BIAS: self.tensors[DECODER_BIAS]} if DECODER_BIAS in self.tensors else {}
        return {key: it.in_memory() for key, it in (stored | self.tensors).items() if key in MLM_HEAD}

    def has_trained(self, part: Part) -> bool:
        """Whether a part differs from an initialised one: training moves the bias, which starts at zero."""
        return self.has_trained_pooler if part is THE_POOLER else bool(self.mlm_head[MLM_BIAS].values().any())

    @functools.cached_property
    def has_trained_pooler(self) -> bool:
        return all(key in self.tensors for key in POOLER) and bool(self.pooler_bias.values().any())

    @functools.cached_property
    def pooler_source(self) -> PoolerSource | None:
        """Where its pooler came from, as far as config.json states it about this very pooler."""
        source = PoolerSource.from_config(self.config.get("pooler_source"))
        return source if source and source.sha256 == {key: it.sha256 for key, it in self.pooler.items()} else None

    @functools.cached_property
    def head_source(self) -> HeadSource | None:
        """The same for its MLM head."""
        source = HeadSource.from_config(self.config.get("head_source"))
        return source if source and source.sha256 == {key: it.sha256 for key, it in self.mlm_head.items()} else None

    @functools.cached_property
    def is_converted(self) -> bool:
        """Whether its pooler was stored by this program or by the pooled classes, and is no later, random one."""
        stated = self.config["model_type"] == MODEL_TYPE or "head_source" in self.config
        return self.has_trained_pooler and (stated or self.pooler_source is not None)

    @property
    def format(self) -> Format:
        """The format that it is stored in."""
        if self.config["model_type"] == MODEL_TYPE:
            return FORMATS["pooled"]
        return FORMATS["encoder" if self.stored_bare else "bert"]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return read_tokenizer(self.source, self.config)

    @functools.cached_property
    def card(self) -> Card:
        return read_card(self.root or self.source)

    @functools.cached_property
    def has_own_modules(self) -> bool:
        """Whether it is a sentence-transformers model with modules of its own, which the output keeps."""
        return self.root is None or has_own_modules(self.root, self.config)

    @functools.cached_property
    def dense(self) -> dict[str, Tensor]:
        """The pooler as sentence-transformers stores it next to the model; empty where there is none.

        Raises:
            ConversionError: The file is damaged.
        """
        if self.has_own_modules or not (self.root.path / DENSE).is_file():
            return {}
        stored = read_header(self.source, DENSE)[0]
        return {key: stored[name] for key, name in zip(POOLER, DENSE_NAMES, strict=True) if name in stored}

    @property
    def cannot_load(self) -> str | None:
        """Why transformers can't load it although its pooler is there; the converter can repair that."""
        if self.renamed:
            return "its tensors are stored under the names of a wrapper (DistributedDataParallel, torch.compile)"
        if missing := [name for name in self.format.code_files if name not in self.source.names()]:
            return f"{' and '.join(missing)} missing, which its config.json names"
        return None

    @functools.cached_property
    def lacks_modules(self) -> bool:
        """Whether sentence-transformers finds no list of modules here, or one whose folders are missing."""
        if MODULE_LIST not in self.source.names():
            return True
        text = read_bytes(self.source, MODULE_LIST).decode(errors="replace")
        folders = (name.partition("/")[0] for name in MODULES if "/" in name)
        return any(f'"{folder}"' in text and not (self.source.path / folder).is_dir() for folder in folders)


def read_part(source: Source, any_modules: bool = False) -> Checkpoint:
    """Whatever tensors there are: nothing more is asked of a donor.

    Raises:
        ConversionError: No config or no weights of a BERT, or a tensor is stored twice.
    """
    config, stored = read_config(source, any_modules), read_tensors(source)
    check_names(source, stored)
    names = current_names(stored)
    tensors: dict[str, Tensor] = {}
    for key, name in names.items():
        if name in tensors:
            raise ConversionError(source.where(), f"{name} is stored twice, once as {key}", "save it under one name")
        tensors[name] = stored[key]
    bare = any(name == ENCODER + key for key, name in names.items())
    renamed = any(WRAPPERS & set(key.split(".")) for key in names)
    simcse = any(key.startswith("mlp.dense.") for key in names)
    return Checkpoint(source, config, tensors, stored_bare=bare, simcse=simcse, renamed=renamed)


def read_checkpoint(root: Folder, vectors_only: bool = False, gets_head: bool = False) -> Checkpoint:
    """The input: every tensor is compared with what its config says.

    Args:
        root: Where it is.
        vectors_only: Whether it may lack the MLM head, since the output will have none.
        gets_head: Whether it gets a donor's MLM head, and may have none; it can be a sentence-transformers model.

    Raises:
        ConversionError: It is not a whole BERT with an MLM head; all offending tensors are listed.
    """
    source = model_folder(root) if gets_head else root
    part = dataclasses.replace(read_part(source, any_modules=gets_head), root=root)
    config = part.config
    if gets_head and part.has_mlm_head:
        remedy = "convert it without --head-from"
        raise ConversionError(source.where(), "has an MLM head (cls.predictions.*): it lost none", remedy)
    check_not_empty(source, [name for name, tensor in part.tensors.items() if tensor.shape == (0,)])
    dropped = {name: reason for name, reason in DROPPED.items() if name in part.tensors}
    if vectors_only or gets_head:
        heads = sorted(name for name in part.tensors if not name.startswith((ENCODER, HEAD)))
        dropped |= dict.fromkeys(heads, "the head of another task")
    tensors = {name: tensor for name, tensor in part.tensors.items() if name not in dropped}
    if not part.has_mlm_head and not vectors_only and not gets_head:
        what = "; it was not saved from BertForMaskedLM"
        remedy = "to graft the pooler into its encoder alone: --format encoder"
        if any(key in part.tensors for key in POOLER):
            what, remedy = ", but a pooler: nothing was lost", "load it with BertModel"
        remedy += "; to give it a donor's MLM head: --head-from DONOR"
        raise ConversionError(source.where(), f"no MLM head (cls.predictions.*){what}", remedy)
    _check_vocabulary(source, config, tensors)
    tensors, settled = _settle_tied(source, config, tensors)
    _check_shapes(source, config, tensors, part.has_mlm_head)
    return dataclasses.replace(part, tensors=tensors, dropped=dropped | settled)


def _check_vocabulary(source: Source, config: dict, tensors: dict[str, Tensor]) -> None:
    """Raises ConversionError where tokens were added to some of the tensors that have a row for each token."""
    names = [name for name in (WORD_EMBEDDINGS, DECODER, MLM_BIAS, DECODER_BIAS) if name in tensors]
    sizes = {name: tensors[name].shape[0] for name in names if tensors[name].shape}
    if len({*sizes.values(), config["vocab_size"]}) > 1 and WORD_EMBEDDINGS in sizes:
        found = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ConversionError(
            source.where(),
            f"the vocabulary was resized in part: config.json has vocab_size {config['vocab_size']}, {found}",
            f"where it was trained, run model.resize_token_embeddings({sizes[WORD_EMBEDDINGS]}) and save it again",
        )


def _check_shapes(source: Source, config: dict, tensors: dict[str, Tensor], has_mlm_head: bool) -> None:
    """Raises ConversionError where the tensors are not those of a BERT with this config."""
    shapes = expected_shapes(config)
    if not has_mlm_head:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(HEAD)}
    unknown = sorted(tensors.keys() - shapes.keys())
    missing = sorted(shapes.keys() - tensors.keys() - {*POOLER, *TIED})
    if has_mlm_head and config.get("tie_word_embeddings") is False and DECODER not in tensors:
        missing.append(f"{DECODER} (config.json says tie_word_embeddings: false)")
    wrong = [
        f"{name} is {tensor}, expected a floating {list(shapes[name])}"
        for name, tensor in sorted(tensors.items())
        if name in shapes and (tensor.shape != shapes[name] or tensor.dtype not in FLOATS)
    ]
    for problem, what in ((unknown, "unknown tensors"), (missing, "missing tensors"), (wrong, "wrong tensors")):
        if problem:
            raise ConversionError(
                source.where(),
                f"{what}, for a BERT with this config.json: {listed(problem)}",
                "is the config of another checkpoint, or the model not a plain BertForMaskedLM?",
            )


def _settle_tied(source: Source, config: dict, stored: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
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
                dropped[MLM_BIAS] = f"transformers 5 adds {DECODER_BIAS} instead, which is stored in its place as well"
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
                source.where(),
                f"{copy} differs from {original}, which config.json ties it to; a load would lose it",
                "if the model was trained untied, set tie_word_embeddings to false in config.json",
            )
    return tensors, dropped
