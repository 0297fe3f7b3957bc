# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The donors and trainings of index_fidelity.py, on a GPU if there is one.

All data of a training is on the device before it starts, with the same blocks and masks for all runs of a seed, so
that a step has no input from the host. On CUDA it is captured as a graph and replayed.
"""

import dataclasses
import functools
import gc
import os
import random
from collections.abc import Callable
from pathlib import Path

import torch
from corpus import blocks_of, pairs_of, topic_task
from indexes import FITS, Moments, compared, pooled, search_loss, solved, with_ones
from probes import by_fold, right_by_fold
from records import read_json
from torch.nn import functional
from training import MASKED, WARMUP, WEIGHT_DECAY
from transformers import AutoTokenizer, BertForMaskedLM, BertForNextSentencePrediction

FULL = {
    "length": 64, "blocks": 16, "nsp_steps": 360, "head_steps": 500, "passages": 1500, "calibration": 1000,
    "texts": 10000, "held_out_blocks": 400, "held_out_pairs": 1500, "most": 100000, "steps": (100, 300, 1000),
}  # fmt: skip
QUICK = FULL | {
    "nsp_steps": 2, "head_steps": 2, "passages": 40, "calibration": 100, "texts": 200,
    "held_out_blocks": 8, "held_out_pairs": 20, "most": 60, "steps": (1, 2, 4),
}  # fmt: skip
SHORTEST = 16  # words of a passage that is cut into two halves
SPREAD = 0.4  # standard deviation of the sentence donor's outputs
LAMBDA = 2.0  # of angles against distances, as Park et al. 2019 recommend
REDRAWN = 100  # steps after which anchors are drawn anew by their drift


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclasses.dataclass(frozen=True)
class Run:
    """One continued pre-training.

    Attributes:
        corpus: Of the texts; index_fidelity.py describes them.
        donor: Its pooler: "sentence" or "nsp".
        anchors: Anchor rows in a batch in addition to the blocks.
        masked: Blocks of a batch that are also anchors: their vector, masked, is held to that of their unmasked text.
        weight: Weight of the distance to the targets.
        unit: Of the distance: "square" of the target's length (the package's loss), total "variance" of the targets,
            or their variance by "dimension".
        search: Weight of the divergence of similarities to a bank of donor vectors (indexes.search_loss).
        relational: Weight of the distances and angles within the batch (Park et al. 2019, arXiv 1904.05068).
        tokens: Weight of the distance of all final states of the anchors to the donor's.
        towards_start: How far each step moves all weights back to the initial ones (L2-SP, decoupled).
        pool: Number of different anchors.
        drift: Draw anchors by their distance, measured every hundred steps.
        schedule: Of the weights: "constant", "rising", "late" (mostly in the last fifth) or "early".
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


# --- Data ------------------------------------------------------------------------------------------------------------


def halves(paragraph: str) -> tuple[str, str]:
    words = paragraph.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def long_enough(paragraph: str) -> bool:
    return len(paragraph.split()) >= SHORTEST


def singles_of(documents: dict) -> list[str]:
    """Paragraphs, and the halves of those that are long enough: an index holds halves, and halves are its queries."""
    paragraphs = [it for document in documents.values() for it in document]
    return paragraphs + [half for it in paragraphs if long_enough(it) for half in halves(it)]


def save(value: dict, file: Path) -> None:
    """Writes to a temporary file and renames it: several processes may do so at once."""
    part = file.with_suffix(f".part{os.getpid()}")
    torch.save(value, part)
    part.rename(file)


