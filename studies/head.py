# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what `convert.py --head-from` is worth: masked-language modelling (MLM) that goes on with the old MLM head.

The donor is MiniLM with an MLM head that was trained for it. It is fine-tuned, as a classifier of topics and on pairs
of neighbouring paragraphs, and loses the head. MLM then goes on from there: with the donor's head, which the converter
gives back, and with a new one. Text and training loop are those of the other studies.

    python studies/head.py train --work-dir DIR     # what is finished there is not made again
    python studies/head.py measure --work-dir DIR   # the record, and the table of docs/fidelity.md
    python studies/head.py show                     # the table of the record

On two cores without bfloat16 all of it takes about 20 minutes.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import records
import torch
from bert_pooled_mlm import convert
from corpus import blocks_of, read_texts, topic_task
from documents import markdown_table
from heads import encode, save, token_mean
from texts import minilm
from torch.nn import functional
from training import batches, held_out_batch, held_out_loss, masked, mlm_loss, own_loss, train
from transformers import AutoTokenizer, BertForMaskedLM, BertForSequenceClassification, BertModel
from transformers import DataCollatorWithPadding as Padding

OPTIONS = {"head_steps": 500, "head_lr": 1e-3, "tuning_steps": 200, "tuning_lr": 5e-5, "batch_size": 16, "length": 64}
OPTIONS |= {"held_out_pairs": 500, "held_out_blocks": 200, "lr": 1e-4, "steps": [0, 100, 300], "seed": 0}
QUICK = {"head_steps": 2, "tuning_steps": 2, "held_out_pairs": 20, "held_out_blocks": 4, "steps": [0, 1, 2]}
TUNED, HEADS = ("classifier", "pairs"), ("given back", "new")
AIM = 0.3  # nats: the loss at step 0 with the head that is given back, above the donor's own


class Material:
    """The texts of the study, and what is measured on a model."""

    def __init__(self, options: dict):
        texts, length = read_texts(options), options["length"]
        self.options, self.tokenizer = options, AutoTokenizer.from_pretrained(minilm())
        self.blocks = blocks_of(texts["train"], self.tokenizer, length)
        held_out = blocks_of(texts["held_out"], self.tokenizer, length)
        self.held_out = held_out_batch(held_out, self.tokenizer, options["held_out_blocks"])
        names, rows = topic_task(texts["train"])
        self.classes, cut = len(names), len(rows) // 4
        self.topics = {"train": rows[cut:], "held_out": rows[:cut]}
        self.pairs = {part: [it[:2] for it in texts[f"{part}_pairs"] if it[2] == 0] for part in ("train", "held_out")}

    def batches(self, seed: int):
        return masked(self.blocks, self.tokenizer, self.options["batch_size"], seed)

    def encoded(self, encoder, texts: list[str], of_batch) -> torch.Tensor:
        return encode(encoder, texts, self.tokenizer, self.options["length"], of_batch)

    @torch.no_grad()
    def accuracy(self, encoder, classifier) -> float:
        """Of the frozen classifier of the fine-tuning, on the encoder and its pooler, on held-out paragraphs."""
        texts, labels = zip(*self.topics["held_out"], strict=True)
        pooled = self.encoded(encoder, texts, lambda model, batch: model(**batch).pooler_output)
        return (classifier(pooled).argmax(-1) == torch.tensor(labels)).double().mean().item()

    def found(self, encoder) -> float:
        """How often, of all held-out followers, a paragraph's own one has the nearest mean of the token states."""
        sides = (self.encoded(encoder, side, token_mean) for side in zip(*self.pairs["held_out"], strict=True))
        first, second = (functional.normalize(side) for side in sides)
        return ((first @ second.T).argmax(1) == torch.arange(len(first))).double().mean().item()


def train_donor(material: Material, folder: Path) -> None:
    """Trains a new MLM head on the frozen encoder: the donor."""
    options = material.options
    torch.manual_seed(options["seed"])
    donor = BertForMaskedLM.from_pretrained(minilm())
    donor.bert.requires_grad_(False)
    train("donor", donor, material.batches(1), mlm_loss, options["head_lr"], 0, [options["head_steps"]])
    save(donor, material.tokenizer, folder)


