# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The line says what it imports, too."""

from asked import answer


def vectors_of(folder, call, texts):
    imports, line = call.split("; ")
    names = {"folder": folder, "texts": texts}
    exec(imports, names)
    return eval(line, names)


answer(vectors_of)
