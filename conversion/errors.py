# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The errors of the converter. Each has three parts, and is printed in one line: "subject: reason; remedy"."""

from __future__ import annotations

import re
from collections.abc import Sequence

PART_LIMIT = 2000  # characters of one part of an error


def printable(text: str) -> str:
    """`text` in one line; characters that could move a terminal's cursor are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConversionError(Exception):
    """A checkpoint can't be converted. Names out of its files may be in the text: it is escaped and of bounded length.

    Args:
        subject: The path, repo or option that the error is about.
        reason: What is wrong with it: what was expected, what was found.
        remedy: The one next step; empty where there is none.
    """

    def __init__(self, subject: object, reason: str, remedy: str = ""):
        self.subject, self.reason, self.remedy = (_bounded(printable(str(it))) for it in (subject, reason, remedy))
        super().__init__(self.subject, self.reason, self.remedy)

    def __str__(self) -> str:
        return "; ".join(filter(None, (f"{self.subject}: {self.reason}", self.remedy)))


class HubError(ConversionError):
    """The Hub has, or may have, what was asked for, but did not return it."""


class HubUnreachable(HubError):
    """The Hub answers no request at all: the reason does not depend on what was asked for."""


class ArgumentError(ValueError):
    """An argument has a value that it can't have, or needs another one. `text` has their names in braces."""

    def __init__(self, text: str):
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return re.sub(r"\{(\w+)\}", r"\1", self.text)

    def for_command_line(self) -> str:
        """The message with the command line's flags in the place of the arguments."""
        return re.sub(r"\{(\w+)\}", lambda match: "--" + match[1].replace("_", "-"), self.text)


def _bounded(text: str) -> str:
    half = PART_LIMIT // 2
    return text if len(text) <= PART_LIMIT else f"{text[:half]} [...] {text[-half:]}"


def first_line(error: BaseException) -> str:
    """The first line of another library's error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few of `names`, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
