# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 3, plan: everything that is going to be written, complete before the first byte is."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from .bert import ENCODER, HEAD
from .card import model_card
from .checkpoint import Checkpoint
from .errors import ConversionError
from .fields import OWN, kept_fields
from .formats import MODULES, Format
from .graft import Graft
from .modules import BELOW, own_modules
from .options import Options
from .provenance import HeadSource, PoolerSource
from .sources import CONFIG_FILES, LICENCES, WEIGHT_FILES, Folder, local_path, read_bytes
from .staging import check_apart, existing_parent
from .tensors import Tensor
from .tokenizer import STOCK, Tokenizer

NAMED_FIELDS = 20  # of config.json that are dropped; the rest is counted


@dataclasses.dataclass(frozen=True)
class Plan:
    """A conversion that has passed all checks."""

    graft: Graft
    format: Format
    output: Path
    pooler_source: PoolerSource | None
    tokenizer: Tokenizer
    config: dict  # config.json
    card: str  # README.md
    shards: dict[str, dict[str, Tensor]]  # output file -> tensors, under the names of the format
    dropped: dict[str, str]  # tensors and config fields of the input that are not written -> reason
    licences: dict[str, bytes]
    modules: dict[str, bytes] | None  # sentence-transformers' files of the input; None: ours are written
    left_behind: list[str]  # files and folders of the input that are not used

    @property
    def checkpoint(self) -> Checkpoint:
        return self.graft.checkpoint

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All that is stored."""
        return {name: tensor for shard in self.shards.values() for name, tensor in shard.items()}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def copied(self) -> list[str]:
        """The input's files that the output has as well."""
        tokenizer = () if self.tokenizer.from_donor else self.tokenizer.files
        return sorted([*self.licences, *tokenizer, *(self.modules or ())])

    @property
    def donor_label(self) -> str | None:
        return self.graft.donor.checkpoint.source.label if self.graft.donor else None

    @property
    def commit_message(self) -> str:
        return (
            f"BERT with its pooler ({self.donor_label or 'its own'}), in bert-pooled-mlm's {self.format.name} format"
        )


def make_plan(graft: Graft, output: Path, options: Options) -> Plan:
    """Plans the output, and checks that it can be written.

    Raises:
        ConversionError: It can't; nothing has been written.
    """
    checkpoint, format, donor = graft.checkpoint, options.target, graft.donor
    root, names = checkpoint.root, checkpoint.root.names()
    _check_destination(graft, output, options)
    tokenizer, source = choose_tokenizer(graft), graft.source()
    head_source = graft.head_source() if format.has_mlm_head else None
    modules, left_out = None, {}
    if checkpoint.has_own_modules:
        modules, left_out = own_modules(root, checkpoint.source, bool(format.code_files))
    fields, dropped_fields = kept_fields(checkpoint.config, checkpoint.source.where("config.json"))
    if graft.head:
        fields.pop("tie_word_embeddings", None)
    base = donor.checkpoint.source.label if donor and "/" in donor.checkpoint.source.label else None
    title, has_tokenizer = options.push_to_hub or output.name, tokenizer.source is not None
    licences = {name: read_bytes(root, name) for name in sorted(names.intersection(LICENCES))}
    read = {tensor.file for tensor in checkpoint.tensors.values()}
    written = modules or MODULES
    known = {*CONFIG_FILES, "README.md", *licences, *WEIGHT_FILES, *(name.partition("/")[0] for name in written)}
    known |= {BELOW} if checkpoint.source is not root else set()
    plan = Plan(
        graft,
        format,
        output,
        source,
        tokenizer,
        output_config(fields, format, tokenizer, source, head_source, modules is not None),
        model_card(checkpoint.card, title, format, source, base, has_tokenizer, head_source, modules is not None),
        _shards(graft, format),
        _dropped(graft, format, dropped_fields) | left_out,
        licences,
        modules,
        sorted(names - known - read - {*(() if tokenizer.from_donor else tokenizer.files)}),
    )
    disk = existing_parent(output.parent)
    if plan.nbytes > (free := shutil.disk_usage(disk).free):
        raise ConversionError(disk, f"{plan.nbytes} bytes to write, {free} free", "make room or choose another -o")
    return plan


