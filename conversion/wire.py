# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""One request to the Hub: bounded in time and memory, told of when it takes long, not repeated once the Hub is gone.

huggingface_hub's own calls give no time limit to most requests, and none of theirs holds for a server that answers
byte by byte, for a slow name look-up, or for the memory that an answer takes. So each request runs in a thread of its
own, which is given up when its time is over.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import OfflineModeIsEnabled, build_hf_headers, get_session

from .errors import first_line
from .sources import JSON_LIMIT

TIME_LIMIT = 20.0  # seconds until a request that nothing comes of is given up
SLOWEST = 8 << 10  # bytes a second: a body that comes slower is given up too
PATIENCE = 2.0  # seconds of silence before a line says what is waited for
ATTEMPTS = 3
OFFLINE = "HF_HUB_OFFLINE is set"
BROKEN = 0  # in place of a status: an answer that broke off
PASSING = {BROKEN, 429, 500, 502, 503, 504}  # worth another attempt
log = logging.getLogger("bert_pooled_mlm")


class Unreachable(Exception):
    """Nothing comes from the Hub, whatever is asked for: the cause, without the name of what was asked for."""


class Answered(Exception):
    """An answer that is not what was asked for; `response` has its status and headers."""

    def __init__(self, text: str, response: Any):
        super().__init__(text)
        self.response = response


_gone: list[str] = []  # why the Hub could not be reached in this call, once that is known


def new_call() -> None:
    """Forgets that the Hub could not be reached."""
    _gone.clear()


def endpoint() -> str:
    """The Hub's address, or that of the mirror in HF_ENDPOINT."""
    return HfApi().endpoint


def time_limit(kind: str = "DOWNLOAD") -> float:
    """Seconds, by huggingface_hub's variables where one of them is set; `kind` is "DOWNLOAD" or "ETAG" (listings)."""
    other = {"DOWNLOAD": "ETAG", "ETAG": "DOWNLOAD"}[kind]
    limits = (os.environ.get(f"HF_HUB_{name}_TIMEOUT", "") for name in (kind, other))
    return next((float(limit) for limit in limits if limit.isdecimal() and int(limit)), TIME_LIMIT)


