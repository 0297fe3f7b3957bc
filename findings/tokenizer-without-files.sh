#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 5.23.0: AutoTokenizer of a folder without tokenizer files returns a tokenizer of 5 tokens.
#
# Seen: of a folder that holds config.json and model.safetensors alone (a checkpoint that was saved without its tokenizer):
# a BertTokenizer with len 5; "A sentence." is [2, 1, 1, 1, 3]: each word and the full stop is [UNK]. No error, no warning.
# The config's vocab_size is 60. On 4.57.6 the same call raises (an ImportError about protobuf; the second run here).
# Why it surprises: everything after it runs, and gives one vector for all texts of one length.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 huggingface_hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6

cat > load.py <<'PY'
import transformers
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
BertForMaskedLM(config).save_pretrained("model")
try:
    tokenizer = AutoTokenizer.from_pretrained("model")
    found = [type(tokenizer).__name__, len(tokenizer), tokenizer("A sentence.")["input_ids"]]
except Exception as error:
    found = [type(error).__name__]
print(transformers.__version__, *found)
expected = {"5.23.0": ["BertTokenizer", 5, [2, 1, 1, 1, 3]], "4.57.6": ["ImportError"]}
assert found == expected[transformers.__version__], "no longer as stated"
PY
venv/bin/python load.py
venv/bin/pip install --quiet --no-compile transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.1
venv/bin/python load.py
