# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What is exported, run by OpenVINO: `sentence_embedding` where there is one, else the first state."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import openvino
from asked import answer
from transformers import AutoTokenizer

os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def vectors_of(folder, call, texts):
    shutil.rmtree("exported", ignore_errors=True)
    command = call.replace(" folder ", f" {folder} ").split()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    model = openvino.Core().compile_model("exported/openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    inputs = tokenizer(texts, padding=True, return_tensors="np")
    names = [name for port in model.inputs for name in port.names if name in inputs]
    outputs = {name: value for port, value in model({n: inputs[n] for n in names}).items() for name in port.names}
    if "sentence_embedding" in outputs:
        return outputs["sentence_embedding"]
    return outputs["last_hidden_state"][:, 0]


answer(vectors_of)
