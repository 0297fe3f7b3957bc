# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The trainings of index_fidelity.py, and their evaluation."""

import dataclasses
import functools
import gc
from pathlib import Path

import torch
from index_donors import Material, Steps, cls_states, device, encode, epochs, held_out_loss, load_base, states_of
from indexes import FITS, compared, pooled, search_loss
from probes import by_fold, right_by_fold
from torch.nn import functional

LAMBDA = 2.0  # of angles against distances, as Park et al. 2019 recommend
REDRAWN = 100  # steps after which anchors are drawn anew by their drift


@dataclasses.dataclass(frozen=True)
class Run:
    """One continued pre-training.

    Attributes:
        corpus: Of the texts; index_fidelity.py describes them.
        donor: Its pooler: "sentence" or "nsp".
        anchors: Anchor rows in a batch in addition to the blocks.
        masked: Blocks of a batch that are also anchors: their vector, masked, is held to that of their unmasked text.
        weight: Weight of the distance to the targets.
        unit: Of the distance: "square" of the target's length, total "variance" of the targets (the package's loss),
            or their variance by "dimension".
        search: Weight of the divergence of similarities to a bank of donor vectors (indexes.search_loss).
        relational: Weight of the distances and angles within the batch (Park et al. 2019, arXiv 1904.05068).
        tokens: Weight of the distance of all final states of the anchors to the donor's.
        towards_start: How far each step moves all weights back to the initial ones (L2-SP, decoupled).
        pool: Number of different anchors.
        drift: Draw anchors by their distance, measured every hundred steps.
        schedule: Of the weights: "constant", "rising" or "late" (mostly in the last fifth).
        eager: Make no CUDA graph of a step.
    """

    corpus: str = "python"
    donor: str = "sentence"
    anchors: int = 0
    masked: int = 0
    weight: float = 0.1
    unit: str = "square"
    search: float = 0.0
    relational: float = 0.0
    tokens: float = 0.0
    towards_start: float = 0.0
    pool: int = 2000
    drift: bool = False
    schedule: str = "constant"
    eager: bool = False
    seed: int = 1

    @property
    def name(self) -> str:
        fields = [(it.name, getattr(self, it.name), it.default) for it in dataclasses.fields(self)]
        changed = [f"{name}={value}" for name, value, default in fields[2:-1] if value != default]
        return " ".join([self.corpus, self.donor, *(changed or ["plain"]), f"seed={self.seed}"])


