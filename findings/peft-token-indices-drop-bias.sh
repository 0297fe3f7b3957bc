#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# peft 0.21.2 (transformers 5.23.0): `trainable_token_indices` takes the bias of BERT's MLM decoder out of every forward pass.
#
# Seen: LoraConfig(target_modules=["query"], trainable_token_indices=[7]) on BertForMaskedLM, before any training: each
# logit is lower by exactly `cls.predictions.bias` (largest difference 2.3 here, the largest bias). After
# merge_and_unload() the logits are the base model's again.
# Why it surprises: an adapter that was not trained should change nothing. The decoder's weight is tied to the embeddings
# and is wrapped with them; the wrapper multiplies by the weight alone. Training then fits a model without a bias, and the
# merged model has it again.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 huggingface_hub==2.4.0 safetensors==0.8.0 numpy==2.4.6

venv/bin/python - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForMaskedLM

torch.manual_seed(0)
config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model, ids = BertForMaskedLM(config).eval(), torch.arange(5, 15)[None]
torch.nn.init.normal_(model.cls.predictions.bias)
bias = model.cls.predictions.bias.detach().clone()
with torch.no_grad():
    before = model(ids).logits
    adapted = get_peft_model(model, LoraConfig(target_modules=["query"], trainable_token_indices=[7])).eval()
    difference = before - adapted(ids).logits
    merged = (before - adapted.merge_and_unload()(ids).logits).abs().max().item()
print(f"untrained adapter: logits differ by up to {difference.abs().max():.4f}; largest bias {bias.abs().max():.4f}")
print(f"merged: logits differ by up to {merged:.1e}")
assert torch.allclose(difference, bias.expand_as(difference), atol=1e-5) and merged < 1e-5, "no longer as stated"
PY
