# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
from asked import answer
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType  # noqa: F401


def vectors_of(folder, call, texts):
    name = f"{folder}/{call}"  # a name is taken once
    options = {"normalization": False, "sources": ModelSource(hf=name), "dim": 384, "model_file": "model.onnx"}
    TextEmbedding.add_custom_model(name, pooling=eval(call), **options)
    return [*TextEmbedding(name, specific_model_path=folder).embed(texts)]


answer(vectors_of)
