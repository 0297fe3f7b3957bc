# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""A repo on the Hub through huggingface_hub: listing, byte ranges, download; one line for each failure."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import glob
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, HfFileSystem, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    get_session,
)

from .errors import ConversionError, HubError, HubUnreachable, first_line
from .sources import Folder, checkpoint_files
from .terminal import log

TIME_LIMIT = 20.0  # seconds without an answer until a request is given up
PATIENCE = 2.0  # seconds of silence before a line says what is waited for
PIECE = 4 << 20  # bytes of one range request
# The base class of requests', httpx's or httpx2's errors, whichever of them this huggingface_hub is built on.
HTTP_ERRORS = HfHubHTTPError.__bases__
NO_ROUTE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH}


class Unreachable(Exception):
    """No answer comes from the Hub; no retry of huggingface_hub's catches this."""


class _Limits:
    """Gives each request of a client a time limit; once one is not answered, none is sent any more."""

    active: _Limits | None = None  # of the call that is under way

    def __init__(self):
        self._unreachable: str | None = None  # why, once that is known
        limits = (os.environ.get(f"HF_HUB_{name}_TIMEOUT", "") for name in ("ETAG", "DOWNLOAD"))
        self._seconds = next((float(limit) for limit in limits if limit.isdecimal() and int(limit)), TIME_LIMIT)

    def apply(self, client: Any) -> Any:
        client.send = functools.partial(self._send, client.send)
        return client

    def _send(self, send: Callable, request: Any, **kwargs) -> Any:
        if self._unreachable:
            raise Unreachable(self._unreachable)
        if hasattr(request, "extensions"):  # httpx
            limits = request.extensions["timeout"]
            request.extensions["timeout"] = {phase: limit or self._seconds for phase, limit in limits.items()}
        else:  # requests
            kwargs["timeout"] = kwargs.get("timeout") or self._seconds
        start = time.monotonic()
        try:
            answer = send(request, **kwargs)
        except Exception as error:  # httpx's, httpx2's or requests', which have no base class in common
            if (cause := _no_connection(error)) is None:
                raise
            timed_out, seconds = isinstance(cause, TimeoutError), time.monotonic() - start
            self._unreachable = f"no answer within {seconds:.0f} s" if timed_out else _text(cause)
            raise Unreachable(self._unreachable) from error
        wait = answer.headers.get("Retry-After", "")
        if answer.status_code == 429 and wait.isdecimal() and int(wait) > TIME_LIMIT:
            self._unreachable = f"429 Too Many Requests; wait {wait} s"
            raise Unreachable(self._unreachable)
        return answer


def _no_connection(error: BaseException) -> OSError | None:
    """The system's reason why no answer came; None where one broke off, which is worth another attempt."""
    kinds = (TimeoutError, socket.gaierror, ssl.SSLError)
    return next((it for it in _chain(error) if isinstance(it, kinds) or getattr(it, "errno", 0) in NO_ROUTE), None)


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Gives every request of huggingface_hub a time limit, and lets one that is not answered be the last one.

    Without it, most requests have no time limit, and those that have one are repeated up to five times. Nested calls
    are one: what has been found unreachable is not asked again in a run over several checkpoints.
    """
    if _Limits.active is not None:
        yield
        return
    client = get_session()
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, _Limits, "active", None)
        limits = _Limits.active = _Limits()
        if hasattr(client, "event_hooks"):  # huggingface_hub 1.0 and later: one httpx client for all threads
            stack.callback(delattr, limits.apply(client), "send")
        else:  # before 1.0: one client of requests for each thread
            from huggingface_hub import configure_http_backend

            stack.callback(configure_http_backend, lambda: copy.copy(client))
            configure_http_backend(lambda: limits.apply(copy.copy(client)))
        yield


def endpoint() -> str:
    """The Hub's address, or that of the mirror in HF_ENDPOINT."""
    return HfApi().endpoint


