# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop and the objectives that the studies share."""

from collections.abc import Callable, Iterable, Iterator

import torch
import transformers
from torch.nn import functional
from tqdm import tqdm
from transformers import DataCollatorForLanguageModeling

WARMUP, WEIGHT_DECAY = 10, 0.01
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


def batches(rows: Iterable[dict], collator: Callable, size: int, seed: int) -> Iterator[Batch]:
    """Endless shuffled batches: inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(
        rows, size, shuffle=True, generator=generator, collate_fn=collator, drop_last=True
    )
    while True:
        for batch in loader:
            yield {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]


def masked(blocks: torch.Tensor, tokenizer, size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of blocks, masked by torch's own generator, as `train` seeds it."""
    rows = [{"input_ids": block} for block in blocks]
    return batches(rows, DataCollatorForLanguageModeling(tokenizer), min(size, len(blocks)), seed)


def held_out_batch(blocks: torch.Tensor, tokenizer, size: int) -> Batch:
    """The same blocks and masks at each call."""
    torch.manual_seed(0)
    return next(masked(blocks, tokenizer, size, seed=0))


def mlm_loss(model: torch.nn.Module, inputs: dict, labels: torch.Tensor) -> torch.Tensor:
    """The loss of stock `BertForMaskedLM`, computed on the labelled positions only: the same value at a lower cost."""
    rows = model.bert(**inputs).last_hidden_state[labels != -100]
    return functional.cross_entropy(model.cls(rows), labels[labels != -100])


def own_loss(model: torch.nn.Module, inputs: dict, labels: torch.Tensor) -> torch.Tensor:
    return model(**inputs, labels=labels).loss


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, loss_of: Callable, inputs: dict, labels: torch.Tensor) -> float:
    """The MLM loss in nats per masked token."""
    total = 0.0
    for part, of in zip(inputs["input_ids"].split(32), labels.split(32), strict=True):
        total += loss_of(model.eval(), {"input_ids": part}, of).item() * (of != -100).sum().item()
    return total / (labels != -100).sum().item()


def train(
    name: str, model, batches: Iterator, loss_of: Callable, lr: float, seed: int, steps: list[int], reached=None
) -> list[float]:
    """AdamW, linear warm-up, then a constant rate (which moves the encoder more than decay), gradient norm at most 1.

    Args:
        name: For the progress bar.
        loss_of: The loss, of the model and what `batches` yields.
        seed: Of the dropout.
        steps: Ascending; after each, `reached` is called with the step and all losses so far. The last one ends the
            training.

    Returns:
        The losses.
    """
    torch.manual_seed(seed)
    decay, rest = ([p for p in model.parameters() if (p.ndim > 1) is matrix] for matrix in (True, False))
    groups = [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    losses: list[float] = []
    for step in tqdm(range(1, steps[-1] + 1), desc=name, mininterval=10):
        loss = loss_of(model.train(), *next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if reached and step in steps:
            reached(step, losses)
    return losses


def quiet(threads: int) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