def relational_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Distances and angles within the batch (Park et al. 2019)."""
    count = len(outputs)
    first, second = torch.triu_indices(count, count, 1, device=outputs.device)

    def distances(vectors):
        found = (vectors[first] - vectors[second]).square().sum(1).add(1e-12).sqrt()
        return found / found.mean()

    def angles(vectors):
        edges = functional.normalize(vectors[None] - vectors[:, None] + 1e-8, dim=2)
        return edges @ edges.transpose(1, 2)

    loss = functional.smooth_l1_loss(distances(outputs), distances(targets))
    return loss + LAMBDA * functional.smooth_l1_loss(angles(outputs), angles(targets))


def factors(schedule: str, steps: int) -> torch.Tensor:
    """What the weights are multiplied by at each step; 1 on average."""
    at = torch.arange(steps) / steps
    return {
        "constant": torch.ones(steps),
        "rising": 2 * at,
        "late": torch.where(at < 0.8, 0.25, 4.0),
    }[schedule]


class Training:
    """A run in memory."""

    def __init__(self, run: Run, data: dict, begin: dict, model, options: dict, graph: bool = True):
        self.run, self.model, where = run, model, data["blocks"].device
        self.rows, self.targets = (it[..., : run.pool, :] for it in (data["anchors"][run.donor], begin["targets"]))
        self.block_targets, steps = begin["block_targets"], options["steps"][-1]
        self.material = Material(data, options, steps, run.seed)
        self.weight, self.bias = begin["pooler"][:, :-1].float(), begin["pooler"][:, -1].float()
        self.factors = factors(run.schedule, steps).to(where)
        self.dice = torch.Generator().manual_seed(run.seed)
        if run.anchors:
            self.order = epochs(len(self.targets), steps, run.anchors, self.dice).to(where)
        held = self.targets if run.anchors else self.block_targets
        self.variance = held.var(0).clamp(min=1e-6)
        self.bank = held[:: max(1, len(held) // 1000)]
        if run.tokens:
            with torch.no_grad():
                model.eval()
                self.states = torch.cat([encode(model.bert, part) for part in self.rows.split(512, 1)])
            self.state_variance = self.states[:, 0].var(0).sum()
        model.bert.requires_grad_(True)
        torch.manual_seed(run.seed)  # of the dropout
        parameters = list(model.train().parameters())
        self.steps = Steps(parameters, self.loss, 1e-4, steps, graph and not run.eager)
        if run.towards_start:
            starts = [it.detach().clone() for it in parameters]
            moved = [it.data for it in parameters]
            self.steps.after = lambda: torch._foreach_lerp_(moved, starts, run.towards_start)

    def loss(self, number: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        run, rows, size = self.run, self.material.blocks(number), self.material.size
        if run.anchors:
            chosen = self.order.index_select(0, number)[0]
            rows = torch.cat([rows, self.rows.index_select(1, chosen)], 1)
        states = encode(self.model.bert, rows)
        mlm = self.material.mlm_loss(self.model, number, states)
        held, targets = [], []
        if run.anchors:
            held, targets = [states[size:, 0]], [self.targets.index_select(0, chosen)]
        if run.masked:
            blocks = self.material.order.index_select(0, number)[0, : run.masked]
            held.append(states[: run.masked, 0])
            targets.append(self.block_targets.index_select(0, blocks))
        if not held:
            return mlm, mlm
        outputs, targets = torch.tanh(functional.linear(torch.cat(held), self.weight, self.bias)), torch.cat(targets)
        extra = run.weight * self.distance(outputs, targets) if run.weight else 0.0
        if run.search:
            extra = extra + run.search * search_loss(outputs, targets, self.bank)
        if run.relational:
            extra = extra + run.relational * relational_loss(outputs, targets)
        if run.tokens:
            read = rows[2, size:].unsqueeze(-1)
            apart = (states[size:] - self.states.index_select(0, chosen)).square() * read
            extra = extra + run.tokens * apart.sum() / read.sum() / self.state_variance
        return mlm + self.factors.index_select(0, number)[0] * extra, mlm

    def distance(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        errors = (outputs - targets).square()
        if self.run.unit == "square":
            return (errors.sum(1) / targets.square().sum(1)).mean()
        if self.run.unit == "variance":
            return errors.sum(1).mean() / self.variance.sum()
        return (errors / self.variance).mean()

    def until(self, step: int) -> None:
        while self.run.drift and self.steps.done + REDRAWN < step:
            self.steps.until(self.steps.done + REDRAWN)
            self.redraw()
        self.steps.until(step)

    def redraw(self) -> None:
        """Draws the anchors of the following steps in proportion to how far they have drifted."""
        states = cls_states(self.model.bert, self.rows)
        self.model.train()
        outputs = torch.tanh(functional.linear(states, self.weight, self.bias))
        drifts = (outputs - self.targets).square().sum(1).cpu()
        rest = self.order[self.steps.done :]
        drawn = torch.multinomial(drifts, rest.numel(), replacement=True, generator=self.dice)
        rest.copy_(drawn.view(rest.shape).to(rest.device))


# --- Evaluation ------------------------------------------------------------------------------------------------------


class Evaluation:
    """Scores a model against its donor."""

    def __init__(self, run: Run, data: dict, begin: dict, options: dict):
        self.data, self.begin, self.donor, self.options = data, begin, run.donor, options
        self.pooler, self.states = begin["pooler"], begin["states"]
        self.before = {name: pooled(self.states[name], self.pooler) for name in ("queries", "passages")}
        self.topic = by_fold(pooled(self.states["topic"], self.pooler), data["topic_labels"])
        self.right = self.heads(self.states, self.pooler)

    def heads(self, states: dict, pooler: torch.Tensor) -> dict[str, torch.Tensor]:
        """1 or 0 for each text, by task."""
        right = {"topic": right_by_fold(self.topic, pooled(states["topic"], pooler), self.data["topic_labels"])}
        if self.donor == "nsp":
            scores = functional.linear(pooled(states["pairs"], pooler), *self.begin["head"])
            right["nsp"] = (scores.argmax(1) == self.data["pairs_labels"]).float()
        return right

    def score(self, states: dict, pooler: torch.Tensor) -> dict:
        found = compared(*(pooled(states[name], pooler) for name in ("queries", "passages")), self.before)
        classes = int(self.data["topic_labels"].max()) + 1
        for task, right in self.heads(states, pooler).items():
            chance, own = (0.5 if task == "nsp" else 1 / classes), self.right[task]
            kept = (right.mean() - chance) / (own.mean() - chance)
            flips = ((own == 1) & (right == 0)).float().mean()
            values = {"accuracy": right.mean(), "donor": own.mean(), "kept": kept, "flips": flips}
            found[task] = {name: value.item() for name, value in values.items()}
        return found

    def point(self, model, last: bool, fits: bool) -> dict:
        """Everything at one step: grafted, calibrated, and where it is the last step by the other fits as well."""
        states = states_of(model, self.data, self.donor)
        found = {"held_out": held_out_loss(model, self.data), "grafted": self.score(states, self.pooler)}
        few, many = self.options["calibration"], states["calibration"].shape[0]
        wanted = [("ridge", few)]
        if last:
            wanted += [("ridge", many)]
        if fits:
            wanted += [(name, count) for name in FITS if name != "ridge" for count in (few, many)]
        for name, count in wanted:
            pooler = FITS[name](states["calibration"][:count], self.states["calibration"][:count], self.pooler)
            found[f"{name} {count}"] = self.score(states, pooler)
        model.train()
        return found


@functools.cache
def loaded(work_dir: Path, corpus: str, donor: str) -> tuple[dict, dict]:
    files = (work_dir / f"{name}.pt" for name in (corpus, f"{corpus}-{donor}"))
    data, begin = (torch.load(file, map_location=device()) for file in files)
    return data, begin


def execute(work_dir: Path, run: Run, options: dict, fits: bool, graph: bool) -> dict:
    """Trains and evaluates one run."""
    data, begin = loaded(work_dir, run.corpus, run.donor)
    model = load_base(work_dir)
    model.load_state_dict(begin["model"])
    evaluation = Evaluation(run, data, begin, options)
    training, points = Training(run, data, begin, model, options, graph), {}
    for step in options["steps"]:
        training.until(step)
        last = step == options["steps"][-1]
        points[str(step)] = evaluation.point(model, last, fits and last)
    losses = training.steps.losses
    if not losses.isfinite().all():
        raise RuntimeError(f"{run.name}: the loss is not finite")
    found = dataclasses.asdict(run) | {"points": points, "train": losses[-50:].mean().item()}
    del training, losses, model
    gc.collect()  # a graph holds its memory, and is part of a cycle
    torch.cuda.empty_cache()
    return found
