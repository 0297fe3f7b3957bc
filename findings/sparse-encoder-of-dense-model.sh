#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# sentence-transformers 6.2.0: `SparseEncoder` of a checkpoint with an MLM head is SPLADE; of the same checkpoint with
# `SentenceTransformer`'s modules.json beside it, it is random at each load.
#
# Seen: SparseEncoder(checkpoint) gives one weight for each of the 60 words, the same at each load. Where the folder also
# has what SentenceTransformer.save writes (modules.json, 1_Pooling), SparseEncoder(folder) consists of those modules and
# a new SparseAutoEncoder of 128 numbers: two loads give one text vectors of another direction (cosine below 0.9). Nothing
# says that weights are new; the log says "Converting SentenceTransformer model ... to SparseEncoder".
# Why it surprises: the weights in both folders are equal, MLM head included; a file that describes dense
# vectors decides, and `encode` of the random module works like that of a trained one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.23.0 sentence-transformers==6.2.0 huggingface_hub==2.4.0 tokenizers==0.23.3 numpy==2.4.6

venv/bin/python - <<'PY'
import shutil
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

Path("checkpoint").mkdir()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence", "."] + [f"w{n}" for n in range(52)]
Path("checkpoint", "vocab.txt").write_text("\n".join(words))
BertTokenizer.from_pretrained("checkpoint").save_pretrained("checkpoint")
config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
torch.manual_seed(0)
BertForMaskedLM(config).save_pretrained("checkpoint")
SentenceTransformer(modules=[Transformer("checkpoint"), Pooling(32, "cls")]).save("dense")
shutil.copy("checkpoint/model.safetensors", "dense/model.safetensors")  # with the MLM head, as in the checkpoint
shutil.copy("checkpoint/config.json", "dense/config.json")


def loaded(folder):
    models = [SparseEncoder(folder) for _ in range(2)]
    modules = [type(module).__name__ for module in models[0]]
    vectors = [model.encode("a sentence .", convert_to_sparse_tensor=False) for model in models]
    cosine = torch.cosine_similarity(*vectors, dim=0).item()
    print(f"{folder}: {modules}, {len(vectors[0])} numbers, cosine of two loads {cosine:.3f}")
    return modules, cosine


modules, cosine = loaded("checkpoint")
assert modules == ["Transformer", "SpladePooling"] and cosine > 0.999, "no longer as stated"
modules, cosine = loaded("dense")
assert modules == ["Transformer", "Pooling", "SparseAutoEncoder"] and cosine < 0.9, "no longer as stated"
PY
