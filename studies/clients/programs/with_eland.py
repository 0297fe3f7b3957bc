# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Traced for Elasticsearch, and the traced model run."""

import shutil
import tempfile
from pathlib import Path

import torch
from asked import answer
from eland.ml.pytorch.transformers import TransformerModel  # noqa: F401
from transformers import AutoTokenizer


def with_vocabulary(folder):
    """A copy that holds vocab.txt, which the client's slow tokenizer reads, and transformers 5 does not write."""
    copy = Path(shutil.copytree(folder, tempfile.mkdtemp(dir="."), dirs_exist_ok=True))
    ids = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    (copy / "vocab.txt").write_text("\n".join(sorted(ids, key=ids.get)), "utf-8")
    return str(copy)


@torch.no_grad()
def vectors_of(folder, call, texts):
    client = eval(call)
    path, *_ = client.save(tempfile.mkdtemp(dir="."))
    traced = torch.jit.load(path)
    vectors = []
    for text in texts:
        inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(text, return_tensors="pt")
        positions = torch.arange(inputs["input_ids"].shape[1])[None]
        output = traced(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"], positions)
        vectors.append((output[0] if isinstance(output, tuple) else output)[0])
    return vectors


answer(vectors_of)
