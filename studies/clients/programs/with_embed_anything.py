# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import os
import shutil
from pathlib import Path

import embed_anything
from asked import answer
from embed_anything import EmbeddingModel  # noqa: F401


def cached(folder):
    """The name of the folder as a repo in the Hub's cache: it asks the Hub for all that is not there."""
    name = Path(folder).name
    repo = Path(os.environ["HF_HOME"], "hub", f"models--local--{name}")
    shutil.copytree(folder, repo / "snapshots" / "0")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0", "utf-8")
    return f"local/{name}"


def vectors_of(folder, call, texts):
    try:
        return [found.embedding for found in embed_anything.embed_query(texts, embedder=eval(call))]
    except BaseException as error:  # Rust's panics are no Exception
        raise RuntimeError(error) from None


answer(vectors_of)
