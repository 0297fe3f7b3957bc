# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import tempfile
from pathlib import Path

import ctranslate2
import numpy
from asked import answer
from ctranslate2.converters import TransformersConverter  # noqa: F401
from transformers import AutoTokenizer


def without_field(folder):
    """A copy whose config.json lacks a field that transformers 4 wrote and 5 does not."""
    copy = Path(shutil.copytree(folder, tempfile.mkdtemp(dir="."), dirs_exist_ok=True))
    config = json.loads((copy / "config.json").read_text("utf-8"))
    del config["position_embedding_type"]
    (copy / "config.json").write_text(json.dumps(config), "utf-8")
    return str(copy)


def vectors_of(folder, call, texts):
    converted = eval(call).convert("converted", force=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(texts)["input_ids"]]
    return numpy.array(ctranslate2.Encoder(converted).forward_batch(tokens).pooler_output)


answer(vectors_of)
