#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# peft 0.21.2 (transformers 5.23.0): `modules_to_save=["word_embeddings"]`, merged and saved, is loaded with an MLM decoder
# whose bias is zero.
#
# Seen: get_peft_model, merge_and_unload, save_pretrained, BertForMaskedLM.from_pretrained, without any training: the merged
# model's logits in memory are the base model's; those of the loaded one differ by up to 2.3, its
# `cls.predictions.decoder.bias` is MISSING in the load report and zero, while `cls.predictions.bias` is in the file and
# is loaded.
# Why it surprises: what is saved is not what was in memory. Merging warns that input and output embeddings are no longer
# tied, and sets `tie_word_embeddings=False`; that the one stored bias then no longer reaches the decoder, nothing says.
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
with torch.no_grad():
    before = model(ids).logits
    adapted = get_peft_model(model, LoraConfig(target_modules=["query"], modules_to_save=["word_embeddings"]))
    merged = adapted.merge_and_unload()
    in_memory = (before - merged(ids).logits).abs().max().item()
    merged.save_pretrained("merged")
    loaded, report = BertForMaskedLM.from_pretrained("merged", output_loading_info=True)
    from_disk = (before - loaded.eval()(ids).logits).abs().max().item()
head, missing = loaded.cls.predictions, [*report["missing_keys"]]
print(f"logits differ in memory by {in_memory:.1e}, loaded from disk by {from_disk:.4f}; missing: {missing}")
print(f"largest decoder.bias {head.decoder.bias.abs().max():.4f}, largest predictions.bias {head.bias.abs().max():.4f}")
assert in_memory < 1e-5 < 0.1 < from_disk and missing == ["cls.predictions.decoder.bias"], "no longer as stated"
assert not head.decoder.bias.any() and head.bias.any(), "no longer as stated"
PY
