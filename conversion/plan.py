# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 3, decide: all that is going to be written, whole before the first byte is; what follows from it is derived."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from pathlib import Path

from .bert import ENCODER, HEAD, POOLER
from .card import model_card, read_card
from .checkpoint import Checkpoint, never_trained, read_dense
from .donors import Donor, Donors
from .errors import ConversionError
from .fields import OWN, travelling
from .formats import DENSE, MODULES, Format
from .provenance import Fit, PoolerSource
from .sources import CONFIG_FILES, LICENCES, WEIGHT_FILES, Folder, local_path
from .staging import check_apart, check_output
from .tensors import Tensor, same_pooler
from .tokenizer import STOCK, Tokenizer, choose_tokenizer, read_tokenizer

NAMED_FIELDS = 20  # of config.json that are left out: the rest is counted
COPIED_LIMIT = 1 << 27  # bytes of one copied file; the largest tokenizers have a tenth


@dataclasses.dataclass(frozen=True)
class Plan:
    """A conversion that nothing speaks against."""

    checkpoint: Checkpoint
    donor: Donor | None  # None: the checkpoint keeps its own pooler
    pooler: dict[str, Tensor]  # as it is going to be stored
    format: Format
    output: Path
    title: str  # what the model card loads it by
    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()
    replaced: bool = False  # whether the input's own pooler gives way
    fit: Fit | None = None  # what was done to the donor's pooler

    def refitted(self, pooler: dict[str, Tensor], fit: Fit) -> Plan:
        """This plan with another pooler, which `fit` made of the donor's."""
        return dataclasses.replace(self, pooler=pooler, fit=fit)

    @functools.cached_property
    def _files(self) -> dict[str, dict[str, Tensor]]:
        """The input's files to what of them is stored: the pooler goes beside the last layer."""
        files: dict[str, dict[str, Tensor]] = {}
        for key, tensor in (self.checkpoint.tensors | self.pooler).items():
            if self.format.has_mlm_head or not key.startswith(HEAD):
                own = self.checkpoint.tensors.get(key)
                beside = own if tensor is own else self.checkpoint.lineage
                name = self.format.prefix + key.removeprefix(ENCODER) if key.startswith(ENCODER) else key
                files.setdefault(beside.file, {})[name] = tensor
        return files

    @functools.cached_property
    def shards(self) -> dict[str, dict[str, Tensor]]:
        """Output files to tensors, under the names of the format: single stays single, shards stay shards."""
        count = len(self._files)
        names = (f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))
        parts = [self._files[file] for file in sorted(self._files)]
        return {"model.safetensors": parts[0]} if count == 1 else dict(zip(names, parts, strict=True))

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All that is stored."""
        return {name: tensor for part in self.shards.values() for name, tensor in part.items()}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @functools.cached_property
    def dropped(self) -> dict[str, str]:
        """Tensors and config fields of the input that are not written, and why."""
        dropped = dict(self.checkpoint.dropped)
        fields = [name for name in self._fields[1] if name != "auto_map" or not self.checkpoint.is_converted]
        reason = "neither BERT's, nor known to be harmless"
        dropped |= {f"config.json's {name:.60}": reason for name in fields[:NAMED_FIELDS]}
        if len(fields) > NAMED_FIELDS:
            dropped[f"{len(fields) - NAMED_FIELDS} more fields of config.json"] = reason
        if self.replaced:
            dropped |= dict.fromkeys(sorted(self.checkpoint.pooler), "replaced (--replace-pooler)")
        if not self.format.has_mlm_head:
            heads = sorted(key for key in self.checkpoint.tensors if key.startswith(HEAD))
            dropped |= dict.fromkeys(heads, f"the MLM head, which --format {self.format.name} leaves out")
        return dropped

    @functools.cached_property
    def licences(self) -> list[str]:
        return sorted(self.checkpoint.source.names().intersection(LICENCES))

    @property
    def copied(self) -> list[str]:
        """The input's files that the output has as well."""
        return sorted([*self.licences, *(() if self.tokenizer.lent else self.tokenizer.files)])

    @functools.cached_property
    def left_behind(self) -> list[str]:
        """Files and folders of the input that have no part in the output."""
        read = {tensor.file for tensor in self.checkpoint.tensors.values()}
        anew = {name.partition("/")[0] for name in MODULES}
        others = {*CONFIG_FILES, "README.md", *self.copied, *WEIGHT_FILES}
        return sorted(self.checkpoint.source.names() - others - read - anew)

    @functools.cached_property
    def pooler_source(self) -> PoolerSource | None:
        if self.donor is None:
            return self.checkpoint.pooler_source
        source = self.donor.checkpoint.source
        return PoolerSource(
            PoolerSource.name_of(source.label),
            source.commit,
            {key: tensor.sha256() for key, tensor in self.pooler.items()},
            round(self.donor.cosine, 6),
            self.donor.objections,
            self.fit,
            {key: tensor.sha256() for key, tensor in self.donor.pooler.items()} if self.fit else None,
        )

    @functools.cached_property
    def _fields(self) -> tuple[dict, list[str]]:
        """config.json's fields that travel, and the names of the others."""
        return travelling(self.checkpoint.config, self.checkpoint.source.where("config.json"))

    @functools.cached_property
    def config(self) -> dict:
        """The input's config.json, made that of the output; nothing of its own code is followed."""
        own = {name: value for name, value in self._fields[0].items() if name in OWN}
        config = {name: value for name, value in self._fields[0].items() if name not in OWN}
        if self.format.auto_map is not None:
            config |= {**self.format.config_defaults, **own, "auto_map": self.format.auto_map}
        if self.format.auto_map is not None or self.tokenizer.class_name != STOCK or "tokenizer_class" in config:
            config["tokenizer_class"] = self.tokenizer.class_name  # pipelines of 4.x find the tokenizer by it
        config |= {"architectures": [self.format.architecture], "model_type": self.format.model_type}
        return config | ({"pooler_source": self.pooler_source.to_config()} if self.pooler_source else {})

    @property
    def commit_message(self) -> str:
        label = self.donor.checkpoint.source.label if self.donor else "its own"
        return f"BERT with its pooler ({label}), in the {self.format.name} format of bert-pooled-mlm"

    @functools.cached_property
    def card(self) -> str:
        """README.md."""
        label = self.donor.checkpoint.source.label if self.donor else ""
        metadata, text = read_card(self.checkpoint.source)
        base = label if "/" in label else None
        has_tokenizer = self.tokenizer.source is not None
        return model_card(metadata, text, self.title, self.format, self.pooler_source, base, has_tokenizer)


