# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""One refusal in one line, printable whatever the checkpoint's files are named."""

from __future__ import annotations

from collections.abc import Sequence

MESSAGE_LIMIT = 4000  # characters


def printable(text: str) -> str:
    """`text` in one line, with every character escaped that could move a terminal's cursor."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConversionError(Exception):
    """A refusal, in one line: what is wrong, where, what was expected and found, and what to do.

    Names out of the checkpoint's files stand in it, so what is not printable is escaped, and the length is bounded.
    """

    def __init__(self, message: str):
        if len(message) > MESSAGE_LIMIT:
            message = f"{message[: MESSAGE_LIMIT // 2]} [...] {message[-MESSAGE_LIMIT // 2 :]}"
        super().__init__(printable(message))


class HubError(ConversionError):
    """The Hub has, or may have, the thing, but did not give it."""


class HubUnreachable(HubError):
    """The Hub gives nothing at all; `cause` says why, without naming what it was asked for."""

    def __init__(self, message: str, cause: str):
        super().__init__(message)
        self.cause = printable(cause)


def first_line(error: BaseException) -> str:
    """What an exception of another library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few of `names`, and how many there are besides."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
