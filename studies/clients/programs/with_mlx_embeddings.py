# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import shutil
from pathlib import Path

import numpy
from asked import answer
from mlx_embeddings import load  # noqa: F401
from transformers import AutoTokenizer


def without_dense(folder):
    copy = shutil.copytree(folder, "alone")
    shutil.rmtree(Path(copy, "2_Dense"))
    return copy


def vectors_of(folder, call, texts):
    tokenized = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="mlx")
    inputs = {name: tokenized[name] for name in ("input_ids", "attention_mask")}  # noqa: F841
    return numpy.array(eval(call))


answer(vectors_of)
