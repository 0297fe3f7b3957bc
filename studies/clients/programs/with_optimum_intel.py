# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What is exported, run by OpenVINO: `sentence_embedding` where there is one, else the first state."""

import shutil

import openvino
from asked import answer, run_command
from transformers import AutoTokenizer


def vectors_of(folder, call, texts):
    shutil.rmtree("exported", ignore_errors=True)
    run_command(folder, call)
    model = openvino.Core().compile_model("exported/openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    inputs = tokenizer(texts, padding=True, return_tensors="np")
    names = [name for port in model.inputs for name in port.names if name in inputs]
    outputs = {name: value for port, value in model({n: inputs[n] for n in names}).items() for name in port.names}
    if "sentence_embedding" in outputs:
        return outputs["sentence_embedding"]
    return outputs["last_hidden_state"][:, 0]


answer(vectors_of)