def cause(error: BaseException) -> str:
    """What is at the bottom of an HTTP client's exception, such as "Connection refused"."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or first_line(error)


def bounded(
    call: Callable[[], Any], what: str, limit: float, received: Callable[[], int] = lambda: 0, nbytes: int = 0
) -> Any:
    """What `call` returns, out of a thread that is given up when its time is over.

    Args:
        call: Asks the Hub.
        what: What it asks for, as a line on a long wait names it.
        limit: In seconds, for `call` as such; what comes, or has to go, makes it longer.
        received: How many bytes have come.
        nbytes: How many have to go either way, as far as that is known beforehand.

    Raises:
        Unreachable: The time is over.
    """
    results: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:  # raised below, in the thread that waits
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    start, told = time.monotonic(), False
    while True:
        elapsed = time.monotonic() - start
        left = limit + max(received(), nbytes) / SLOWEST - elapsed
        if left <= 0:
            came = f"{received()} bytes" if received() else "no answer"
            raise Unreachable(f"{came} within {elapsed:.0f} s")
        if not told and elapsed >= PATIENCE:
            log.info("waiting for %s: %s (for %.0f s more at most)", endpoint(), what, left)
            told = True
        with contextlib.suppress(queue.Empty):
            result, error = results.get(timeout=left if told else min(left, max(PATIENCE - elapsed, 0.01)))
            if error is not None:
                raise error
            return result


def get(url: str, what: str, start: int = 0, length: int | None = None, size: int | None = None) -> tuple[bytes, str]:
    """The body of an answer, or a range of it, and the answer's Content-Range.

    Args:
        url: Where.
        what: As a line on a long wait names it.
        start: The first byte that is wanted.
        length: How many are wanted; None: the whole body, of bounded size.
        size: Of the whole file, where that is known.

    Raises:
        Unreachable: No answer, or none that ends; from then on, of every request until `new_call`.
        Answered: By something else.
    """
    if _gone:
        raise Unreachable(_gone[0])
    limit = time_limit("ETAG" if length is None else "DOWNLOAD")
    for attempt in range(1, ATTEMPTS + 1):
        session, body = get_session(), bytearray()
        work = functools.partial(_receive, session, url, body, start, length, size, limit + 1)
        try:
            found = bounded(work, what, limit, received=body.__len__)
            return bytes(body), found
        except OfflineModeIsEnabled:
            failure, pause = OFFLINE, None
        except Unreachable as error:
            failure, pause = str(error), None
        except Answered as error:
            pause = _pause(error.response, attempt, limit)
            if pause is None and error.response.status_code != 429:
                raise
            failure = f"429 Too Many Requests{_asked(error.response, '; wait {} s')}"
        except (TypeError, AttributeError, NameError):  # a mistake of ours is no failure of the Hub's
            raise
        except Exception as error:  # httpx's, requests' or urllib3's, which have no base in common
            failure, pause = cause(error), attempt / 5
        if pause is None or attempt == ATTEMPTS:
            _gone.append(failure)
            raise Unreachable(failure)
        if pause >= PATIENCE:
            log.info("waiting %.0f s, as %s asks for: %s", pause, endpoint(), what)
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _asked(answer: Any, text: str) -> str:
    """The seconds that an answer asks to wait, put into `text`; nothing where it asks for none."""
    asked = answer.headers.get("Retry-After", "")
    return text.format(asked) if asked.isdecimal() and len(asked) < 9 else ""


def _pause(answer: Any, attempt: int, limit: float) -> float | None:
    """How long to wait before another attempt; None where there is no use in one."""
    pause = float(_asked(answer, "{}") or attempt / 5)
    return pause if answer.status_code in PASSING and attempt < ATTEMPTS and pause <= limit else None


def _receive(
    session: Any, url: str, body: bytearray, start: int, length: int | None, size: int | None, timeout: float
) -> str:
    """Fills `body` with what was asked for, and not a byte more; returns the Content-Range."""
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if length is not None:
        headers["Range"] = f"bytes={start}-{start + length - 1}"
    most = JSON_LIMIT if length is None else length
    with _stream(session, url, headers, timeout) as (answer, pieces):
        status, found = answer.status_code, answer.headers.get("Content-Range", "")
        if status >= 300:
            raise Answered(answer.headers.get("X-Error-Message", ""), answer)
        whole = length is None or (start, length) == (0, size)
        if not (status == 200 and whole) and not found.startswith(f"bytes {start}-{start + most - 1}/"):
            raise _bad(
                f"asked for bytes {start} to {start + most - 1}, it sent {found or 'the whole file'}: it, or a proxy "
                "before it, ignores byte ranges"
            )
        try:
            for piece in pieces:
                if len(body) + len(piece) > most:
                    raise _bad(f"it sent more than {most} bytes")
                body += piece
        except Answered:
            raise
        except Exception as error:  # as above
            raise _bad(cause(error), BROKEN) from error
    if length is not None and len(body) < length:
        raise _bad(f"the answer ended after {len(body)} of {length} bytes", BROKEN)
    return found


def _bad(text: str, status: int = 200) -> Answered:
    return Answered(text, SimpleNamespace(status_code=status, headers={}))


@contextlib.contextmanager
def _stream(session: Any, url: str, headers: dict, timeout: float) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """A GET's answer, of which nothing but the head has been read."""
    if hasattr(session, "event_hooks"):  # httpx: huggingface_hub 1.0 and later
        with session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
            yield answer, answer.iter_bytes()
    else:
        with session.get(url, headers=headers, timeout=timeout, stream=True) as answer:
            yield answer, answer.iter_content(1 << 14)


@contextlib.contextmanager
def limited_client() -> Iterator[None]:
    """Gives a time limit to the requests of huggingface_hub that have none: those of uploads."""

    def refuse_long_wait(answer: Any) -> None:
        if float(_asked(answer, "{}") or 0) > time_limit():
            raise Answered(f"Too Many Requests{_asked(answer, '; wait {} s')}", answer)

    session = get_session()
    if hasattr(session, "event_hooks"):  # httpx; all threads share the one client
        before, session.timeout = session.timeout, time_limit()
        session.event_hooks["response"].append(refuse_long_wait)
        try:
            yield
        finally:
            session.timeout = before
            session.event_hooks["response"].remove(refuse_long_wait)
        return
    from huggingface_hub import configure_http_backend  # requests: huggingface_hub before 1.0; a session per thread

    def limited() -> Any:
        copied = copy.copy(session)
        copied.request = functools.partial(copied.request, timeout=time_limit())
        return copied

    configure_http_backend(limited)
    try:
        yield
    finally:
        configure_http_backend(lambda: copy.copy(session))
