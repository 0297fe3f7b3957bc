# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Traced for Elasticsearch, and the traced model run."""

import tempfile

import torch
from asked import answer, with_vocabulary  # noqa: F401
from eland.ml.pytorch.transformers import TransformerModel  # noqa: F401
from transformers import AutoTokenizer


@torch.no_grad()
def vectors_of(folder, call, texts):
    client = eval(call)
    if client._task_type != "text_embedding":
        raise RuntimeError(f"taken for {client._task_type}")
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
