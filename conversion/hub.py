# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The Hub: what a name stands for, range reads, download, and one line for each way in which it fails."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from huggingface_hub import hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    validate_repo_id,
)

from . import wire
from .errors import ConversionError, HubError, HubUnreachable, first_line
from .sources import Folder, Source, checkpoint_files, local_path

# The base of requests', httpx's or httpx2's errors, whichever of them this huggingface_hub is built on.
HTTP_ERRORS = HfHubHTTPError.__bases__
PIECE = 4 << 20  # bytes of one request
PAGES = ("huggingface.co", "www.huggingface.co", "hf.co")
KINDS = ("datasets", "spaces", "docs", "papers", "collections", "blog")  # first parts of pages that are no models


class HubRepo:
    """A repo on the Hub, read by byte range: what is not asked for does not come over the wire."""

    def __init__(self, repo_id: str, revision: str | None):
        info = listing(repo_id, revision)
        self.label = info["id"]  # the canonical one, where `repo_id` is an older name
        self.commit = info["sha"]
        self._revision = revision
        self._sizes = {sibling["rfilename"]: sibling.get("size") for sibling in info["siblings"]}

    def where(self, name: str = "") -> str:
        return "/".join(filter(None, (self.label, name))) + " (on the Hub)"

    def names(self) -> set[str]:
        return set(self._sizes)

    def size(self, name: str) -> int:
        if self._sizes[name] is None:  # a listing of a mirror need not tell it
            _, found = self._get(name, 0, 1)
            self._sizes[name] = int(found.rpartition("/")[2] or 1)
        return self._sizes[name]

    def chunks(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        while length:
            piece, _ = self._get(name, start, min(length, PIECE))
            yield memoryview(piece)
            start, length = start + len(piece), length - len(piece)

    def _get(self, name: str, start: int, length: int) -> tuple[bytes, str]:
        url = hf_hub_url(self.label, name, revision=self.commit, endpoint=wire.endpoint())
        with hub_errors(self.label):
            return wire.get(url, f"{self.label}/{name}", start, length, self._sizes[name])

    def fetch(self, names: list[str]) -> Folder:
        """Downloads whole files into the Hub's cache, with huggingface_hub's own progress bars.

        Raises:
            ConversionError: The branch moved on while it was read, or the Hub failed.
        """
        wanted = [name for name in names if name in self._sizes]
        nbytes = sum(self._sizes[name] or 0 for name in wanted)

        def download() -> str:
            patterns = [glob.escape(name) for name in wanted]
            # By branch, so that the cache knows what the branch points to, also offline.
            with wire.limited_client():
                return snapshot_download(self.label, revision=self._revision, allow_patterns=patterns)

        with hub_errors(self.label):
            what = f"{self.label}, {nbytes / 1e6:.0f} MB"
            path = Path(wire.bounded(download, what, 8 * wire.time_limit(), nbytes=nbytes))
        if path.name != self.commit:
            raise ConversionError(f"{self.label}: changed on the Hub while it was read; run it again")
        return Folder(path, self.label, self.commit)


def listing(repo_id: str, revision: str | None = None) -> dict:
    """What the Hub says of a repo: `id`, `sha`, `private`, and each file's name and size as `siblings`.

    Raises:
        ConversionError: It says something else, or names what is no file of a repo.
    """
    validate_repo_id(repo_id)
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    text, _ = wire.get(f"{wire.endpoint()}/api/models/{repo_id}{at}?blobs=true", f"the files of {repo_id}")
    where = f"{repo_id}: the answer of {wire.endpoint()}"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HubError(f"{where} is not JSON; is it the Hub, or does a proxy want a login?") from error
    match found:
        case {"id": str(label), "sha": str(commit), "siblings": [*siblings]}:
            names = [it.get("rfilename") for it in siblings if isinstance(it, dict)]
            sizes = [it.get("size", 0) for it in siblings if isinstance(it, dict)]
            plain = is_repo_id(label) and re.fullmatch("[0-9a-f]{7,64}", commit) and len(names) == len(siblings)
            if plain and all(size is None or (type(size) is int and size >= 0) for size in sizes):
                for name in names:
                    if not isinstance(name, str) or "\\" in name or {"..", "/"} & {*PurePosixPath(name).parts}:
                        raise HubError(f"{where} lists the file {name!r}, which lies outside the repository")
                return found
    raise HubError(f"{where} is not the listing of a repository; is it the Hub?")


@contextlib.contextmanager
def hub_errors(repo_id: str, prefix: str = "") -> Iterator[None]:
    """Turns each way in which the Hub fails into one line; `prefix` says what else `repo_id` was looked for as."""
    try:
        yield
    except (OfflineModeIsEnabled, wire.Unreachable) as error:
        raise unreachable(repo_id, prefix, error) from error
    except HFValidationError as error:
        raise ConversionError(f"{repo_id}: {prefix}not a repository id of the Hub") from error
    except (OSError, wire.Answered, *HTTP_ERRORS) as error:
        response = getattr(error, "response", None)
        if response is not None and response.status_code >= 400:
            raise refusal(repo_id, prefix, error, response) from error
        if isinstance(error, LocalEntryNotFoundError):  # huggingface_hub gave up; why stands below it
            raise unreachable(repo_id, prefix, error) from error
        if isinstance(error, OSError) and (error.filename or error.errno == errno.ENOSPC):
            where = error.filename or "the Hub's cache"
            raise ConversionError(f"{repo_id}: {where}: {error.strerror}; HF_HOME moves the cache") from error
        why = first_line(error) if isinstance(error, wire.Answered) else wire.cause(error)
        advice = f"try again, or run `hf download {repo_id}` and pass the folder"
        raise HubError(f"{repo_id}: {prefix}the Hub failed ({why}) at {wire.endpoint()}; {advice}") from error


def unreachable(repo_id: str, prefix: str, error: BaseException) -> HubUnreachable:
    """The Hub as a whole is not to be had."""
    if isinstance(error, OfflineModeIsEnabled) or str(error) == wire.OFFLINE:
        why = f"not in the local cache, and the Hub is not asked ({wire.OFFLINE})"
        advice = f"unset it, or run `hf download {repo_id}` elsewhere and pass the folder"
    else:
        mirror = "" if "HF_ENDPOINT" in os.environ else "; HF_ENDPOINT can name a mirror"
        why = f"the Hub can't be reached at {wire.endpoint()} ({wire.cause(error)}{mirror})"
        advice = "try again, or pass a folder"
    return HubUnreachable(f"{repo_id}: {prefix}{why}; {advice}", why)


def refusal(repo_id: str, prefix: str, error: BaseException, response) -> ConversionError:
    """An error status, by the code that the Hub gives it."""
    status, code = response.status_code, response.headers.get("X-Error-Code")
    if code == "GatedRepo":
        return HubError(
            f"{repo_id}: gated on the Hub; accept its terms on its page, then set HF_TOKEN or run `hf auth login`"
        )
    if "Invalid credentials" in said(error):
        return HubError(f"{repo_id}: {prefix}the Hub does not know this token; renew HF_TOKEN or run `hf auth login`")
    if code == "RepoNotFound" or (status == 401 and not code):  # 401: to the anonymous, of what may be private
        return ConversionError(
            f"{repo_id}: {prefix}no such repository on the Hub (a private one needs HF_TOKEN or `hf auth login`)"
        )
    if code == "RevisionNotFound":
        return ConversionError(f"{repo_id}: the repository on the Hub has no such revision")
    if code == "EntryNotFound":
        return ConversionError(f"{repo_id}: a file is missing on the Hub: {urlsplit(str(response.url)).path}")
    again = "; try again later" if status in wire.PASSING else ""
    return HubError(f"{repo_id}: {prefix}the Hub at {wire.endpoint()} answered {status} ({said(error)}){again}")


def said(error: BaseException) -> str:
    """What the Hub says of an error status: its own words, or those of HTTP."""
    response = error.response
    own = str(error) if isinstance(error, wire.Answered) else getattr(error, "server_message", None)
    words = own or response.headers.get("X-Error-Message")
    status = response.status_code
    return first_line(ValueError(words or (HTTPStatus(status).phrase if status in set(HTTPStatus) else status)))


def from_page(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """The repo id, and the revision, of a page of the Hub whose address was pasted; else `name` as it is.

    Raises:
        ConversionError: It is the page of something else, or of another revision.
    """
    mirror, path = urlsplit(wire.endpoint()).netloc, None
    host = "|".join(map(re.escape, filter(None, (*PAGES, mirror))))
    if found := re.fullmatch(rf"(?:https?://)?(?:{host})/(.*)|hf://(?:models/)?(.*)", name):
        path = urlsplit(found[1] or found[2] or "").path.strip("/")
        # As huggingface_hub's file system spells it.
        if found[2] and (file := re.fullmatch(r"([^/]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", path)):
            kind = "blob" if "." in (file[3] or "") else "tree"
            path = "/".join(filter(None, (file[1], kind, file[2] or "main", file[3])))
    if path is None or os.path.exists(local_path(name)):
        return name, revision
    page = re.fullmatch(
        r"(?P<id>[^/]+(?:/(?!tree/|blob/|resolve/|raw/)[^/]+)?)"
        r"(?:/(?:(?P<folder>tree|commit)|blob|resolve|raw)/(?P<shown>[^/]+)(?P<below>/.*)?|/\w+)?",
        path,
    )
    if page is None or not is_repo_id(page["id"]) or page["id"].split("/")[0] in KINDS:
        raise ConversionError(f"{name}: not the page of a model on the Hub; pass the model's id, such as user/name")
    below = (page["below"] or "").strip("/")
    if not page["folder"]:  # a file is shown, or a tab
        below = below.rpartition("/")[0]
    if below:
        raise ConversionError(
            f"{name}: a folder in a repository; run `hf download {page['id']}`, and pass {below} in the folder that "
            "it names"
        )
    shown = unquote(page["shown"]) if page["shown"] else None
    if shown and revision and shown != revision:
        raise ConversionError(f"{name}: shows the revision {shown}, and {revision} was asked for; leave one out")
    # `main` is what is taken anyway, and as a name it would stand in every message.
    return page["id"], revision or (shown if shown != "main" else None)


def may_be_repo(name: str) -> bool:
    """Whether `name` has the form of a Hub id, and is not a path that exists."""
    return bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)) and not os.path.exists(local_path(name))


