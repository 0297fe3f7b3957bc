# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""A repo on the Hub through huggingface_hub: listing, byte ranges, download; one line for each failure."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import errno
import glob
import os
import re
import socket
import threading
from collections.abc import Iterator
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
from .sources import Folder, Source, checkpoint_files, local_path
from .terminal import log

TIME_LIMIT = 20.0  # seconds without an answer until a request is given up
PATIENCE = 2.0  # seconds of silence before a line says what is waited for
PIECE = 4 << 20  # bytes of one range request
# The base class of requests', httpx's or httpx2's errors, whichever of them this huggingface_hub is built on.
HTTP_ERRORS = HfHubHTTPError.__bases__
NO_ROUTE = {errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT}


class Unreachable(Exception):
    """No answer comes from the Hub; no retry of huggingface_hub's catches this."""


@dataclasses.dataclass
class _Connection:
    """What is known of the Hub during one call."""

    unreachable: str | None = None  # why, once that is known


_connection: _Connection | None = None


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Gives every request of huggingface_hub a time limit, and lets one that is not answered be the last one.

    Without it, most requests have no time limit, and those that have one are repeated up to five times. Nested calls
    are one: what has been found unreachable is not asked again in a run over several checkpoints.
    """
    global _connection
    if _connection is not None:
        yield
        return
    _connection = _Connection()
    session = get_session()
    try:
        if hasattr(session, "event_hooks"):  # huggingface_hub 1.0 and later: one httpx client for all threads
            before, send, session.timeout = session.timeout, session.send, _time_limit()
            session.send = _once(send)
            try:
                yield
            finally:
                session.timeout = before
                del session.send
        else:  # before 1.0: one requests session per thread
            from huggingface_hub import configure_http_backend

            def limited() -> Any:
                copied = copy.copy(session)
                request = copied.request
                copied.request = _once(lambda *args, **kwargs: request(*args, **{"timeout": _time_limit(), **kwargs}))
                return copied

            configure_http_backend(limited)
            try:
                yield
            finally:
                configure_http_backend(lambda: copy.copy(session))
    finally:
        _connection = None


def _once(send):
    """`send`, whose time-outs and failures to connect are not worth another attempt."""

    def send_once(*args, **kwargs):
        if _connection is not None and _connection.unreachable:
            raise Unreachable(_connection.unreachable)
        try:
            answer = send(*args, **kwargs)
        except Exception as error:  # httpx's, httpx2's or requests', which have no base class in common
            bottom = _cause(error)
            timed_out = any("Timeout" in base.__name__ for base in type(error).__mro__)
            refused = isinstance(bottom, OSError) and bottom.errno in NO_ROUTE
            if not (timed_out or refused or isinstance(bottom, socket.gaierror)):
                raise
            reason = f"no answer within {_time_limit():.0f} s" if timed_out else _text(bottom)
            if _connection is not None:
                _connection.unreachable = reason
            raise Unreachable(reason) from error
        wait = answer.headers.get("Retry-After", "")
        if answer.status_code == 429 and wait.isdecimal() and int(wait) > TIME_LIMIT:
            raise Unreachable(f"429 Too Many Requests; wait {wait} s")
        return answer

    return send_once


def _time_limit() -> float:
    """Seconds; huggingface_hub's own variables win."""
    limits = (os.environ.get(f"HF_HUB_{name}_TIMEOUT", "") for name in ("ETAG", "DOWNLOAD"))
    return next((float(limit) for limit in limits if limit.isdecimal() and int(limit)), TIME_LIMIT)


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
            info = HfApi().model_info(repo_id, revision=revision, timeout=_time_limit())
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


@contextlib.contextmanager
def hub_errors(repo_id: str, prefix: str = "") -> Iterator[None]:
    """Turns each failure of the Hub into one line; `prefix` says what else `repo_id` was looked for as."""
    try:
        yield
    except HFValidationError as error:
        raise ConversionError(repo_id, f"{prefix}not a repository id of the Hub") from error
    except (OSError, Unreachable, *HTTP_ERRORS) as error:
        raise _explained(repo_id, prefix, error) from error


