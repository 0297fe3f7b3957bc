#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# optimum-onnx 0.1.0 (optimum 2.1.0): a small file beside the weights decides what `optimum-cli export onnx` can export.
#
# Seen: a local BERT with an MLM head exports with `--task fill-mask`. Once the folder holds sentence-transformers'
# modules.json and 1_Pooling, it still does. With `sentence_bert_config.json` besides, which sets the maximal length and the
# case, the same command ends with "Unknown task: fill-mask", and `--task feature-extraction` gives other outputs
# (`token_embeddings`, `sentence_embedding`) than before (`last_hidden_state`). `--library transformers` helps.
# Why it surprises: the checkpoint is the same, the message does not name that option, and modules.json, by which
# sentence-transformers itself recognises its folders, does not count. (optimum takes a folder for sentence-transformers' by
# file names that begin with `sentence_`, or by `config_sentence_transformers.json`.)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 "optimum-onnx[onnxruntime]==0.1.0" optimum==2.1.0 \
    sentence-transformers==5.7.0 transformers==4.57.6 onnx==1.23.2 numpy==2.4.6

venv/bin/python - 2>/dev/null <<'PY'
import shutil
from pathlib import Path

from sentence_transformers import SentenceTransformer, models
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

Path("model").mkdir()
Path("model/vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence", "."]))
BertTokenizerFast.from_pretrained("model").save_pretrained("model")
config = BertConfig(vocab_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
BertForMaskedLM(config).save_pretrained("model")
SentenceTransformer(modules=[models.Transformer("model"), models.Pooling(32)]).save("saved")
shutil.copy("saved/modules.json", "model")
shutil.copytree("saved/1_Pooling", "model/1_Pooling")
PY

export_as() {
    rm -rf onnx
    if ! venv/bin/optimum-cli export onnx --model model --task "$@" onnx >log 2>&1; then
        grep -o "Unknown task: [a-z-]*" log | tail -1
    else
        venv/bin/python -c 'import onnx; print(*(output.name for output in onnx.load("onnx/model.onnx").graph.output))'
    fi
}
before=$(export_as fill-mask)/$(export_as feature-extraction)
cp saved/sentence_bert_config.json model
after=$(export_as fill-mask)/$(export_as feature-extraction)/$(export_as fill-mask --library transformers)
echo "with modules.json: $before; with sentence_bert_config.json besides: $after"
[ "$before" = "logits/last_hidden_state" ]
[ "$after" = "Unknown task: fill-mask/token_embeddings sentence_embedding/logits" ]