def make_plan(
    checkpoint: Checkpoint,
    output: Path,
    donors: Donors,
    *,
    format: Format,
    title: str,
    pooler_from: str | None,
    pooler_revision: str | None,
    replace_pooler: bool,
    force_donor: bool,
    overwrite: bool,
    texts: str | None,
) -> Plan:
    """Finds the donor, where one is needed, and checks that nothing speaks against the conversion.

    Args:
        texts: What the pooler is going to be refitted on, if it is: then a donor is needed in any case.

    Raises:
        ConversionError: Something does; nothing has been written.
    """
    source = checkpoint.source
    check_pooler(checkpoint, replace_pooler)
    check_apart(output, source.path, "the checkpoint")
    if texts is not None and os.path.exists(local_path(texts)):
        check_apart(output, local_path(texts), "the texts")
    check_output(output, overwrite)
    kept = {} if replace_pooler else checkpoint.pooler
    donor, notes = None, ()
    if texts is not None or len(kept) < len(POOLER):
        donor, notes = donors.find(checkpoint, pooler_from, pooler_revision, force_donor)
        if isinstance(donor.checkpoint.source, Folder):
            check_apart(output, donor.checkpoint.source.path, "the donor")
        check_replaceable(checkpoint, donor, kept)
    lender = (donor.checkpoint.source, donor.checkpoint.config) if donor else None
    tokenizer = choose_tokenizer(read_tokenizer(source, checkpoint.config), checkpoint.config["vocab_size"], lender)
    pooler = donor.pooler if donor else kept
    plan = Plan(checkpoint, donor, pooler, format, output, title, tokenizer, notes, replace_pooler)
    for file in plan.copied:
        if source.size(file) > COPIED_LIMIT:
            raise ConversionError(f"{source.where(file)}: {source.size(file)} bytes; expected {COPIED_LIMIT} at most")
    plan.card, plan.config  # noqa: B018  what can't be written is found before anything is
    disk = next(parent for parent in Path(os.path.abspath(output)).parents if parent.exists())
    free = shutil.disk_usage(disk).free
    if plan.nbytes > free:
        raise ConversionError(f"{disk}: {plan.nbytes} bytes to write, {free} free; make room or choose another -o")
    return plan


def check_pooler(checkpoint: Checkpoint, replace: bool) -> None:
    """Refuses a checkpoint whose own pooler would give way, or stay, without anybody having asked for that.

    Raises:
        ConversionError: It has one that was not grafted, or two that differ.
    """
    where, pooler = checkpoint.source.where(), checkpoint.pooler
    if pooler and not replace and not checkpoint.is_converted:
        if len(pooler) == len(POOLER) and never_trained(checkpoint):
            raise ConversionError(
                f"{where}: its pooler was never trained (the bias is exactly zero, as where allow_missing_pooler=True "
                "starts a new one, and any training step moves it): graft the original over it with --replace-pooler"
            )
        raise ConversionError(
            f"{where}: has a pooler already (bert.pooler.dense.*), and loads without a random one. If that "
            "one was random when it was saved, graft the original over it: --replace-pooler"
        )
    if pooler and not replace and (dense := read_dense(checkpoint.source)) and not same_pooler(dense, pooler):
        raise ConversionError(
            f"{where}: {DENSE} is not bert.pooler.dense: one of them was trained after the other was stored, the "
            "former as a rule, in sentence-transformers; writing one would lose the other. Use the folder as it is "
            "with SentenceTransformer; or convert a copy of it without 2_Dense, where bert.pooler.dense counts"
        )


def check_replaceable(checkpoint: Checkpoint, donor: Donor, kept: dict[str, Tensor]) -> None:
    """Refuses to replace a pooler that holds training of its own.

    Raises:
        ConversionError: It is neither the donor's nor the one that was grafted.
    """
    digests = {key: tensor.sha256() for key, tensor in kept.items()}
    original = {key: tensor.sha256() for key, tensor in donor.pooler.items()}
    if digests and digests != original and checkpoint.pooler_source is None:
        raise ConversionError(
            f"{checkpoint.source.where()}: its pooler is not that of {donor}: it has been trained, or came from "
            "another model. A fit starts from the donor's, and would replace it: --replace-pooler"
        )