def prepare(work_dir: Path, corpus: str, options: dict) -> None:
    """Writes all texts of a corpus as tensors into the work folder."""
    file = work_dir / f"{corpus}.pt"
    if file.exists():
        return
    texts, draw = read_json(work_dir / f"texts-{corpus}.json"), random.Random(2)
    tokenizer, length = AutoTokenizer.from_pretrained(work_dir / "model"), options["length"]

    def rows(those: list) -> torch.Tensor:
        """Ids, types and mask: `(3, texts, length)`."""
        columns = [those] if isinstance(those[0], str) else [[it[0] for it in those], [it[1] for it in those]]
        encoded = tokenizer(*columns, truncation=True, max_length=length, padding="max_length", return_tensors="pt")
        return torch.stack([encoded[name] for name in ("input_ids", "token_type_ids", "attention_mask")]).int()

    train, held_out = texts["train"], texts["held_out"]
    names = sorted(train)
    draw.shuffle(names)
    most = options["most"]  # of blocks, and of texts that are classified
    found = {"blocks": blocks_of(train, tokenizer, length)[:most].int()}
    found["held_out"] = blocks_of(held_out, tokenizer, length)[: options["held_out_blocks"]].int()
    for kind, part in (("anchors", names[::2]), ("calibration", names[1::2])):  # no document is in both
        documents = {name: train[name] for name in part}
        singles, pairs = singles_of(documents), pairs_of(documents, draw)
        draw.shuffle(singles)
        count = options["texts"]
        mixed = [it for both in zip(singles, [pair[:2] for pair in pairs], strict=False) for it in both][:count]
        found[kind] = {"sentence": rows(singles[:count]), "nsp": torch.empty(3, len(mixed), length, dtype=torch.int)}
        for number, each in enumerate((mixed[::2], mixed[1::2])):
            found[kind]["nsp"][:, number::2] = rows(each)
    passages = [it for document in held_out.values() for it in document if long_enough(it)]
    draw.shuffle(passages)
    first, second = zip(*map(halves, passages[: options["passages"]]), strict=True)
    found |= {"passages": rows(list(first)), "queries": rows(list(second))}
    topic = topic_task(held_out)[1][:most]
    found |= {"topic": rows([text for text, _ in topic]), "topic_labels": torch.tensor([label for _, label in topic])}
    for name, part in (("train_pairs", train), ("pairs", held_out)):
        pairs = pairs_of(part, draw)[: options["held_out_pairs"] if name == "pairs" else most]
        found |= {name: rows(pairs), f"{name}_labels": torch.tensor([pair[2] for pair in pairs])}
    found["words"] = {
        "special": sorted(tokenizer.all_special_ids),
        "mask": tokenizer.mask_token_id,
        "size": len(tokenizer),
    }
    save(found, file)


def masked(blocks: torch.Tensor, words: dict, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Masks `count` tokens of each batch, 80/10/10.

    Args:
        blocks: `(batches, rows, length)`.

    Returns:
        The masked blocks; positions in the flattened batch and labels, `(batches, count)`.
    """
    flat = blocks.long().flatten(1)
    dice = torch.rand(flat.shape, generator=generator)
    dice[torch.isin(flat, torch.tensor(words["special"]))] = 2.0
    positions = dice.topk(count, dim=1, largest=False).indices
    labels, fate = flat.gather(1, positions), torch.rand(positions.shape, generator=generator)
    noise = torch.randint(words["size"], positions.shape, generator=generator)
    replaced = torch.where(fate < 0.8, words["mask"], torch.where(fate < 0.9, labels, noise))
    return flat.scatter(1, positions, replaced).view(blocks.shape), positions, labels


# --- Model -----------------------------------------------------------------------------------------------------------


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


# --- Where a run starts ----------------------------------------------------------------------------------------------


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


def epochs(count: int, steps: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of rows for each step, `(steps, size)`, reshuffled in each epoch."""
    needed = -(-steps * size // count)
    order = torch.cat([torch.randperm(count, generator=generator) for _ in range(needed)])
    return order[: steps * size].view(steps, size)


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


# --- A run -----------------------------------------------------------------------------------------------------------


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
        "early": torch.where(at < 0.2, 4.0, 0.25),
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
