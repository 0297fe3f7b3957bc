# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The donors of index_fidelity.py, and the training step, on a GPU if there is one.

All data of a training is on the device before it starts, with the same blocks and masks for all runs of a seed, so
that a step has no input from the host. On CUDA it is captured as a graph and replayed.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from index_data import masked, save
from indexes import Moments, pooled, solved, with_ones
from torch.nn import functional
from training import MASKED, WARMUP, WEIGHT_DECAY
from transformers import BertForMaskedLM, BertForNextSentencePrediction

SPREAD = 0.4  # standard deviation of the sentence donor's outputs


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def encode(bert: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Final states. The mask is given as a whole, since making one asks the device for values."""
    ids, types, mask = rows.long()
    mask = mask.bool()[:, None, None, :].expand(-1, 1, rows.shape[2], -1)
    return bert.encoder(bert.embeddings(input_ids=ids, token_type_ids=types), attention_mask=mask)[0]


@torch.no_grad()
def cls_states(bert: torch.nn.Module, rows: torch.Tensor, mean: bool = False) -> torch.Tensor:
    """`(texts, hidden_size)`: the final [CLS] state, or the mean over the tokens."""
    found = []
    bert.eval()
    for part in rows.split(512, dim=1):
        states, mask = encode(bert, part), part[2].unsqueeze(-1)
        found.append((states * mask).sum(1) / mask.sum(1) if mean else states[:, 0])
    return torch.cat(found)


def optimizer_of(parameters: list, where: torch.device) -> torch.optim.Optimizer:
    groups = [
        {"params": [it for it in parameters if it.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [it for it in parameters if it.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, fused=True, capturable=where.type == "cuda")


class Steps:
    """Training steps: AdamW with a warm-up and then a constant rate, gradients clipped at norm 1.

    Args:
        loss_of: From the step's number, a tensor of one element, to the loss and the one that is recorded.
        graph: Capture a step on CUDA and replay it.
    """

    def __init__(self, parameters: list, loss_of: Callable, lr: float, count: int, graph: bool):
        where = parameters[0].device
        self.parameters, self.loss_of, self.base = parameters, loss_of, lr
        self.lr = torch.tensor(lr, device=where)  # a graph reads its value at each replay
        self.optimizer = optimizer_of(parameters, where)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.number = torch.zeros(1, dtype=torch.long, device=where)
        self.losses = torch.zeros(count, device=where)
        self.done, self.graph, self.replay = 0, graph and where.type == "cuda", None
        self.after: Callable = lambda: None

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.lr.copy_(self.base * ((self.number[0] + 1) / WARMUP).clamp(max=1.0))
        loss, recorded = self.loss_of(self.number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.after()
        self.losses.index_copy_(0, self.number, recorded.detach().view(1))
        self.number += 1

    def until(self, step: int) -> None:
        while self.done < step:
            if self.replay:
                self.replay()
            elif self.graph and self.done == 3:  # warmed up
                self.capture()
                continue
            else:
                self.step()
            self.done += 1

    def capture(self) -> None:
        torch.cuda.synchronize()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # a step of the warm-up outside the default stream, as capturing asks for
            self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.done += 1
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self.step()
        self.replay = graph.replay


def epochs(count: int, steps: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of rows for each step, `(steps, size)`, reshuffled in each epoch."""
    needed = -(-steps * size // count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(needed)])
    return order[: steps * size].view(steps, size)


class Material:
    """The masked blocks of a training, on the device."""

    def __init__(self, data: dict, options: dict, steps: int, seed: int):
        dice = torch.Generator().manual_seed(seed)
        self.size = options["blocks"]
        self.order = epochs(len(data["blocks"]), steps, self.size, dice)
        chosen = data["blocks"].cpu()[self.order]
        count = round(MASKED * self.size * options["length"])
        where = data["blocks"].device
        inputs, self.positions, self.labels = (it.to(where) for it in masked(chosen, data["words"], count, dice))
        self.inputs, self.order = inputs.int(), self.order.to(where)

    def blocks(self, number: torch.Tensor) -> torch.Tensor:
        ids = self.inputs.index_select(0, number)[0]
        return torch.stack([ids, torch.zeros_like(ids), torch.ones_like(ids)])

    def mlm_loss(self, model, number: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        rows = states[: self.size].flatten(0, 1).index_select(0, self.positions.index_select(0, number)[0])
        return functional.cross_entropy(model.cls(rows), self.labels.index_select(0, number)[0])


# --- Donors ----------------------------------------------------------------------------------------------------------


def load_base(work_dir: Path, cls=BertForMaskedLM) -> torch.nn.Module:
    torch.manual_seed(0)  # of the new head
    return cls.from_pretrained(work_dir / "model", dtype=torch.float32, attn_implementation="sdpa").to(device())


def sentence_pooler(model, data: dict) -> torch.Tensor:
    """A pooler whose output is MiniLM's own sentence vector (the mean over the tokens), by ridge regression."""
    rows = torch.cat([data[kind]["sentence"] for kind in ("anchors", "calibration")], 1)
    states = with_ones(cls_states(model.bert, rows))
    vectors = functional.normalize(cls_states(model.bert, rows, mean=True).double(), dim=1)
    targets = torch.atanh((SPREAD / vectors.std() * vectors).clamp(-0.95, 0.95))
    return solved([Moments(states[fold::5], targets[fold::5]) for fold in range(5)], by_output=False).T


def next_sentence_donor(work_dir: Path, model, data: dict, options: dict) -> tuple[torch.Tensor, tuple]:
    """Trains the encoder of `model` on next sentences; returns the pooler and the head."""
    whole = load_base(work_dir, BertForNextSentencePrediction).train()
    rows, labels = data["train_pairs"], data["train_pairs_labels"]
    dice = torch.Generator().manual_seed(1)
    order = epochs(rows.shape[1], options["nsp_steps"], options["blocks"], dice).to(rows.device)

    def loss_of(number):
        chosen = order.index_select(0, number)[0]
        outputs = whole.bert.pooler(encode(whole.bert, rows.index_select(1, chosen)))
        loss = functional.cross_entropy(whole.cls(outputs), labels.index_select(0, chosen))
        return loss, loss

    Steps(list(whole.parameters()), loss_of, 1e-4, options["nsp_steps"], graph=False).until(options["nsp_steps"])
    encoder = {key: it for key, it in whole.bert.state_dict().items() if not key.startswith("pooler")}
    model.bert.load_state_dict(encoder)
    dense, head = whole.bert.pooler.dense, whole.cls.seq_relationship
    pooler = torch.cat([dense.weight, dense.bias[:, None]], 1).detach().double()
    return pooler, (head.weight.detach().double(), head.bias.detach().double())


def states_of(model, data: dict, donor: str) -> dict[str, torch.Tensor]:
    sets = {name: data[name] for name in ("passages", "queries", "topic", "pairs")}
    sets["calibration"] = data["calibration"][donor]
    return {name: cls_states(model.bert, rows) for name, rows in sets.items()}


@torch.no_grad()
def held_out_loss(model, data: dict) -> float:
    """Nats per masked token, on the same masks each time."""
    blocks, dice = data["held_out"], torch.Generator().manual_seed(0)
    count = round(MASKED * blocks.shape[1])
    inputs, positions, labels = (
        it.to(blocks.device) for it in masked(blocks.cpu()[:, None], data["words"], count, dice)
    )
    model.eval()
    total = 0.0
    for ids, at, of in zip(inputs[:, 0].split(100), positions.split(100), labels.split(100), strict=True):
        states = encode(model.bert, torch.stack([ids, torch.zeros_like(ids), torch.ones_like(ids)]))
        scores = model.cls(states.gather(1, at.unsqueeze(-1).expand(-1, -1, states.shape[2])))
        total += functional.cross_entropy(scores.flatten(0, 1), of.flatten(), reduction="sum").item()
    return total / labels.numel()


def start(work_dir: Path, corpus: str, donor: str, options: dict) -> None:
    """Writes the donor with a trained MLM head, its targets, and its states on the evaluated texts."""
    file = work_dir / f"{corpus}-{donor}.pt"
    if file.exists():
        return
    data = torch.load(work_dir / f"{corpus}.pt", map_location=device())
    model, head = load_base(work_dir), None
    if donor == "sentence":
        pooler = sentence_pooler(model, data)
    else:
        pooler, head = next_sentence_donor(work_dir, model, data, options)
    model.train()
    model.bert.requires_grad_(False)
    material = Material(data, options, options["head_steps"], seed=0)

    def loss_of(number):
        loss = material.mlm_loss(model, number, encode(model.bert, material.blocks(number)))
        return loss, loss

    parameters, steps = [it for it in model.parameters() if it.requires_grad], options["head_steps"]
    Steps(parameters, loss_of, 1e-3, steps, graph=False).until(steps)
    found = {"model": model.state_dict(), "pooler": pooler, "head": head, "states": states_of(model, data, donor)}
    found["targets"] = pooled(cls_states(model.bert, data["anchors"][donor]), pooler).float()
    blocks = data["blocks"]
    whole = torch.stack([blocks, torch.zeros_like(blocks), torch.ones_like(blocks)])
    found["block_targets"] = pooled(cls_states(model.bert, whole), pooler).float()
    found["held_out"] = held_out_loss(model, data)
    save(found, file)
