# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Shared by the examples: argument types, one-line errors, checks of files and packages, a progress bar."""

import argparse
import importlib.util
import math
from collections.abc import Iterable
from pathlib import Path

from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import ProgressCallback


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def at_least(minimum: int):
    """Argparse type: an integer of at least `minimum`."""

    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {minimum}, found {text!r}")
        return int(text)

    return integer


def between(low: float, high: float):
    """Argparse type: a number between `low` and `high`, both excluded."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low < value < high:
            bounds = f"above {low:g}" + (f" and below {high:g}" if high < math.inf else "")
            raise argparse.ArgumentTypeError(f"expected a number {bounds}, found {text!r}")
        return value

    return number


# The package is not on PyPI yet; this is the only line to change when it is.
INSTALL = "from a checkout of the project: pip install"


def need(packages: Iterable[str], install: str) -> None:
    """Raises ValueError where one of `packages` is missing; `install` are the arguments of pip that install them."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"missing packages: {', '.join(missing)}; {INSTALL} {install}")


def need_length(length: int, model: str, longest: int) -> None:
    if length > longest:
        raise ValueError(f"--length {length}: {model} reads {longest} tokens at most")


def read_text(file: Path) -> str:
    if not file.is_file():
        raise ValueError(f"{file} is not a file")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error


def holds_files(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    return folder.is_dir() and any(folder.iterdir())


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def like_length() -> dict:
    """Trainer's setting for batches of texts of similar length."""
    if "train_sampling_strategy" in TrainingArguments.__dataclass_fields__:  # from transformers 5.2 on
        return {"train_sampling_strategy": "group_by_length"}
    return {"group_by_length": True}


class Bar(ProgressCallback):
    """Trainer's progress bar, with the loss next to it instead of JSON lines below it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is None:
            return
        if "loss" in logs:
            losses = {name: float(logs[name]) for name in ("loss", "pooler_loss") if name in logs}
            self.training_bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
        elif "eval_loss" in logs:
            perplexity = math.exp(min(logs["eval_loss"], 99))
            self.training_bar.write(f"step {state.global_step}: held-out perplexity {perplexity:.2f}")


def with_bar(trainer: Trainer) -> Trainer:
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar)
    return trainer
