# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop and the two objectives that the studies share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from torch.nn import functional
from tqdm import tqdm

WARMUP, WEIGHT_DECAY, MASKED = 10, 0.01, 0.15
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


def masked(blocks: torch.Tensor, tokenizer, size: int, generator: torch.Generator, first=False) -> Iterator[Batch]:
    """Endless batches of `size` blocks, reshuffled in each epoch: inputs and labels (80/10/10; -100 elsewhere).

    Args:
        first: Mask the first token of each batch, so that a small batch always has a label.
    """
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id])
    while True:
        for rows in torch.randperm(len(blocks), generator=generator).split(size):
            labels = blocks[rows]
            chosen = (torch.rand(labels.shape, generator=generator) < MASKED) & ~torch.isin(labels, special)
            chosen[0, 1] |= first
            fate = torch.rand(labels.shape, generator=generator)
            noise = torch.randint(len(tokenizer), labels.shape, generator=generator)
            inputs = labels.masked_fill(chosen & (fate < 0.8), tokenizer.mask_token_id)
            inputs = torch.where(chosen & (fate >= 0.9), noise, inputs)
            yield {"input_ids": inputs}, labels.masked_fill(~chosen, -100)


def mlm_loss(model: torch.nn.Module, inputs: dict, labels: torch.Tensor) -> torch.Tensor:
    """The loss of stock `BertForMaskedLM`, computed on the labelled positions only: the same value at a lower cost."""
    rows = model.bert(**inputs).last_hidden_state[labels != -100]
    return functional.cross_entropy(model.cls(rows), labels[labels != -100])


def own_loss(model: torch.nn.Module, inputs: dict, labels: torch.Tensor) -> torch.Tensor:
    return model(**inputs, labels=labels).loss


def train(
    name: str,
    model: torch.nn.Module,
    batches: Iterator[Batch],
    loss_of: Callable,
    lr: float,
    seed: int,
    steps: list[int],
    reached: Callable[[int, list[float]], None],
    keep: Path | None = None,
) -> None:
    """AdamW, linear warm-up, then a constant rate (which moves the encoder more than decay), gradient norm at most 1.

    Args:
        name: For the progress bar.
        seed: Of the dropout.
        steps: Ascending; after each, `reached` is called with the step and all losses so far. The last one ends the
            training.
        keep: A file for the training state, written every hundred steps; an interrupted training resumes from it bit
            for bit.
    """
    torch.manual_seed(seed)
    decay, rest = ([p for p in model.parameters() if (p.ndim > 1) is matrix] for matrix in (True, False))
    groups = [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    losses: list[float] = []
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if keep and keep.exists():
        kept = torch.load(keep)
        for part, of in parts.items():
            of.load_state_dict(kept[part])
        losses = kept["losses"]
        for _ in losses:
            next(batches)
        torch.set_rng_state(kept["random"])
    began = len(losses)
    for step in tqdm(range(began + 1, steps[-1] + 1), desc=name, mininterval=10, initial=began, total=steps[-1]):
        loss = loss_of(model.train(), *next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step in steps:
            reached(step, losses)
        if keep and step % 100 == 0:
            state = {part: of.state_dict() for part, of in parts.items()}
            torch.save(state | {"losses": losses, "random": torch.get_rng_state()}, keep.with_suffix(".part"))
            keep.with_suffix(".part").rename(keep)


def mean_of_last(losses: list[float], count: int = 50) -> float:
    last = losses[-count:]
    return sum(last) / max(1, len(last))


def quiet(threads: int) -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads)
