"""Puts heads on converted checkpoints, trains each for three steps, and saves it."""

import json
import os
import sys

import torch
import transformers
from common import say, trusted
from transformers import AutoTokenizer

folder, out = sys.argv[1:3]
jobs, labels = map(json.loads, sys.argv[3:])
found = {}
for name, (head, format, cls) in jobs.items():
    source = f"{folder}/{format}"
    torch.manual_seed(0)
    model, info = getattr(transformers, cls).from_pretrained(
        source, output_loading_info=True, **(trusted(format) if cls.startswith("Auto") else {})
    )
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=format == "pooled")
    inputs = tokenizer("word1 word2 word3", return_tensors="pt")
    targets = {key: torch.tensor(value) for key, value in labels[head].items()}
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    model.eval()  # without dropout, the loss falls at each of these steps
    for _ in range(3):
        loss = model(**inputs, **targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.save_pretrained(f"{out}/{name}")
    tokenizer.save_pretrained(f"{out}/{name}")
    found[name] = {
        "class": type(model).__name__,
        "missing": sorted(info["missing_keys"]),
        "losses": losses,
        "files": sorted(os.listdir(f"{out}/{name}")),
    }
say([found, "bert_pooled_mlm" in sys.modules])
