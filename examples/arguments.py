# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Command-line arguments as the examples read them: numbers within bounds, and errors of one line."""

import argparse
import math


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


def between(low: float, high: float):
    """The argparse type of the numbers between `low` and `high`, both excluded."""

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
