# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
from asked import answer
from sentence_transformers import SparseEncoder  # noqa: F401
from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer  # noqa: F401

trusted = {"trust_remote_code": True}


def vectors_of(folder, call, texts):
    return eval(call).encode(texts, convert_to_sparse_tensor=False)


answer(vectors_of)
