# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
from asked import answer
from keybert import KeyBERT  # noqa: F401
from sentence_transformers import SentenceTransformer  # noqa: F401


def vectors_of(folder, call, texts):
    client = eval(call)
    client.extract_keywords(texts[2])
    return client.model.embed(texts)


answer(vectors_of)
