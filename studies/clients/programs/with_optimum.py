# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What is exported, run by onnxruntime: `sentence_embedding` where there is one, else the first state."""

import shutil
from pathlib import Path

import onnx
import onnxruntime
from asked import answer, run_command
from transformers import AutoTokenizer


def vectors_of(folder, call, texts):
    shutil.rmtree("onnx", ignore_errors=True)
    run_command(folder, call)
    session = onnxruntime.InferenceSession("onnx/model.onnx")
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(texts, padding=True, return_tensors="np")
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, {it.name: inputs[it.name] for it in session.get_inputs()})
    outputs = dict(zip(names, found, strict=True))
    if "sentence_embedding" not in outputs:
        assert outputs.keys() == {"last_hidden_state"}, names
        return outputs["last_hidden_state"][:, 0]
    kept = Path(folder).parent / "onnx"  # for clients that read ONNX alone
    if not kept.exists():
        shutil.copytree("onnx", kept)
        shutil.copytree("onnx", kept / "onnx")  # where transformers.js looks for the weights
        alone = Path(shutil.copytree("onnx", kept.with_name("onnx_alone")), "model.onnx")
        model = onnx.load(alone)
        (tokens,) = (output for output in model.graph.output if output.name == "token_embeddings")
        model.graph.output.remove(tokens)
        onnx.save(model, alone)
    return outputs["sentence_embedding"]


answer(vectors_of)