def _explained(repo_id: str, prefix: str, error: Exception) -> ConversionError:
    cached = f"or run `hf download {repo_id}` elsewhere and pass the folder"
    if gone := _find(error, Unreachable):
        mirror = "" if "HF_ENDPOINT" in os.environ else "; HF_ENDPOINT can name a mirror"
        return HubUnreachable(
            repo_id, f"{prefix}the Hub is unreachable at {endpoint()} ({gone}{mirror})", "try again, or pass a folder"
        )
    if _find(error, OfflineModeIsEnabled):
        return HubUnreachable(
            repo_id,
            f"{prefix}not in the local cache, and the Hub is not asked (HF_HUB_OFFLINE is set)",
            f"unset it, {cached}",
        )
    response = getattr(error, "response", None)
    if response is not None and response.status_code >= 400:
        return _refused(repo_id, prefix, error, response)
    missing = isinstance(error, FileNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
    if missing and not error.filename:  # HfFileSystem's
        return ConversionError(repo_id, f"a file is missing on the Hub: {first_line(error)}")
    if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
        where = error.filename or "the Hub's cache"
        return ConversionError(repo_id, f"{where}: {error.strerror}", "HF_HOME moves the cache")
    reason = f"{prefix}the Hub failed at {endpoint()} ({_text(_cause(error))})"
    return HubError(repo_id, reason, f"try again, or run `hf download {repo_id}` and pass the folder")


def _refused(repo_id: str, prefix: str, error: Exception, response: Any) -> ConversionError:
    """An error status, by the code that the Hub gives it."""
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        return HubError(
            repo_id, "gated on the Hub", "accept its terms on its page, then set HF_TOKEN or run `hf auth login`"
        )
    if "Invalid credentials" in server_message(error):
        return HubError(repo_id, f"{prefix}the Hub does not know this token", "renew HF_TOKEN or run `hf auth login`")
    if code == "RepoNotFound" or (status == 401 and not code):  # anonymous requests get 401 for what may be private
        return ConversionError(
            repo_id, f"{prefix}no such repository on the Hub (a private one needs HF_TOKEN or `hf auth login`)"
        )
    if code == "RevisionNotFound":
        return ConversionError(repo_id, "the repository on the Hub has no such revision")
    if code == "EntryNotFound":
        return ConversionError(repo_id, f"a file is missing on the Hub: {response.url}")
    return HubError(repo_id, f"{prefix}the Hub at {endpoint()} answered {status} ({server_message(error)})")


def server_message(error: BaseException) -> str:
    """The Hub's own words about an error status."""
    response = error.response
    own = getattr(error, "server_message", None) or response.headers.get("X-Error-Message")
    reason = getattr(response, "reason_phrase", None) or getattr(response, "reason", None)
    return first_line(ValueError(own or reason or response.status_code))


def _find(error: BaseException | None, kind: type) -> BaseException | None:
    """The first exception of a kind among `error` and its causes."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _cause(error: BaseException) -> BaseException:
    """The bottom of an HTTP client's chain of exceptions."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _text(error: BaseException) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def may_be_repo(name: str) -> bool:
    """Whether `name` has the form of a Hub id, and is not a path that exists."""
    return bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)) and not os.path.exists(local_path(name))


def open_source(name: str, revision: str | None = None) -> Source:
    """The folder, cached snapshot or Hub repo that `name` names.

    Raises:
        ConversionError: There is none, or the Hub did not answer.
    """
    path = local_path(name)
    if os.path.isdir(path):
        if revision is not None:
            raise ConversionError(name, f"a folder has no revision {revision!r}", "leave the revision out")
        return Folder(path)
    if os.path.exists(path):
        if re.search(r"\.(zip|tar|tgz|gz|bz2|xz|zst|7z|rar)$", path.name):
            raise ConversionError(name, "an archive", "unpack it, and pass the folder that was in it")
        raise ConversionError(name, "a file", f"pass the folder that holds it: {path.parent}")
    if not may_be_repo(name):
        raise ConversionError(name, "no such folder", _instead(name))
    with hub_errors(name, "no such folder, and "):
        return cached_snapshot(name, revision) or HubRepo(name, revision)


def _instead(name: str) -> str:
    """What to pass instead of a name that is neither a path nor an id, as far as its form tells."""
    if re.match(r"\w+://|git@", name):
        return f"nor is it a page of {endpoint()} (a mirror: HF_ENDPOINT); download it, and pass the folder"
    if found := re.fullmatch(r"([\w.-]+/[\w.-]+)[@:]([\w./-]+)", name):
        return f"of a repository on the Hub, pass {found[1]}, and {found[2]} after --revision or --pooler-revision"
    return ""


def cached_snapshot(repo_id: str, revision: str | None) -> Folder | None:
    """The repo's snapshot in the Hub's cache, if its config and weights are all there."""
    config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Folder(Path(config).parent, repo_id, Path(config).parent.name)
    files = checkpoint_files(folder)
    return folder if len(files) > 1 and folder.names().issuperset(files) else None
