# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What the program owes its terminal: streams that may be closed or full, signals, and lines that can be pasted.

Imported before anything that takes its time: from then on, Ctrl-C ends the program without a traceback.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

INTERRUPTED = 130  # the exit code of shells for SIGINT


class Ended(BaseException):
    """A signal that ends the run, raised where the work is, so that the workspace is cleared away."""


def is_program() -> bool:
    """Whether this process was started to convert, through one of the three doors, and not by another program."""
    started = Path(sys.argv[0] if sys.argv else "")
    by_module = sys.orig_argv[1:3] == ["-m", "bert_pooled_mlm.convert"]
    by_file = os.path.realpath(started) == os.path.realpath(Path(__file__).parent.parent / "convert.py")
    return by_module or by_file or started.stem == "bert-pooled-mlm-convert"


def _end_at_once(*_: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)


def _handle(name: str, handler: object, instead_of: object) -> object | None:
    """Sets a handler, unless the signal is ignored (`nohup`, a background job) or another's; gives the one before."""
    number = getattr(signal, name, None)
    if number is None or signal.getsignal(number) is not instead_of:
        return None
    try:
        return signal.signal(number, handler)
    except ValueError:  # not the main thread: signals are another's affair
        return None


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """From imports to work: Ctrl-C raises KeyboardInterrupt; once the work is done, the program is too."""
    _handle("SIGINT", signal.default_int_handler, _end_at_once)
    try:
        yield
    finally:
        if is_program():
            _handle("SIGINT", signal.SIG_IGN, signal.default_int_handler)


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """What a job scheduler or a closed terminal sends ends the run as Ctrl-C does: the workspace goes with it."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # schedulers repeat it: the clearing away is not to be interrupted
        raise Ended(signal.Signals(number).name)

    names = ("SIGTERM", "SIGHUP")
    before = {name: _handle(name, end, signal.SIG_DFL) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            if handler is not None:
                signal.signal(getattr(signal, name), handler)


def open_streams() -> None:
    """Gives closed standard streams an end, so that no file of the conversion gets their descriptors.

    `sys.stdout` stays None then: `say` tells it from one that nobody wants to read.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process


def say(text: object) -> None:
    """Prints to stdout; where that can't take it, what has been done is done, and stderr says that it was not told."""
    try:
        if sys.stdout is None:
            raise ValueError("it is closed")
        encoding = sys.stdout.encoding or "utf-8"  # file names need not be Unicode, nor stdout UTF-8
        print(str(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except (OSError, ValueError) as error:
        _give_up(1)
        if not isinstance(error, BrokenPipeError):  # `| head` has seen enough
            reason = getattr(error, "strerror", None) or error
            warn(f"stdout can't take the report ({reason}); what has been converted is whole")


def warn(text: object) -> None:
    """Prints to stderr, if that can take it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _give_up(2)


def _give_up(descriptor: int) -> None:
    """Sends what a standard stream still holds to nowhere: Python would try once more when it exits, and fail."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if (sys.stdout, sys.stderr)[descriptor - 1].fileno() == descriptor:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def tell_waits() -> None:
    """Lines on stderr about what takes long, in a log too; on a terminal, also about the steps (level DEBUG)."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("bert_pooled_mlm").handlers = [handler]
    logging.getLogger("bert_pooled_mlm").setLevel(logging.DEBUG if sys.stderr.isatty() else logging.INFO)


def quoted(text: str) -> str:
    """A Python string, in double quotes where nothing has to be escaped; in Markdown's code spans, too."""
    plain = text.isprintable() and not set(text) & set('"\\')
    return (f'"{text}"' if plain else ascii(text)).replace("`", "\\x60")


def shell_quoted(path: str | os.PathLike) -> str:
    """An argument for the shell, on one line whatever is in it, that no program takes for an option."""
    text = os.fspath(path)
    text = f"./{text}" if text.startswith("-") else text
    if os.name == "nt":
        return subprocess.list2cmdline([text])
    if text.isprintable():
        return shlex.quote(text)
    plain = {byte for byte in range(32, 127) if byte not in b"\\'"}
    return "$'" + "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in os.fsencode(text)) + "'"


if is_program():
    _handle("SIGINT", _end_at_once, signal.default_int_handler)
