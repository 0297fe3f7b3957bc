# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
from asked import answer
from bertopic import BERTopic  # noqa: F401
from bertopic.backend._utils import select_backend
from sentence_transformers import SentenceTransformer  # noqa: F401


def vectors_of(folder, call, texts):
    return select_backend(eval(call).embedding_model).embed(texts)  # as its `fit` does


answer(vectors_of)
