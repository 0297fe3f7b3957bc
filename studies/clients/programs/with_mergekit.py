# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""A folder, merged with its copy: the result has its pooler, or none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from asked import answer
from transformers import AutoTokenizer, BertModel

os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@torch.no_grad()
def vectors_of(folder, call, texts):
    for left in ("merged", "copy"):
        shutil.rmtree(left, ignore_errors=True)
    copy = str(shutil.copytree(folder, Path("copy").absolute(), dirs_exist_ok=True))
    models = [{"model": model, "parameters": {"weight": 0.5}} for model in (folder, copy)]
    Path("linear.yaml").write_text(json.dumps({"merge_method": "linear", "dtype": "float32", "models": models}))
    done = subprocess.run(call.split(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(texts, padding=True, return_tensors="pt")
    return BertModel.from_pretrained("merged").eval()(**inputs).pooler_output


answer(vectors_of)
