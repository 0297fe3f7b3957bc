# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The line begins with what it imports, and ends with the vectors."""

from asked import answer


def vectors_of(folder, call, texts):
    before, _, line = call.rpartition("; ")
    names = {"folder": folder, "texts": texts}
    exec(before, names)
    return eval(line, names)


answer(vectors_of)
