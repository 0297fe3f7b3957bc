# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import torch
from asked import answer
from torchao import quantization
from torchao.quantization import Int8WeightOnlyConfig  # noqa: F401
from transformers import AutoModel, AutoTokenizer  # noqa: F401


def quantize_(model, config):
    quantization.quantize_(model, config)  # in place
    return model.eval()


@torch.no_grad()
def vectors_of(folder, call, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return eval(call)(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output


answer(vectors_of)