def _check_destination(graft: Graft, output: Path, options: Options) -> None:
    """Raises ConversionError where the output would overlap something that is read."""
    for donor in graft.donors:
        if isinstance(donor.checkpoint.source, Folder):
            check_apart(output, donor.checkpoint.source.path, "the donor")
    if options.calibrate is not None and local_path(options.calibrate).exists():
        check_apart(output, local_path(options.calibrate), "the texts")


def choose_tokenizer(graft: Graft) -> Tokenizer:
    """The checkpoint's own tokenizer; where it has no files of one, the donor's, if both have as many embeddings."""
    own, donor = graft.checkpoint.tokenizer, graft.tokenizer_from
    if donor is None or donor.config["vocab_size"] != graft.checkpoint.config["vocab_size"]:
        return own
    return own if donor.tokenizer.source is None else dataclasses.replace(donor.tokenizer, from_donor=True)


def _shards(graft: Graft, format: Format) -> dict[str, dict[str, Tensor]]:
    """A single file stays one file, shards stay shards; the pooler is stored in the shard of the last layer."""
    stored, last = graft.checkpoint.tensors, graft.checkpoint.lineage.file
    files: dict[str, dict[str, Tensor]] = {}
    for key, tensor in (stored | graft.grafted).items():
        if format.has_mlm_head or not key.startswith(HEAD):
            name = format.prefix + key.removeprefix(ENCODER) if key.startswith(ENCODER) else key
            files.setdefault(last if key in graft.grafted else tensor.file, {})[name] = tensor
    if len(files) == 1:
        return {"model.safetensors": next(iter(files.values()))}
    names = (f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1))
    return dict(zip(names, (files[file] for file in sorted(files)), strict=True))


def _dropped(graft: Graft, format: Format, fields: list[str]) -> dict[str, str]:
    checkpoint = graft.checkpoint
    dropped = dict(checkpoint.dropped)
    fields = [name for name in fields if name != "auto_map" or not checkpoint.is_converted]
    reason = "neither BERT's, nor known to be harmless"
    dropped |= {f"config.json's {name:.60}": reason for name in fields[:NAMED_FIELDS]}
    if len(fields) > NAMED_FIELDS:
        dropped[f"{len(fields) - NAMED_FIELDS} more fields of config.json"] = reason
    if graft.replaced:
        dropped |= dict.fromkeys(sorted(checkpoint.pooler), "replaced (--replace-pooler)")
    if graft.head and checkpoint.config.get("tie_word_embeddings") is False:
        dropped["config.json's tie_word_embeddings"] = "false; the decoder of the grafted MLM head is tied"
    if not format.has_mlm_head:
        heads = sorted(key for key in checkpoint.tensors if key.startswith(HEAD))
        dropped |= dict.fromkeys(heads, f"the MLM head, which --format {format.name} leaves out")
    return dropped


def output_config(
    fields: dict,
    format: Format,
    tokenizer: Tokenizer,
    source: PoolerSource | None,
    head_source: HeadSource | None,
    keep_modules: bool,
) -> dict:
    """config.json of the output; no code of the input is named in it."""
    config = {name: value for name, value in fields.items() if name not in OWN}
    if format.auto_map is not None:
        own = {name: value for name, value in fields.items() if name in OWN}
        config |= {**format.config_defaults, **own, "auto_map": format.auto_map}
    if format.auto_map is not None or tokenizer.class_name != STOCK or "tokenizer_class" in config:
        config["tokenizer_class"] = tokenizer.class_name  # pipelines of 4.x find the tokenizer by it
    config.setdefault("position_embedding_type", "absolute")  # CTranslate2 needs it; transformers 5 does not write it
    config |= {"architectures": [format.architecture], "model_type": format.model_type}
    config |= {"keep_modules": True} if keep_modules else {}
    config |= {"head_source": head_source.to_config()} if head_source else {}
    return config | ({"pooler_source": source.to_config()} if source else {})
