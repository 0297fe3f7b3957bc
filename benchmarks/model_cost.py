# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The cost of the model: forward, vectors, training step, memory, loading; and its growth.

Each function measures one part of benchmark.py and returns raw seconds and counts, which report.py turns into ratios.
`seconds` is the time for the rounds of a comparison.
"""

import dataclasses
import functools
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import torch
from measuring import in_fresh_process, in_turns, timed
from subjects import BertPooledMLMForMaskedLM, BertPooledMLMModel, TwoEncoderPasses, Work, arithmetic, new, sharing
from transformers import BertForMaskedLM, BertModel


def compared(subjects: dict[str, Callable], work: Work, seconds: float, least: int) -> dict:
    """Counts the arithmetic of each subject, which also warms it up, then times all, interleaved."""
    with torch.no_grad():  # in inference mode FlopCounterMode would see composite operations
        counted = {name: arithmetic(call) for name, call in subjects.items()}
    with torch.inference_mode():
        return {"times": in_turns(subjects, work.device, seconds, least, warm=0), "arithmetic": counted}


def forward(work: Work, seconds: float, least: int) -> dict:
    """Loss, logits, hidden states and pooled output in one call; stock's loss and logits; the class with two passes.

    `loss` is ours without logits, whose MLM head runs on the labelled positions alone.
    `again` is a second stock model: the difference between two equal models is the resolution of the measurement.
    """
    ours = new(work)
    classes, inputs = {"stock": BertForMaskedLM, "again": BertForMaskedLM, "twice": TwoEncoderPasses}, work.batch(True)
    models = {"ours": ours} | {name: sharing(cls(work.stock_config()), ours) for name, cls in classes.items()}
    calls = {name: functools.partial(model, **inputs) for name, model in models.items()}
    calls["loss"] = functools.partial(ours, **inputs, return_logits=False)
    return compared(calls, work, seconds, least)


def vectors(work: Work, seconds: float, least: int) -> dict:
    """`pooler_output` alone: stock `BertModel`, ours without logits, ours with logits."""
    ours = sharing(BertPooledMLMModel(work.config(return_logits=False)), new(work))
    stock, again = (sharing(BertModel(work.stock_config()), ours, "bert.") for _ in range(2))
    inputs = work.batch()
    models = {"stock": stock, "ours": ours, "again": again}
    calls = {name: functools.partial(model, **inputs) for name, model in models.items()}
    calls["with_logits"] = functools.partial(ours, **inputs, return_logits=True)
    return compared(calls, work, seconds, least)


def training_step(model: torch.nn.Module, inputs: dict, work: Work) -> Callable[[], None]:
    """Forward and backward without the optimizer; the gradients are freed."""

    def step() -> None:
        with work.autocast():
            output = model(**inputs)
            loss = output.loss if "labels" in inputs else output.last_hidden_state.sum()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step


def evaluation(model: torch.nn.Module, inputs: dict, work: Work) -> Callable[[], None]:
    """A forward without gradients."""

    def step() -> None:
        with torch.inference_mode(), work.autocast():
            model.eval()(**inputs)

    return step


def training(work: Work, seconds: float, least: int) -> dict:
    """A training step of stock, of ours with `sparse_prediction` ("ours") and without ("dense"), of the encoder alone.

    AdamW's step is measured separately.
    """
    ours = new(work, torch.float32, sparse_prediction=True).train()
    dense = sharing(BertPooledMLMForMaskedLM(work.config()), ours)
    stock = sharing(BertForMaskedLM(work.stock_config()), ours)
    encoder = sharing(BertModel(work.stock_config(), add_pooling_layer=False), ours, "bert.")
    inputs, labelled = work.batch(), work.batch(labels=True)
    steps = {"stock": stock, "ours": ours, "dense": dense}
    steps = {name: training_step(model, labelled, work) for name, model in steps.items()}
    steps["encoder"] = training_step(encoder, inputs, work)
    counted = {name: arithmetic(step) for name, step in steps.items()}
    times = in_turns(steps, work.device, seconds, least, warm=0)
    optimizer = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], fused=True)
    for parameter in ours.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()  # allocates its state
    steps = [round(timed(optimizer.step, work.device), 6) for _ in range(least)]
    return {"times": times, "arithmetic": counted, "adamw": steps}


# The subjects of peak memory, by mode, the longest first. `ours` has `sparse_prediction`, `dense` has not, `loss` is
# `dense` without logits, `encoder` is the encoder alone.
PEAKS = {
    "checkpointing": ("stock", "ours"),
    "plain": ("stock", "ours", "dense", "encoder"),
    "evaluation": ("stock", "dense", "loss"),
}


def memory(batches: dict[str, Work], needed: float) -> dict:
    """Peak memory of one step, each subject in a fresh process; on the CPU two run at once.

    Args:
        batches: The batch for each mode: "checkpointing" is a training step with gradient checkpointing and no
            attention dropout, "plain" a default training step, "evaluation" a forward.
        needed: Bytes of free memory that the CPU run needs; on CUDA torch raises an error of its own.

    Returns:
        By mode, `peak`: bytes for weights, gradients and activations; None if CUDA's memory was too small.
    """
    fields = ("shape", "rows", "length", "share")
    found = {way: {name: getattr(work, name) for name in fields} | {"way": way} for way, work in batches.items()}
    device, dtype = next((work.device, work.dtype) for work in batches.values())
    free = psutil.virtual_memory().available
    if device.type == "cpu" and free < needed:
        skipped = f"{needed / 1e9:.0f} GB of free memory are needed, {free / 1e9:.0f} were found"
        return {way: described | {"skipped": skipped} for way, described in found.items()}
    at_once = 1 if device.type == "cuda" else 2  # nothing is timed, so two may share the cores
    more = {"device": str(device), "dtype": str(dtype), "threads": max(1, torch.get_num_threads() // at_once)}

    def peak(way: str, subject: str) -> int | None:
        options = json.dumps(found[way] | more)
        return json.loads(in_fresh_process(sys.executable, __file__, subject, options)["out"].splitlines()[-1])

    with ThreadPoolExecutor(at_once) as pool:
        runs = {way: {name: pool.submit(peak, way, name) for name in PEAKS[way]} for way in batches}
        peaks = {way: {name: run.result() for name, run in names.items()} for way, names in runs.items()}
    return {way: found[way] | {"peak": peaks[way]} for way in batches}


def peak_memory(name: str, options: dict) -> int | None:
    """Peak memory of one step in this process, which `memory` starts for each subject.

    On the CPU the peak resident memory minus that before the model is built, on CUDA the peak of torch's allocations.
    """
    way, threads = options.pop("way"), options.pop("threads")
    dtype, device = getattr(torch, options.pop("dtype").removeprefix("torch.")), torch.device(options.pop("device"))
    if way == "checkpointing":  # long texts need fused attention, which has no dropout on the CPU
        options["shape"] = options["shape"] | {"attention_probs_dropout_prob": 0.0}
    work = Work(device=device, dtype=dtype, **options)
    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    if name in ("ours", "dense", "loss"):
        model = new(work, torch.float32, sparse_prediction=name == "ours")
    elif name == "stock":
        model = BertForMaskedLM(work.stock_config()).to(device)
    else:
        model = BertModel(work.stock_config(), add_pooling_layer=False).to(device)
    inputs = work.batch(labels=name != "encoder") | ({"return_logits": False} if name == "loss" else {})
    step = evaluation(model, inputs, work) if way == "evaluation" else training_step(model.train(), inputs, work)
    if way == "checkpointing":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        step()
    except torch.cuda.OutOfMemoryError:
        return None
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before


def loading(work: Work, seconds: float, least: int) -> dict:
    """`from_pretrained` of the same folder, with its files in the page cache."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        new(work).save_pretrained(folder)
        classes = {"stock": BertForMaskedLM, "ours": BertPooledMLMForMaskedLM, "again": BertForMaskedLM}
        calls = {name: functools.partial(cls.from_pretrained, folder) for name, cls in classes.items()}
        times = in_turns(calls, torch.device("cpu"), seconds, least)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    return {"times": times, "bytes": size}


