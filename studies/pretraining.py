# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Continued pre-training as calibration.py, fidelity.py and index_fidelity.py measure it: donors, runs, held-out loss.

A work folder holds the texts, the donor, the donor with an MLM head that was trained on its frozen encoder (`head`),
and the checkpoints of each run. A finished part is not made again.
"""

import dataclasses
import multiprocessing
import random
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from bert_pooled_mlm import AnchoredDataset, AnchoringCollator, BertPooledMLMForMaskedLM, anchor_rows
from corpus import blocks_of, labelled_pairs, read_texts, topic_task
from heads import States, encode, save
from records import read_json, write_json
from texts import minilm
from training import Batch, batches, held_out_batch, held_out_loss, own_loss, quiet, train
from transformers import AutoTokenizer, BertForNextSentencePrediction, DataCollatorForLanguageModeling

OPTIONS = {"nsp_steps": 360, "nsp_lr": 1e-4, "head_steps": 500, "head_lr": 1e-3, "batch_size": 16, "length": 64}
OPTIONS |= {"held_out_pairs": 1500, "anchors": 2000, "held_out_blocks": 400, "pairs": 500, "singles": 500}
OPTIONS |= {"topic": 1440, "seed": 0}
QUICK = {"nsp_steps": 2, "head_steps": 2, "held_out_pairs": 100, "anchors": 20, "held_out_blocks": 8}
QUICK |= {"pairs": 100, "singles": 100, "passages": 40, "topic": 120, "batch_size": 4, "length": 32}


@dataclasses.dataclass(frozen=True)
class Run:
    """One continued pre-training.

    Attributes:
        texts: Anchors in a batch in addition to the blocks, on average.
        weight: `config.pooler_loss_weight`.
        unit: Of the distance to the targets: the squared length of each, or their total variance (the package's).
        kind: Of the anchors: pairs, singles or both.
        head: The initial MLM head: trained before on the frozen donor, or new.
    """

    texts: int = 0
    weight: float = 0.1
    lr: float = 1e-4
    steps: tuple[int, ...] = (100, 300, 1000)
    seed: int = 1
    kind: str = "both"
    unit: str = "length"
    head: str = "trained"

    @property
    def name(self) -> str:
        unit = "-variance" if self.unit == "variance" else ""
        how = f"anchors-{self.texts}-{self.weight:g}-{self.kind}{unit}" if self.texts else "plain"
        return f"{how}-{self.lr:.0e}-{self.head}-seed{self.seed}"


class Work:
    """The texts of a work folder, for training and for evaluation."""

    def __init__(self, folder: Path):
        self.folder, self.options = folder, read_json(folder / "options.json")
        texts, draw, options = read_json(folder / "texts.json"), random.Random(1), self.options
        singles = texts.get("singles") or [paragraph for document in texts["train"].values() for paragraph in document]
        pairs = [tuple(pair) for pair in texts["train_pairs"]]
        draw.shuffle(singles)
        draw.shuffle(pairs)
        kinds, half = {"pairs": pairs, "singles": singles}, options["anchors"] // 2
        self.anchors = {kind: each[: 2 * half] for kind, each in kinds.items()}
        self.anchors["both"] = [text for each in kinds.values() for text in each[:half]]
        _, topic = topic_task(texts["held_out"])
        labelled = {"nsp": texts["held_out_pairs"], "topic": topic[: options["topic"]]}
        labelled["pairs"] = pairs[2 * half :][: options["pairs"]]
        sets = labelled | {"topic": [text for text, _ in labelled["topic"]]}
        sets["singles"] = singles[2 * half :][: options["singles"]]  # neither these nor the pairs are anchors
        sets |= {name: texts[name] for name in ("passages", "queries") if name in texts}
        labels = {name: [row[-1] for row in rows] for name, rows in labelled.items()}
        self.states = States(folder, sets, labels, options["length"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "donor")
        self.blocks, held_out = (blocks_of(texts[p], self.tokenizer, options["length"]) for p in ("train", "held_out"))
        self.held_out = held_out_batch(held_out, self.tokenizer, options["held_out_blocks"])

    def batches(self, run: Run) -> Iterator[Batch]:
        """Endless batches, as `Trainer` makes them with the dataset and collator of the package."""
        rows, size = [{"input_ids": block.tolist()} for block in self.blocks], self.options["batch_size"]
        collator = DataCollatorForLanguageModeling(self.tokenizer)
        if run.texts:
            size += run.texts
            texts = [text if isinstance(text, str) else text[:2] for text in self.anchors[run.kind]]
            donor = self.folder / "donor"
            anchors = anchor_rows(donor, self.tokenizer, texts, max_length=self.options["length"])
            for anchor in anchors if run.unit == "length" else ():
                del anchor["pooler_target_variance"]
            rows, collator = AnchoredDataset(rows, anchors, run.texts / size), AnchoringCollator(collator)
        return batches(rows, collator, size, run.seed)

    def results(self, runs: list[Run]) -> dict[Run, dict]:
        """The losses of the runs that have begun."""
        files = {run: self.folder / "runs" / f"{run.name}.json" for run in runs}
        return {run: read_json(file) for run, file in files.items() if file.exists()}


def next_sentence_donor(folder: Path, base: Path, options: dict, texts: dict) -> dict:
    """Trains the base model on next-sentence prediction."""
    tokenizer, seed, length = AutoTokenizer.from_pretrained(base), options["seed"], options["length"]
    torch.manual_seed(seed)  # the new next-sentence head
    donor, pairs = BertForNextSentencePrediction.from_pretrained(base), texts["held_out_pairs"]
    rows = labelled_pairs(texts["train_pairs"], tokenizer, options, seed + 1)
    losses = train("donor", donor, rows, own_loss, options["nsp_lr"], seed + 1, [options["nsp_steps"]])
    save(donor, tokenizer, folder / "donor")
    scores = encode(donor, pairs, tokenizer, length, lambda model, batch: model(**batch).logits)
    right = scores.argmax(-1) == torch.tensor([label for *_, label in pairs])
    return {"loss": mean_of_last(losses), "accuracy": right.double().mean().item()}


def train_head(folder: Path) -> dict:
    """Trains a new MLM head on the frozen donor, so that continued pre-training starts as that of a published BERT."""
    work = Work(folder)
    options = work.options
    torch.manual_seed(options["seed"])
    model = BertPooledMLMForMaskedLM.from_pretrained(folder / "donor", sparse_prediction=True)
    model.bert.requires_grad_(False)
    steps = [options["head_steps"]]
    losses = train("MLM head", model, work.batches(Run()), own_loss, options["head_lr"], options["seed"], steps)
    model.save_pretrained(folder / "head")
    return {"loss": mean_of_last(losses), "after": held_out_loss(model, own_loss, *work.held_out)}


def train_run(folder: Path, run: Run) -> None:
    """Executes one run in its own process; writes its checkpoints and losses."""
    losses_file, record = folder / "runs" / f"{run.name}.json", {"held_out": {}, "train": {}}
    if losses_file.exists() and read_json(losses_file)["held_out"].keys() >= set(map(str, run.steps)):
        return
    quiet(threads=1)
    work = Work(folder)
    torch.manual_seed(work.options["seed"])  # for a new MLM head
    start = folder / ("head" if run.head == "trained" else "donor")
    fields = {"sparse_prediction": True, "pooler_loss_weight": run.weight}
    model = BertPooledMLMForMaskedLM.from_pretrained(start, **fields)

    def reached(step, losses):
        model.save_pretrained(folder / f"{run.name}/step-{step:05}")
        record["train"][str(step)] = mean_of_last(losses)
        record["held_out"][str(step)] = held_out_loss(model, own_loss, *work.held_out)
        write_json(losses_file, record)

    train(run.name, model, work.batches(run), own_loss, run.lr, run.seed, list(run.steps), reached)


def mean_of_last(losses: list[float]) -> float:
    return statistics.mean(losses[-50:])


def prepare(folder: Path, args, options: dict, read: Callable = read_texts, donor: Callable = next_sentence_donor):
    """Makes the texts, the donor and its MLM head, if the folder has none yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "start.json").exists():
        return
    options = OPTIONS | options | (QUICK if args.quick else {})
    base, texts = minilm(), read(options)
    write_json(folder / "texts.json", texts)
    write_json(folder / "options.json", options)
    record = {"options": options, "donor": donor(folder, base, options, texts)}
    write_json(folder / "start.json", record | ({"head": train_head(folder)} if options["head_steps"] else {}))


def train_runs(jobs: list[tuple[Path, Run]]) -> None:
    """Two runs at a time, one thread each."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for job in [pool.submit(train_run, *each) for each in jobs]:
            job.result()


def quickly(runs: list[Run], quick: bool) -> list[Run]:
    return [dataclasses.replace(run, steps=(1, 2)) for run in runs[:3]] if quick else runs
