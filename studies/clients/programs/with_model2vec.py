# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Each text is distilled as one token, so that its static vector is what the client takes for the text."""

import json
from pathlib import Path

from asked import answer, with_file
from model2vec.distill import distill  # noqa: F401


def unpadded(folder):
    """A copy whose tokenizer does not pad: model2vec attends to the [PAD] of a word that it is told to add."""
    tokenizer = json.loads(Path(folder, "tokenizer.json").read_text("utf-8")) | {"padding": None}
    return with_file(folder, "tokenizer.json", json.dumps(tokenizer))


def vectors_of(folder, call, texts):
    # No words but the texts, and nothing done to their vectors.
    plain = {"vocabulary": texts, "token_remove_pattern": r"[^\[]", "pca_dims": None, "sif_coefficient": None}
    plain["quantize_to"] = "float32"
    static = eval(call)
    normalized = [static.tokenizer.normalizer.normalize_str(text).strip() for text in texts]
    return [static.embedding[static.tokenizer.token_to_id(text)] for text in normalized]


answer(vectors_of)
