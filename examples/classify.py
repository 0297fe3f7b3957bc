# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measures how useful a checkpoint's pooler is for classifying YOUR texts.

    python classify.py reviews.csv --model my-bert-pooled
    python classify.py reviews.jsonl --model my-bert-pooled --finetune

By default the encoder is frozen, and a linear classifier (logistic regression) is trained on each of four sentence
vectors: the output of the checkpoint's own pooler, the raw [CLS] state, the mean over the tokens, and the output of
random poolers, initialised as transformers does where a checkpoint has none. --finetune trains the whole model
instead.
"""

import argparse
import csv
import io
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
import transformers
from common import Parser, at_least, between, first_line, need, need_length, read_text, with_bar
from torch.nn.functional import cross_entropy
from tqdm import tqdm

OWN, CLS, MEAN, RANDOM = "own pooler", "raw [CLS]", "mean of the tokens", "random pooler"
SEPARATORS = {".csv": ",", ".tsv": "\t"}
# Candidates for the L2 regularization of the linear classifier; chosen on a part of the training data.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    description = "Compare a checkpoint's pooler with [CLS], mean pooling and random poolers."
    parser = Parser(prog="classify.py", description=description)
    add = parser.add_argument
    add("data", type=Path, help="UTF-8: .csv, .tsv (with a header line) or .jsonl")
    add("--model", required=True, help="a BERT with a pooler, stock or pooled: folder or Hub id")
    add("--test", type=Path, help="file to test on; default: a part of the data, different for each seed")
    add("--test-share", type=between(0, 1), default=0.25, help="default: %(default)s")
    add("--text-column", default="text", help="default: %(default)s")
    add("--label-column", default="label", help="default: %(default)s")
    add("--seeds", type=at_least(2), default=5, help="number of runs; default: %(default)s")
    add("--length", type=at_least(8), default=128, help="maximum number of tokens per text; default: %(default)s")
    add("--batch-size", type=at_least(1), default=32, help="default: %(default)s")
    add("--finetune", action="store_true", help="train the whole model; not available for the mean of the tokens")
    add("--epochs", type=at_least(1), default=3, help="with --finetune; default: %(default)s")
    add("--lr", type=between(0, math.inf), default=5e-5, help="with --finetune; default: %(default)s")
    add("--json", type=Path, metavar="FILE", help="also write the scores of each run")
    add("--cpu", action="store_true", help="do not use a GPU")
    return parser.parse_args(argv)


# Reading the data.


def read_rows(file: Path) -> list[dict]:
    """The rows of a file, as dictionaries by column name; the values of a table are texts."""
    content, kind, rows = read_text(file).removeprefix("\ufeff"), file.suffix.lower(), []
    if kind in SEPARATORS:
        csv.field_size_limit(1 << 30)
        return list(csv.DictReader(io.StringIO(content), delimiter=SEPARATORS[kind]))
    if kind not in (".jsonl", ".ndjson"):
        raise ValueError(f"{file}: expected .csv, .tsv or .jsonl, found {kind or 'no suffix'}")
    for number, line in enumerate(content.split("\n"), 1):
        try:
            rows += [dict(json.loads(line))] if line.strip() else []
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}, line {number}: no JSON object") from error
    return rows


def read_examples(file: Path, args: argparse.Namespace) -> list[tuple[str, str]]:
    """Texts and their labels; a row without one of them is an error."""
    examples, rows = [], read_rows(file)
    columns = list(dict.fromkeys(str(name) for row in rows for name in row))
    for option, column in (("--text-column", args.text_column), ("--label-column", args.label_column)):
        if rows and column not in columns:
            raise ValueError(f"{file}: no column {column!r}; choose one of {', '.join(columns)} with {option}")
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(f"{file}, row {number}: more fields than the header has columns")
        for column in (args.text_column, args.label_column):
            if row.get(column) in (None, ""):
                found = ", ".join(name for name in row if row[name] not in (None, ""))
                raise ValueError(f"{file}, row {number}: column {column!r} is empty; the row has: {found}")
        examples.append((str(row[args.text_column]), str(row[args.label_column])))
    if not examples:
        raise ValueError(f"{file} has no rows")
    return examples


def split(labels: list[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train and to test on, stratified by label; at least one of each label in both."""
    rng, train, test = random.Random(seed), [], []
    for label in dict.fromkeys(labels):
        positions = [position for position, other in enumerate(labels) if other == label]
        rng.shuffle(positions)
        count = min(max(1, round(share * len(positions))), len(positions) - 1)
        test += positions[:count]
        train += positions[count:]
    return train, test


