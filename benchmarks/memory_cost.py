# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one step in its own process, which `model_cost.memory` starts for each subject.

On the CPU this is the peak resident memory minus that before the model is built, on CUDA the peak of torch's
allocations. Both cover weights, activations and temporary copies, and gradients in training.
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
    """Args: `name` is one of `model_cost.PEAKS`; `options` are the fields of `Work`, and what `memory` adds."""
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
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))))
