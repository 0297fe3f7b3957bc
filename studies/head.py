# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what `convert.py --head-from` is worth: masked-language modelling (MLM) that goes on with the old MLM head.

The donor is MiniLM with an MLM head that was trained for it. It is fine-tuned, as a classifier of topics and on pairs
of neighbouring paragraphs, and loses the head. MLM then goes on from there: with the donor's head, which the converter
gives back, and with a new one. Text and training loop are those of the other studies. Writes the record and the table
of docs/fidelity.md.

    python studies/head.py train --work-dir DIR     # resumes where it stopped
    python studies/head.py measure --work-dir DIR   # the record, and the table of the page
    python studies/head.py show                     # the table of the record

On two cores without bfloat16 all of it takes about 40 minutes of one core.
"""

import random
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import documents
import records
import torch
from bert_pooled_mlm import convert
from corpus import blocks_of, padded, read_texts, tokenized, topic_task
from texts import minilm
from torch.nn import functional
from training import masked, mlm_loss, quiet, train
from transformers import AutoTokenizer, BertForMaskedLM, BertForSequenceClassification, BertModel

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
        held_out, dice = blocks_of(texts["held_out"], self.tokenizer, length), torch.Generator().manual_seed(0)
        self.held_out = next(masked(held_out, self.tokenizer, options["held_out_blocks"], dice))
        rows = topic_task(texts["train"])[1]
        self.topics = {"train": rows[len(rows) // 4 :], "held_out": rows[: len(rows) // 4]}
        self.pairs = {part: [it[:2] for it in texts[f"{part}_pairs"] if it[2] == 0] for part in ("train", "held_out")}

    def batches(self, seed: int):
        return masked(self.blocks, self.tokenizer, self.options["batch_size"], torch.Generator().manual_seed(seed))

    def encoded(self, texts: list[str]) -> dict:
        return padded(tokenized(texts, self.tokenizer, self.options["length"]), range(len(texts)), self.tokenizer)

    @torch.no_grad()
    def loss(self, model) -> float:
        """Held-out MLM loss in nats per masked token, on the same blocks and masks each time."""
        ids, labels = self.held_out[0]["input_ids"], self.held_out[1]
        parts = [
            (mlm_loss(model.eval(), {"input_ids": part}, of).item(), (of != -100).sum().item())
            for part, of in zip(ids.split(32), labels.split(32), strict=True)
        ]
        return sum(loss * count for loss, count in parts) / sum(count for _, count in parts)

    @torch.no_grad()
    def accuracy(self, encoder, classifier) -> float:
        """Of the frozen classifier of the fine-tuning, on the encoder and its pooler, on held-out paragraphs."""
        rows, right = self.topics["held_out"], 0
        for part in (rows[start : start + 64] for start in range(0, len(rows), 64)):
            pooled = encoder.eval()(**self.encoded([text for text, _ in part])).pooler_output
            right += (classifier(pooled).argmax(-1) == torch.tensor([label for _, label in part])).sum().item()
        return right / len(rows)

    @torch.no_grad()
    def found(self, encoder) -> float:
        """How often, of all held-out followers, a paragraph's own one has the nearest mean of the token states."""
        sides = [
            torch.cat([mean(encoder.eval(), self.encoded(side[at : at + 64])) for at in range(0, len(side), 64)])
            for side in map(list, zip(*self.pairs["held_out"], strict=True))
        ]
        nearest = (sides[0] @ sides[1].T).argmax(1)
        return (nearest == torch.arange(len(nearest))).float().mean().item()


