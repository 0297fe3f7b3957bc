# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
from asked import answer
from text2vec import SentenceModel  # noqa: F401


def vectors_of(folder, call, texts):
    return eval(call).encode(texts)


answer(vectors_of)
