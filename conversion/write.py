# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 5, write: every file of the output, into a folder that has another name until it is whole."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from .bert import POOLER
from .formats import DENSE, DENSE_NAMES
from .plan import Plan
from .sources import read_bytes, to_json
from .staging import MANIFEST, flushed, sync_folder
from .weights import write_safetensors

# The two files that travel lie beside this package's folder.
CODE = Path(__file__).resolve().parent.parent


def write_output(plan: Plan, folder: Path, on_piece: Callable[[int], object], hashed: bool) -> dict[str, str]:
    """Writes every file of the output into `folder`, which exists and is empty, and flushes them to disk.

    Args:
        plan: What to write.
        folder: Where.
        on_piece: Is told how many bytes of tensors have just been written.
        hashed: Hash the tensors on their way.

    Returns:
        The sha256 of each tensor as it was read, if `hashed`.
    """
    for part in ("1_Pooling", "2_Dense"):
        (folder / part).mkdir()
    manifest, digests = {}, {}
    for name, data in small_files(plan):
        with flushed(folder / name) as file:
            file.write(data)
        manifest[name] = hashlib.sha256(data).hexdigest()
    for name, tensors in plan.shards.items():
        with flushed(folder / name) as file:
            digests |= write_safetensors(file, tensors, {MANIFEST: json.dumps(manifest)}, on_piece, hashed)
    for part in (folder / "1_Pooling", folder / "2_Dense", folder):
        sync_folder(part)
    return digests


def small_files(plan: Plan) -> Iterator[tuple[str, bytes]]:
    """Every file but the model's tensors, by its path in the output."""
    yield "config.json", to_json(plan.config)
    yield "README.md", plan.card.encode(errors="replace")
    for name, value in sentence_transformers_files(plan):
        yield name, to_json(value)
    dense = io.BytesIO()
    write_safetensors(dense, dict(zip(DENSE_NAMES, map(plan.pooler.get, POOLER), strict=True)))
    yield DENSE, dense.getvalue()
    yield from plan.tokenizer.contents()
    source = plan.checkpoint.source
    for name in plan.licences:
        yield name, read_bytes(source, name, source.size(name))
    for name in plan.format.code_files:
        yield name, (CODE / name).read_bytes()
    if len(plan.shards) > 1:
        weight_map = {key: name for name, shard in plan.shards.items() for key in sorted(shard)}
        yield (
            "model.safetensors.index.json",
            to_json({"metadata": {"total_size": plan.nbytes}, "weight_map": weight_map}),
        )


def sentence_transformers_files(plan: Plan) -> Iterator[tuple[str, object]]:
    """Transformer, [CLS] pooling, and the pooler as a Dense layer with tanh: `SentenceTransformer(folder)` just works.

    In the spelling that sentence-transformers 3.0 to 6.2 and text-embeddings-inference all read.
    """
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    yield (
        "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(kinds)
        ],
    )
    hidden, length = plan.config["hidden_size"], plan.config["max_position_embeddings"]
    without_logits = {"model_args": {"return_logits": False}} if plan.format.code_files else {}
    yield "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False, **without_logits}
    modes = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "mean_tokens")
    pooling = {f"pooling_mode_{mode}": mode == "cls_token" for mode in modes}
    yield "1_Pooling/config.json", {"word_embedding_dimension": hidden, **pooling}
    dense = {"in_features": hidden, "out_features": hidden, "bias": True}
    yield "2_Dense/config.json", {**dense, "activation_function": "torch.nn.modules.activation.Tanh"}