def fine_tune(material: Material, tuned: str, donor: Path, folder: Path) -> None:
    """Fine-tunes the donor's encoder with a class that has no MLM head, and so loses it."""
    options, tokenizer, base = material.options, material.tokenizer, BertModel.from_pretrained(minilm())
    limits, size = {"truncation": True, "max_length": options["length"]}, options["batch_size"]
    torch.manual_seed(options["seed"])
    if tuned == "classifier":
        loss_of, collator = own_loss, Padding(tokenizer)
        model = BertForSequenceClassification.from_pretrained(donor, num_labels=material.classes)
        # The donor was published with a pooler, which a classifier trains.
        model.bert.pooler.load_state_dict(base.pooler.state_dict())
        rows = [{**tokenizer(text, **limits), "labels": label} for text, label in material.topics["train"]]
    else:
        model, rows = base, material.pairs["train"]
        model.load_state_dict(BertForMaskedLM.from_pretrained(donor).bert.state_dict(), strict=False)

        def collator(rows):
            sides = zip(*rows, strict=True)
            first, second = (tokenizer(list(it), padding=True, return_tensors="pt", **limits) for it in sides)
            return {**first, "labels": second}

        def loss_of(model, first, second):  # each follower against those of the other rows
            first, second = (functional.normalize(token_mean(model, side)) for side in (first, second))
            return functional.cross_entropy(20 * first @ second.T, torch.arange(len(first)))

    train(tuned, model, batches(rows, collator, size, 1), loss_of, options["tuning_lr"], 1, [options["tuning_steps"]])
    save(model, tokenizer, folder)


def file_of(work_dir: Path, tuned: str, head: str) -> Path:
    return work_dir / f"{tuned}-{head.split()[0]}.json"


def run(material: Material, work_dir: Path, tuned: str, head: str) -> None:
    """MLM training after the fine-tuning; writes what is measured at each step."""
    options, record = material.options, {"options": material.options, "points": {}}
    torch.manual_seed(options["seed"])
    model = BertForMaskedLM.from_pretrained(work_dir / (f"{tuned}-pooled" if head == "given back" else tuned))
    encoder = BertModel.from_pretrained(work_dir / tuned)  # its pooler stays
    classifier = None
    if tuned == "classifier":
        classifier = BertForSequenceClassification.from_pretrained(work_dir / tuned).classifier

    def reached(step, losses):
        encoder.load_state_dict(model.bert.state_dict(), strict=False)
        kept = material.accuracy(encoder, classifier) if classifier else material.found(encoder)
        loss = held_out_loss(model, mlm_loss, *material.held_out)
        record["points"][str(step)] = {"held_out": loss, "kept": kept}

    reached(0, [])
    train(f"{tuned}, {head}", model, material.batches(2), mlm_loss, options["lr"], 2, options["steps"], reached)
    records.write_json(file_of(work_dir, tuned, head), record)


def stage_train(args) -> None:
    args.work_dir.mkdir(parents=True, exist_ok=True)
    material, donor = Material(OPTIONS | (QUICK if args.quick else {})), args.work_dir / "donor"
    if not donor.exists():
        train_donor(material, donor)
    for tuned in TUNED:
        if not (args.work_dir / tuned).exists():
            fine_tune(material, tuned, donor, args.work_dir / tuned)
        if not (args.work_dir / f"{tuned}-pooled").exists():
            convert(args.work_dir / tuned, head_from=donor)
        for head in HEADS:
            if not file_of(args.work_dir, tuned, head).exists():
                run(material, args.work_dir, tuned, head)


def stage_measure(args) -> dict:
    runs = {tuned: {head: records.read_json(file_of(args.work_dir, tuned, head)) for head in HEADS} for tuned in TUNED}
    options = runs[TUNED[0]][HEADS[0]]["options"]
    donor, held_out = BertForMaskedLM.from_pretrained(args.work_dir / "donor"), Material(options).held_out
    points = {tuned: {head: it["points"] for head, it in of.items()} for tuned, of in runs.items()}
    return {"options": options, "donor": held_out_loss(donor, mlm_loss, *held_out), "runs": points}


def tables(result: dict) -> dict[str, str]:
    steps = [str(step) for step in result["options"]["steps"]]
    titles = ["fine-tuned as", "MLM head", *(f"{what}, step {step}" for what in ("loss", "kept") for step in steps)]
    lines = [["", "the donor's own", f"{result['donor']:.2f}", *[""] * (2 * len(steps) - 1)]]
    for tuned, of in result["runs"].items():
        for head, points in of.items():
            losses = [f"{points[step]['held_out']:.2f}" for step in steps]
            lines.append([tuned, head, *losses, *(f"{points[step]['kept']:.3f}" for step in steps)])
    return {"head": markdown_table(titles, lines)}


if __name__ == "__main__":
    records.run("head", __doc__, {"train": stage_train, "measure": stage_measure}, tables)