@torch.inference_mode()
def over_length(work: Work, lengths: tuple[int, ...], seconds: float, least: int) -> dict:
    """Seconds of a forward without labels, by length of the texts."""
    ours = new(work)
    stock = sharing(BertForMaskedLM(work.stock_config()), ours)
    found = {}
    for length in lengths:
        inputs = dataclasses.replace(work, length=length).batch()
        calls = {"stock": functools.partial(stock, **inputs), "ours": functools.partial(ours, **inputs)}
        found[str(length)] = in_turns(calls, work.device, seconds / len(lengths), least, warm=0)
    return {"rows": work.rows, "times": found}


def over_share(work: Work, shares: tuple[float, ...], seconds: float, least: int) -> dict:
    """A training step by fraction of labelled tokens, ours with `sparse_prediction`; stock at 15 %."""
    ours = new(work, torch.float32, sparse_prediction=True).train()
    stock = sharing(BertForMaskedLM(work.stock_config()), ours)
    steps = {"stock": training_step(stock, work.batch(labels=True), work)}
    for share in shares:
        inputs = dataclasses.replace(work, share=share).batch(labels=True)
        steps[str(share)] = training_step(ours, inputs, work)
    return {"rows": work.rows, "times": in_turns(steps, work.device, seconds, least, warm=0)}


if __name__ == "__main__":
    print(json.dumps(peak_memory(sys.argv[1], json.loads(sys.argv[2]))))
