# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import tempfile
from pathlib import Path

import torch
from asked import answer
from bert4torch.models import build_transformer_model  # noqa: F401
from transformers import AutoTokenizer


def with_config(folder):
    """A copy that has bert4torch's own configuration beside BERT's."""
    copy = Path(shutil.copytree(folder, tempfile.mkdtemp(dir="."), dirs_exist_ok=True))
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "bert4torch_config.json").write_text(json.dumps(config | {"model": "bert"}), "utf-8")
    return str(copy)


@torch.no_grad()
def vectors_of(folder, call, texts):
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(texts, padding=True, return_tensors="pt")
    model = eval(call).eval()
    outputs = model([inputs["input_ids"], inputs["token_type_ids"]])
    return outputs[1]


answer(vectors_of)
