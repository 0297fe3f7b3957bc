# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
import torch
from adapters import AutoAdapterModel  # noqa: F401
from asked import answer
from transformers import AutoTokenizer


@torch.no_grad()
def vectors_of(folder, call, texts):
    model = eval(call).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output


answer(vectors_of)