@contextlib.contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Says in one line what is waited for, if it takes long."""
    timer = threading.Timer(PATIENCE, log.info, ("waiting for %s: %s", endpoint(), what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class HubRepo:
    """A repo on the Hub, read by byte range: only what is asked for is downloaded."""

    def __init__(self, repo_id: str, revision: str | None):
        with waiting_for(f"the files of {repo_id}"):
            info = HfApi().model_info(repo_id, revision=revision)
        self.label = info.id  # the current one, where `repo_id` is an older name
        self.commit = info.sha
        self._revision = revision
        self._names = {file.rfilename for file in info.siblings or ()}
        self._files: dict[str, Any] = {}

    def where(self, name: str = "") -> str:
        return "/".join(filter(None, (self.label, name))) + " (on the Hub)"

    def names(self) -> set[str]:
        return self._names

    def _open(self, name: str) -> Any:
        """A file whose reads are requests for just these bytes (without a cache, fsspec reads nothing ahead)."""
        if name not in self._files:
            self._files[name] = HfFileSystem().open(f"{self.label}@{self.commit}/{name}", cache_type="none")
        return self._files[name]

    def size(self, name: str) -> int:
        with hub_errors(self.label), waiting_for(f"{self.label}/{name}"):
            return self._open(name).size

    def chunks(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        while length:
            with hub_errors(self.label), waiting_for(f"{self.label}/{name}"):
                file = self._open(name)
                file.seek(start)
                piece = file.read(min(length, PIECE))
            if len(piece) != min(length, PIECE):
                raise HubError(self.where(name), f"sent {len(piece)} bytes for a range of {min(length, PIECE)}")
            yield memoryview(piece)
            start, length = start + len(piece), length - len(piece)

    def fetch(self, names: list[str]) -> Folder:
        """Downloads whole files into the Hub's cache, with huggingface_hub's own progress bars.

        Raises:
            ConversionError: The branch was changed while it was read, or the Hub failed.
        """
        patterns = [glob.escape(name) for name in names if name in self._names]
        with hub_errors(self.label), waiting_for(f"{self.label}: {', '.join(patterns)}"):
            # By branch, so that the cache knows what the branch points to, also offline.
            path = Path(snapshot_download(self.label, revision=self._revision, allow_patterns=patterns))
        if path.name != self.commit:
            raise ConversionError(self.label, "was changed on the Hub while it was read", "run it again")
        return Folder(path, self.label, self.commit)


def cached_snapshot(repo_id: str, revision: str | None) -> Folder | None:
    """The repo's snapshot in the Hub's cache, if its config and weights are all there."""
    config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Folder(Path(config).parent, repo_id, Path(config).parent.name)
    files = checkpoint_files(folder)
    return folder if len(files) > 1 and folder.names().issuperset(files) else None


@contextlib.contextmanager
def hub_errors(repo_id: str, prefix: str = "") -> Iterator[None]:
    """Turns each failure of the Hub into one line; `prefix` says what else `repo_id` was looked for as."""
    try:
        yield
    except HFValidationError as error:
        raise ConversionError(repo_id, f"{prefix}not a repository id of the Hub") from error
    except (OSError, ValueError, KeyError, Unreachable, *HTTP_ERRORS) as error:  # an answer may be no listing
        raise _explained(repo_id, prefix, error) from error


def _explained(repo_id: str, prefix: str, error: Exception) -> ConversionError:
    """An error without a status, or with one."""
    if gone := next((it for it in _chain(error) if isinstance(it, Unreachable)), None):
        mirror = "" if "HF_ENDPOINT" in os.environ else "; HF_ENDPOINT can name a mirror"
        reason = f"{prefix}the Hub is unreachable at {endpoint()} ({gone}{mirror})"
        return HubUnreachable(repo_id, reason, "try again, or pass a folder")
    if any(isinstance(it, OfflineModeIsEnabled) for it in _chain(error)):
        reason = f"{prefix}not in the local cache, and the Hub is not asked (HF_HUB_OFFLINE is set)"
        remedy = f"unset it, or run `hf download {repo_id}` elsewhere and pass the folder"
        return HubUnreachable(repo_id, reason, remedy)
    response = getattr(error, "response", None)
    if response is not None and response.status_code >= 400:
        return _answered(repo_id, prefix, error, response)
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        where = error.filename or "the Hub's cache"
        return ConversionError(repo_id, f"{where}: {error.strerror}", "HF_HOME moves the cache")
    if isinstance(error, FileNotFoundError) and not isinstance(error, LocalEntryNotFoundError):  # HfFileSystem's
        return ConversionError(repo_id, f"a file is missing on the Hub: {first_line(error)}")
    reason = f"{prefix}the Hub failed at {endpoint()} ({_text(_chain(error)[-1])})"
    return HubError(repo_id, reason, f"try again, or run `hf download {repo_id}` and pass the folder")


def _answered(repo_id: str, prefix: str, error: Exception, response: Any) -> ConversionError:
    """An error status, by the code that the Hub gives it."""
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        remedy = "accept its terms on its page, then set HF_TOKEN or run `hf auth login`"
        return HubError(repo_id, "gated on the Hub", remedy)
    if "Invalid credentials" in server_message(error):
        return HubError(repo_id, f"{prefix}the Hub does not know this token", "renew HF_TOKEN or run `hf auth login`")
    if code == "RepoNotFound" or (status == 401 and not code):  # anonymous requests get 401 for what may be private
        reason = f"{prefix}no such repository on the Hub (a private one needs HF_TOKEN or `hf auth login`)"
        return ConversionError(repo_id, reason)
    if code == "RevisionNotFound":
        return ConversionError(repo_id, "the repository on the Hub has no such revision")
    if code == "EntryNotFound":
        return ConversionError(repo_id, f"a file is missing on the Hub: {response.url}")
    reason = f"{prefix}the Hub at {endpoint()} answered {status} ({server_message(error)})"
    return HubError(repo_id, reason, "try again later" if status >= 500 else "")


def server_message(error: BaseException) -> str:
    """The Hub's own words about an error status."""
    response = error.response
    own = getattr(error, "server_message", None) or response.headers.get("X-Error-Message")
    reason = getattr(response, "reason_phrase", None) or getattr(response, "reason", None)
    return first_line(ValueError(own or reason or response.status_code))


def _chain(error: BaseException | None) -> list[BaseException]:
    """An exception and its causes; the last one is an HTTP client's reason."""
    chain = []
    while error is not None and error not in chain:  # one that is raised again can be among its own causes
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _text(error: BaseException) -> str:
    return getattr(error, "strerror", None) or first_line(error)
