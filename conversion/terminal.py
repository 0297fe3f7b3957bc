# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The command line's terminal: signals that end the program, and strings that can be pasted into Python or a shell."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator

log = logging.getLogger("bert_pooled_mlm")


class Terminated(BaseException):
    """A signal that ends the program. It is raised in the main thread, so that incomplete output is removed."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def raising_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP (a job scheduler, a closed terminal) raise `Terminated`, as Ctrl-C raises KeyboardInterrupt.

    A signal that is ignored (`nohup`) or that another program handles stays as it is.
    """

    def terminate(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # schedulers send it repeatedly; the cleanup must not be interrupted
        raise Terminated(number)

    before = {}
    for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
        if signal.getsignal(number) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_line(text: object) -> None:
    """Prints to stdout, whose encoding may lack characters of the text (file names need not be Unicode)."""
    encoding = sys.stdout.encoding or "utf-8"
    print(str(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)


def log_to_stderr() -> None:
    """Messages about long waits go to stderr; on a terminal, the steps (level DEBUG) do as well."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.DEBUG if sys.stderr.isatty() else logging.INFO)


def quoted(text: str) -> str:
    """A Python string literal, in double quotes where nothing has to be escaped; without backticks, for Markdown."""
    plain = text.isprintable() and not set(text) & set('"\\')
    return (f'"{text}"' if plain else ascii(text)).replace("`", "\\x60")


def shell_quoted(path: str | os.PathLike) -> str:
    """An argument for the shell, in one line, that no program takes for an option."""
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text
    if os.name == "nt":
        return subprocess.list2cmdline([text])
    if text.isprintable():
        return shlex.quote(text)
    plain = {byte for byte in range(32, 127) if byte not in b"\\'"}
    return "$'" + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(text)) + "'"