# Scores.


def scores(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> tuple[float, float]:
    """Accuracy, and the mean F1 of the classes that occur in the labels or the predictions."""
    table = torch.bincount(labels * classes + predicted, minlength=classes * classes).view(classes, classes).double()
    correct, counts = table.diag(), table.sum(0) + table.sum(1)
    f1 = 2 * correct[counts > 0] / counts[counts > 0]
    return (correct.sum() / table.sum()).item(), f1.mean().item()


def fit(features: torch.Tensor, labels: torch.Tensor, classes: int, strength: float) -> torch.nn.Linear:
    """Logistic regression: cross-entropy plus `strength` times the squared weights, by L-BFGS."""
    head = torch.nn.Linear(features.size(1), classes)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(head(features), labels) + strength * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


def probe(features: torch.Tensor, labels: torch.Tensor, train: list[int], test: list[int], seed: int, classes: int):
    """Scores on `test` of a linear classifier trained on `train`, its regularization chosen within `train`."""
    mean, deviation = features[train].mean(0), features[train].std(0).clamp(min=1e-6)
    features = (features - mean) / deviation
    fitted, held_out = ([train[i] for i in part] for part in split(labels[train].tolist(), 0.2, seed))

    def tested(strength, train, test):
        head = fit(features[train], labels[train], classes, strength)
        return scores(head(features[test]).argmax(-1), labels[test], classes)

    return tested(max(STRENGTHS, key=lambda strength: tested(strength, fitted, held_out)[0]), train, test)


# Sentence vectors.


@torch.no_grad()
def encode(model, tokenizer, texts: list[str], args: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Three vectors of each text, each `(texts, hidden_size)`, from one pass."""
    model.eval()
    vectors = {OWN: [], CLS: [], MEAN: []}
    for start in tqdm(range(0, len(texts), args.batch_size), desc="encoding", unit="batch"):
        limits = {"truncation": True, "max_length": args.length, "padding": True, "return_tensors": "pt"}
        batch = tokenizer(texts[start : start + args.batch_size], **limits).to(model.device)
        output = model(**batch)
        mask = batch["attention_mask"].unsqueeze(-1)
        vectors[OWN].append(output.pooler_output)
        vectors[CLS].append(output.last_hidden_state[:, 0])
        vectors[MEAN].append((output.last_hidden_state * mask).sum(1) / mask.sum(1))
    return {name: torch.cat(parts).float().cpu() for name, parts in vectors.items()}


def randomize_pooler(pooler: torch.nn.Module, std: float, seed: int) -> None:
    """Initialises a pooler randomly, as transformers does where a checkpoint has none."""
    weight = std * torch.randn(pooler.dense.weight.shape, generator=torch.Generator().manual_seed(1000 + seed))
    pooler.dense.load_state_dict({"weight": weight, "bias": torch.zeros(len(weight))})


class FirstToken(torch.nn.Module):
    """Replaces a pooler: returns the [CLS] state unchanged."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return states[:, 0]


def finetune(kind: str, seed: int, train: list[dict], test: list[dict], tokenizer, classes, args) -> torch.Tensor:
    """The labels that the whole model predicts for `test` after training on `train`."""
    transformers.set_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=classes)
    if kind == RANDOM:
        randomize_pooler(model.bert.pooler, model.config.initializer_range, seed)
    elif kind == CLS:
        model.bert.pooler = FirstToken()
    steps = args.epochs * math.ceil(len(train) / args.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            folder, num_train_epochs=args.epochs, per_device_train_batch_size=args.batch_size, learning_rate=args.lr,
            weight_decay=0.01, warmup_steps=max(1, steps // 10), seed=seed, save_strategy="no", logging_strategy="no",
            report_to="none", disable_tqdm=False, use_cpu=args.device.type == "cpu", dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model, settings, transformers.DataCollatorWithPadding(tokenizer), train_dataset=train
        )
        with_bar(trainer).train()
        return torch.from_numpy(trainer.predict(test).predictions).argmax(-1)


def show(results: dict[str, list[tuple[float, float]]]) -> None:
    print(f"{'':<22}{'accuracy':^24}{'macro-F1':^24}")
    print(f"{'':<22}" + 2 * f"{'mean   std   min   max':^24}")
    for name, runs in results.items():
        columns = zip(*runs, strict=True)
        columns = [[of(values) for of in (statistics.mean, statistics.stdev, min, max)] for values in columns]
        cells = (" ".join(f"{value:.3f}" for value in column) for column in columns)
        print((f"{name:<22}" + "".join(f"{cell:^24}" for cell in cells)).rstrip())


def read_both(args: argparse.Namespace) -> tuple[list, list, list[str]]:
    """The examples of the data and of --test, and the labels' names."""
    examples, tested = read_examples(args.data, args), read_examples(args.test, args) if args.test else []
    counts = Counter(label for _, label in examples)
    names = sorted(counts)
    if len(names) < 2:
        raise ValueError(f"{args.data}: the only label is {names[0]!r}; at least two are needed")
    if unknown := sorted({label for _, label in tested} - counts.keys()):
        raise ValueError(f"{args.test}: labels that do not occur in {args.data}: {', '.join(unknown[:5])}")
    if rare := [name for name in names if counts[name] < 4]:
        raise ValueError(f"{args.data}: fewer than four examples of {', '.join(map(repr, rare[:5]))}")
    return examples, tested, names


def run(args: argparse.Namespace) -> None:
    need(("bert_pooled_mlm", *(["accelerate"] if args.finetune else [])), '".[train]"')
    from bert_pooled_mlm import BertPooledMLMModel

    examples, tested, names = read_both(args)
    texts = [text for text, _ in (*examples, *tested)]
    labels = torch.tensor([names.index(label) for _, label in (*examples, *tested)])
    args.device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")

    def parts(seed):
        if tested:
            return list(range(len(examples))), list(range(len(examples), len(texts)))
        return split(labels.tolist(), args.test_share, seed)

    # Loaded with --finetune too: this class raises an error for a checkpoint without a pooler.
    model = BertPooledMLMModel.from_pretrained(args.model, return_logits=False).to(args.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    need_length(args.length, args.model, model.config.max_position_embeddings)
    results = {OWN: [], CLS: [], MEAN: [], RANDOM: []}
    if args.finetune:
        del model, results[MEAN]
        encoded = (tokenizer(text, truncation=True, max_length=args.length) for text in texts)
        rows = [{**row, "labels": label} for row, label in zip(encoded, labels.tolist(), strict=True)]
        for seed, kind in itertools.product(range(args.seeds), results):
            train, test = parts(seed)
            both = ([rows[i] for i in part] for part in (train, test))
            predicted = finetune(kind, seed, *both, tokenizer, len(names), args)
            results[kind].append(scores(predicted, labels[test], len(names)))
    else:
        vectors, pooler = encode(model, tokenizer, texts, args), model.bert.pooler.cpu()
        for seed in tqdm(range(args.seeds), desc="classifying", unit="seed"):
            train, test = parts(seed)
            randomize_pooler(pooler, model.config.initializer_range, seed)
            with torch.no_grad():
                vectors[RANDOM] = pooler(vectors[CLS].unsqueeze(1))
            for kind in results:
                results[kind].append(probe(vectors[kind], labels, train, test, seed, len(names)))
    baseline = scores(labels[train].mode().values.expand(len(test)), labels[test], len(names))

    method = "whole model trained" if args.finetune else "encoder frozen, logistic regression"
    print(f"{args.model}: {method}; {len(names)} labels, {len(train)} training texts, {len(test)} test texts,")
    print(f"{args.seeds} seeds. Most frequent label: accuracy {baseline[0]:.3f}, macro-F1 {baseline[1]:.3f}.\n")
    show(results)
    if args.json:
        result = {"labels": names, "train": len(train), "test": len(test), "finetune": args.finetune, "runs": results}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        run(args)
    except (OSError, ValueError) as error:
        print(f"classify.py: error: {first_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