def is_repo_id(name: str) -> bool:
    """Whether something can be pushed to `name`."""
    return bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name))


def open_source(name: str, revision: str | None = None) -> Source:
    """The folder, cached snapshot or Hub repo that `name` stands for.

    Raises:
        ConversionError: There is none, or the Hub did not answer.
    """
    path = local_path(name)
    if os.path.isdir(path):
        if revision is not None:
            raise ConversionError(f"{name}: a folder has no revision {revision!r}; leave the revision out")
        return Folder(path)
    if os.path.exists(path):
        if re.search(r"\.(zip|tar|tgz|gz|bz2|xz|zst|7z|rar)$", path.name):
            raise ConversionError(f"{name}: an archive; unpack it, and pass the folder that was in it")
        raise ConversionError(f"{name}: a file; pass the folder that holds it: {path.parent}")
    if not may_be_repo(name):
        raise ConversionError(f"{name}: no such folder{_instead(name)}")
    with hub_errors(name, "no such folder, and "):
        return cached_snapshot(name, revision) or HubRepo(name, revision)


def _instead(name: str) -> str:
    """What to pass in the place of a name that is neither a path nor an id, as far as its form tells."""
    if re.match(r"\w+://|git@", name):
        return f", nor a page of {wire.endpoint()} (a mirror: HF_ENDPOINT); download it, and pass the folder"
    if found := re.fullmatch(r"([\w.-]+/[\w.-]+)[@:]([\w./-]+)", name):
        return f"; of a repository on the Hub: {found[1]}, and {found[2]} behind --revision or --pooler-revision"
    return ""


def cached_snapshot(repo_id: str, revision: str | None) -> Folder | None:
    """The repo's snapshot in the Hub's cache, if its config and weights are all there."""
    config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Folder(Path(config).parent, repo_id, Path(config).parent.name)
    files = checkpoint_files(folder)
    return folder if len(files) > 1 and folder.names().issuperset(files) else None
