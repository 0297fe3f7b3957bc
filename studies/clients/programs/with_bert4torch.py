# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import torch
from asked import answer, with_file
from transformers import AutoTokenizer

# bert4torch imports torchvision, for other models. Its build for GPUs imports beside the CPU build of torch once the
# operators that it cannot load are declared; nothing here calls them.
for operator in ("nms", "qnms"):
    torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")

from bert4torch.models import build_transformer_model  # noqa: E402, F401


def with_config(folder):
    """A copy that has bert4torch's own configuration beside BERT's."""
    config = json.loads(Path(folder, "config.json").read_text("utf-8")) | {"model": "bert"}
    return with_file(folder, "bert4torch_config.json", json.dumps(config))


@torch.no_grad()
def vectors_of(folder, call, texts):
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(texts, padding=True, return_tensors="pt")
    model = eval(call).eval()
    outputs = model([inputs["input_ids"], inputs["token_type_ids"]])
    return outputs[1]


answer(vectors_of)
