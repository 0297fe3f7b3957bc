# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The command line of continue_pretraining.py."""

import argparse
import math
import os
from pathlib import Path

from common import Parser, at_least, between


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="continue_pretraining.py",
        description="Continue the MLM pre-training of a BERT, and keep its pooler.",
        epilog="Several processes: torchrun --nproc_per_node N continue_pretraining.py ..., or accelerate launch.",
    )
    add = parser.add_argument
    add("--model", required=True, help="a stock BERT with a pooler, or a pooled checkpoint: folder or Hub id")
    add("--train", nargs="+", metavar="PATH", help="files, folders or globs: .txt, .jsonl, .parquet, .csv, .gz, ...")
    add("--eval", nargs="+", metavar="PATH", help="held-out texts; default: a part of --train, see --eval-share")
    add("--eval-share", type=between(0, 1), default=0.05, help="fraction of the texts; default: %(default)s")
    add("--eval-rows", type=at_least(1), default=1000, help="held-out rows that are evaluated; default: %(default)s")
    add("--dataset-name", metavar="NAME[:CONFIG]", help="instead of --train: a dataset on the Hub")
    add("--text-column", default="text", help="of tables and datasets; default: %(default)s")
    add(
        "--line-by-line",
        action="store_true",
        help="in text files each line is a text; rows are texts, cut at --length",
    )
    add("--streaming", action="store_true", help="tokenize while training, without a cache; needs --max-steps")
    add("--num-proc", type=at_least(1), default=cores(), help="processes that tokenize; default: the number of cores")
    add("--cache-dir", type=Path, help="for tokenized corpora; default: in the cache of datasets")
    add("--prepare-only", action="store_true", help="tokenize the corpus into the cache, and stop")
    add("-o", "--output-dir", type=Path, required=True, help="for the checkpoints and the pooled model")
    add("--overwrite", action="store_true", help="allow an --output-dir that is not empty")
    add("--resume", action="store_true", help="continue from the last checkpoint in --output-dir")
    add("--length", type=at_least(8), default=128, help="tokens in a row; default: %(default)s")
    add("--mask", type=between(0, 1), default=0.15, help="fraction of tokens to predict; default: %(default)s")
    add("--whole-words", action="store_true", help="mask all pieces of a word or none")
    add("--epochs", type=between(0, math.inf), default=3.0, help="default: %(default)s")
    add("--max-steps", type=at_least(1), default=-1, help="instead of --epochs")
    add("--batch-size", type=at_least(1), default=16, help="per process; default: %(default)s")
    add("--accumulate", type=at_least(1), default=1, help="batches per step; default: %(default)s")
    add("--lr", type=between(0, math.inf), default=5e-5, help="default: %(default)s")
    add("--weight-decay", type=float, default=0.01, help="default: %(default)s")
    add("--save-steps", type=at_least(1), default=500, help="steps between checkpoints; default: %(default)s")
    add("--calibrate", action="store_true", help="refit the pooler to the trained encoder at the end")
    add("--anchor", action="store_true", help="train the pooled vectors of some texts towards the donor's")
    add("--anchor-texts", metavar="FILE", help="default: training texts, single ones and pairs of neighbours")
    add("--anchor-share", type=between(0, 1), default=0.2, help="fraction of rows; default: %(default)s")
    add("--anchor-weight", type=between(0, math.inf), default=0.3, help="of the pooler loss; default: %(default)s")
    add("--anchor-donor", metavar="MODEL", help="default: the donor that --model names, else --model itself")
    switch = {"action": argparse.BooleanOptionalAction}
    add("--sparse-prediction", **switch, default=True, help="MLM head on masked tokens only: same loss, faster")
    add("--bf16", **switch, help="compute in bfloat16 (autocast); default: where the device supports it")
    add("--gradient-checkpointing", action="store_true", help="less memory, about a third slower")
    add("--cpu", action="store_true", help="do not use a GPU")
    add("--seed", type=at_least(0), default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    if (args.train is None) == (args.dataset_name is None):
        parser.error("pass either --train or --dataset-name")
    if args.streaming and args.max_steps < 0:
        parser.error("--streaming needs --max-steps: the length of a stream is not known")
    if args.streaming and args.prepare_only:
        parser.error("--prepare-only does nothing with --streaming")
    for name in ("anchor_texts", "anchor_share", "anchor_weight", "anchor_donor"):
        if getattr(args, name) != parser.get_default(name) and not args.anchor:
            parser.error(f"--{name.replace('_', '-')} needs --anchor")
    return args
