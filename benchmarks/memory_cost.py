# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one step, in the process that runs it: `model_cost.memory` starts one for each subject.

On the CPU the peak of the resident memory less what Python and its modules took before there was a model; on CUDA
what torch had allocated at most. Both are weights, activations and their temporary copies, gradients if it trains.
"""

import json
import resource
import sys

import psutil
import torch
from model_cost import evaluation, training_step
from subjects import Work, new
from transformers import BertForMaskedLM, BertModel


def main(name: str, options: dict) -> int | None:
    """Args: `name` is one of `model_cost.PEAKS`; `options` are the fields of `Work`, and what it adds."""
    way, threads = options.pop("way"), options.pop("threads")
    dtype, device = getattr(torch, options.pop("dtype").removeprefix("torch.")), torch.device(options.pop("device"))
    if way == "checkpointing":  # it is for long texts, and so is fused attention, which has no dropout on the CPU
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
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