def mean(encoder, batch: dict) -> torch.Tensor:
    """The normalized mean of the token states, as MiniLM's modules in sentence-transformers compute it."""
    states, read = encoder(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    return functional.normalize((states * read).sum(1) / read.sum(1))


def shuffled(rows: list, size: int, seed: int):
    """Endless batches of rows."""
    draw = random.Random(seed)
    while True:
        order = draw.sample(rows, len(rows))
        yield from (order[start : start + size] for start in range(0, len(order) - size + 1, size))


def nothing(step: int, losses: list[float]) -> None:
    pass


def train_donor(material: Material, folder: Path) -> None:
    """Trains a new MLM head on the frozen encoder: the donor."""
    options = material.options
    torch.manual_seed(options["seed"])
    donor = BertForMaskedLM.from_pretrained(minilm())
    donor.bert.requires_grad_(False)
    train("donor", donor, material.batches(1), mlm_loss, options["head_lr"], 0, [options["head_steps"]], nothing)
    donor.save_pretrained(folder)
    material.tokenizer.save_pretrained(folder)


def fine_tune(material: Material, tuned: str, donor: Path, folder: Path) -> None:
    """Fine-tunes the donor's encoder with a class that has no MLM head, and so loses it."""
    options, size = material.options, material.options["batch_size"]
    torch.manual_seed(options["seed"])
    if tuned == "classifier":
        classes = 1 + max(label for _, label in material.topics["train"])
        model = BertForSequenceClassification.from_pretrained(donor, num_labels=classes)
        with torch.no_grad():  # the donor was published with a pooler, which a classifier trains
            model.bert.pooler.load_state_dict(BertModel.from_pretrained(minilm()).pooler.state_dict())

        def loss_of(model, rows):
            inputs = material.encoded([text for text, _ in rows])
            return model(**inputs, labels=torch.tensor([label for _, label in rows])).loss
    else:
        model = BertModel.from_pretrained(minilm())
        model.load_state_dict(BertForMaskedLM.from_pretrained(donor).bert.state_dict(), strict=False)

        def loss_of(model, rows):  # each follower against those of the other rows
            first, second = (mean(model, material.encoded(list(side))) for side in zip(*rows, strict=True))
            return functional.cross_entropy(20 * first @ second.T, torch.arange(len(rows)))

    batches = (
        (rows,) for rows in shuffled((material.topics if tuned == "classifier" else material.pairs)["train"], size, 1)
    )
    steps = [options["tuning_steps"]]
    train(tuned, model, batches, loss_of, options["tuning_lr"], 1, steps, nothing)
    model.save_pretrained(folder)
    material.tokenizer.save_pretrained(folder)


def run(material: Material, work_dir: Path, tuned: str, head: str) -> None:
    """MLM training after the fine-tuning; writes what is measured at each step. Resumes where it stopped."""
    options, file = material.options, work_dir / f"{tuned}-{head.split()[0]}.json"
    record = records.read_json(file) if file.exists() else {"options": options, "points": {}}
    if record["points"].keys() == {*map(str, options["steps"])}:
        return
    torch.manual_seed(options["seed"])
    model = BertForMaskedLM.from_pretrained(work_dir / (f"{tuned}-pooled" if head == "given back" else tuned))
    encoder = BertModel.from_pretrained(work_dir / tuned)  # its pooler stays
    classifier = None
    if tuned == "classifier":
        classifier = BertForSequenceClassification.from_pretrained(work_dir / tuned).classifier

    def reached(step, losses):
        encoder.load_state_dict(model.bert.state_dict(), strict=False)
        kept = material.accuracy(encoder, classifier) if classifier else material.found(encoder)
        record["points"][str(step)] = {"held_out": material.loss(model), "kept": kept}
        records.write_json(file, record)

    keep = file.with_suffix(".pt")
    train(
        f"{tuned}, {head}",
        model,
        material.batches(2),
        mlm_loss,
        options["lr"],
        2,
        options["steps"],
        reached,
        keep=keep,
    )
    keep.unlink(missing_ok=True)


def stage_train(args) -> None:
    args.work_dir.mkdir(parents=True, exist_ok=True)
    options = OPTIONS | (QUICK if args.quick else {})
    material, donor = Material(options), args.work_dir / "donor"
    if not donor.exists():
        train_donor(material, donor)
    for tuned in TUNED:
        if not (args.work_dir / tuned).exists():
            fine_tune(material, tuned, donor, args.work_dir / tuned)
        if not (args.work_dir / f"{tuned}-pooled").exists():
            convert(args.work_dir / tuned, head_from=donor)
        for head in HEADS:
            run(material, args.work_dir, tuned, head)


def stage_measure(args) -> None:
    runs = {
        tuned: {head: records.read_json(args.work_dir / f"{tuned}-{head.split()[0]}.json") for head in HEADS}
        for tuned in TUNED
    }
    options = runs[TUNED[0]][HEADS[0]]["options"]
    donor = BertForMaskedLM.from_pretrained(args.work_dir / "donor")
    points = {tuned: {head: it["points"] for head, it in of.items()} for tuned, of in runs.items()}
    result = {"versions": records.versions(), "options": options, "donor": Material(options).loss(donor)}
    result = records.six_digits(result | {"runs": points})
    records.write_json(args.output_dir / "head.json", result)
    records.show(tables(result))
    if args.output_dir == records.RESULTS:
        documents.update(records.PAGE, "head.py", tables(result))


def tables(result: dict) -> dict[str, str]:
    steps = [str(step) for step in result["options"]["steps"]]
    titles = ["fine-tuned as", "MLM head", *(f"loss, step {step}" for step in steps)]
    titles += [f"kept, step {step}" for step in steps]
    lines = [["", "the donor's own", f"{result['donor']:.2f}", *[""] * (2 * len(steps) - 1)]]
    for tuned, of in result["runs"].items():
        for head, points in of.items():
            losses = [f"{points[step]['held_out']:.2f}" for step in steps]
            lines.append([tuned, head, *losses, *(f"{points[step]['kept']:.3f}" for step in steps)])
    return {"head": documents.markdown_table(titles, lines)}


def main(argv=None):
    args = records.parser("head", __doc__, "train", "measure", "show").parse_args(argv)
    quiet(threads=1)
    if args.stage == "show":
        records.show(tables(records.read_json(args.output_dir / "head.json")))
    else:
        {"train": stage_train, "measure": stage_measure}[args.stage](args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
