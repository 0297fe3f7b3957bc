# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Trained, saved, loaded, merged, saved: and opened by sentence-transformers."""

import tempfile
from pathlib import Path

import torch
from asked import answer
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: F401
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForMaskedLM, AutoTokenizer


def vectors_of(folder, call, texts):
    def base():
        return AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    model = get_peft_model(base(), eval(call))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained("adapter")
    merged = Path(tempfile.mkdtemp(dir=".")).absolute()
    PeftModel.from_pretrained(base(), "adapter").merge_and_unload().save_pretrained(merged)
    tokenizer.save_pretrained(merged)
    return SentenceTransformer(str(merged), trust_remote_code=True).encode(texts), {"weights": str(merged)}


answer(vectors_of)
