# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 5, write: every file of the output, into a staging folder."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from .bert import POOLER
from .formats import DENSE, DENSE_NAMES, sentence_transformers_files
from .plan import Plan
from .sources import to_json
from .staging import MANIFEST, flushed, sync_folder
from .weights import write_safetensors

CODE = Path(__file__).resolve().parent.parent  # the folder of the two code files that pooled checkpoints get


def write_output(plan: Plan, folder: Path, on_piece: Callable[[int], object], checked: bool) -> dict[str, int]:
    """Writes every file of the output into `folder`, which exists and is empty, and flushes them to disk.

    Args:
        plan: What to write.
        folder: Where.
        on_piece: Is called with the number of tensor bytes that have just been written.
        checked: Compute checksums of the tensors while they are copied.

    Returns:
        The checksum of each tensor as it was read, if `checked`.
    """
    manifest, checksums = {}, {}
    for name, data in small_files(plan):
        (folder / name).parent.mkdir(exist_ok=True)
        with flushed(folder / name) as file:
            file.write(data)
        manifest[name] = hashlib.sha256(data).hexdigest()
    for name, tensors in plan.shards.items():
        with flushed(folder / name) as file:
            checksums |= write_safetensors(file, tensors, {MANIFEST: json.dumps(manifest)}, on_piece, checked)
    for part in sorted({(folder / name).parent for name in manifest}, reverse=True):
        sync_folder(part)
    return checksums


def small_files(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Every file but the model's weights, by its path in the output."""
    yield "config.json", to_json(plan.config)
    yield "README.md", plan.card.encode(errors="replace")
    yield from plan.modules.items() if plan.modules is not None else _own_modules(plan)
    yield from plan.tokenizer.contents.items()
    yield from plan.licences.items()
    for name in plan.format.code_files:
        yield name, (CODE / name).read_bytes()
    if len(plan.shards) > 1:
        weight_map = {key: name for name, shard in plan.shards.items() for key in sorted(shard)}
        yield (
            "model.safetensors.index.json",
            to_json({"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map}),
        )


def _own_modules(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """The modules by which sentence-transformers gives pooler_output."""
    hidden, length = plan.config["hidden_size"], plan.config["max_position_embeddings"]
    model_args = {"return_logits": False} if plan.format.code_files else {}
    for name, value in sentence_transformers_files(hidden, length, model_args).items():
        yield name, to_json(value)
    dense = io.BytesIO()
    write_safetensors(dense, dict(zip(DENSE_NAMES, map(plan.graft.pooler.get, POOLER), strict=True)))
    yield DENSE, dense.getvalue()
