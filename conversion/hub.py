# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The Hub: what a name stands for, range reads, download and upload, and one line for each way in which it fails."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, HfFileSystem, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .errors import ConversionError, HubError, first_line
from .sources import CHUNK, Folder, Source, checkpoint_files, local_path
from .terminal import shell_quoted

# The base of requests', httpx's or httpx2's errors, whichever of them this huggingface_hub is built on.
HTTP_ERRORS = HfHubHTTPError.__bases__


class HubRepo:
    """A repo on the Hub, read by byte range: what is not asked for does not come over the wire."""

    def __init__(self, repo_id: str, revision: str | None):
        info = HfApi().model_info(repo_id, revision=revision)
        self.label = info.id  # the canonical one, where `repo_id` is an older name
        self.commit = info.sha
        self._revision = revision
        self._names = {sibling.rfilename for sibling in info.siblings}
        self._files = HfFileSystem()

    def where(self, name: str = "") -> str:
        return "/".join(filter(None, (self.label, name))) + " (on the Hub)"

    def names(self) -> set[str]:
        return self._names

    def size(self, name: str) -> int:
        with hub_errors(self.label):
            return self._files.info(f"{self.label}/{name}", revision=self.commit)["size"]

    def chunks(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        # Without a cache, exactly the bytes that are read are fetched (huggingface_hub 0.36 to 2.4).
        with (
            hub_errors(self.label),
            self._files.open(f"{self.label}/{name}", revision=self.commit, cache_type="none") as file,
        ):
            file.seek(start)
            while length:
                piece = memoryview(file.read(min(length, CHUNK)))
                if not 0 < len(piece) <= length:
                    raise ConversionError(f"{self.where(name)}: ended {length} bytes early; was it changed?")
                yield piece
                length -= len(piece)

    def fetch(self, names: list[str]) -> Folder:
        """Downloads whole files into the Hub's cache, with huggingface_hub's own progress bars.

        Raises:
            ConversionError: The branch moved on while it was read, or the Hub failed.
        """
        with hub_errors(self.label):
            wanted = [glob.escape(name) for name in names if name in self._names]
            # By branch, so that the cache knows what the branch points to, also offline.
            path = Path(snapshot_download(self.label, revision=self._revision, allow_patterns=wanted))
        if path.name != self.commit:
            raise ConversionError(f"{self.label}: changed on the Hub while it was read; run it again")
        return Folder(path, self.label, self.commit)


@contextlib.contextmanager
def hub_errors(repo_id: str, prefix: str = "") -> Iterator[None]:
    """Turns each way in which the Hub fails into one line; `prefix` says what else `repo_id` was looked for as."""
    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"{repo_id}: gated on the Hub; accept its terms on its page, then set HF_TOKEN or run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConversionError(
            f"{repo_id}: {prefix}no such repository on the Hub (a private one needs HF_TOKEN or `hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise ConversionError(f"{repo_id}: the repository on the Hub has no such revision") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise HubError(
            f"{repo_id}: {prefix}not in the local cache, and the Hub is not asked (HF_HUB_OFFLINE is set, or "
            f"it can't be reached); go online, or run `hf download {repo_id}` elsewhere and pass the folder"
        ) from error
    except EntryNotFoundError as error:
        raise ConversionError(f"{repo_id}: a file is missing on the Hub: {first_line(error)}") from error
    except HFValidationError as error:
        raise ConversionError(f"{repo_id}: {prefix}not a repository id of the Hub") from error
    except (OSError, *HTTP_ERRORS) as error:
        raise HubError(f"{repo_id}: {prefix}the Hub failed ({first_line(error)}); try again") from error


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
        raise ConversionError(f"{name}: expected a checkpoint's folder, found a file; pass the folder that holds it")
    if not may_be_repo(name):
        raise ConversionError(f"{name}: no such folder")
    with hub_errors(name, "no such folder, and "):
        return cached_snapshot(name, revision) or HubRepo(name, revision)


def cached_snapshot(repo_id: str, revision: str | None) -> Folder | None:
    """The repo's snapshot in the Hub's cache, if its config and weights are all there."""
    config = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Folder(Path(config).parent, repo_id, Path(config).parent.name)
    files = checkpoint_files(folder)
    return folder if len(files) > 1 and folder.names().issuperset(files) else None


def upload_command(repo_id: str, folder: Path, private: bool = False) -> str:
    """What uploads a folder by hand."""
    return f"hf upload {repo_id} {shell_quoted(folder)} .{' --private' if private else ''}"


def push(folder: Path, repo_id: str, private: bool, message: str) -> str:
    """Uploads the folder in one commit, and returns the commit's URL.

    Raises:
        ConversionError: The upload failed; the local folder is whole, and the message says how to try again.
    """
    try:
        with hub_errors(repo_id):
            repo_id = HfApi().create_repo(repo_id, private=private or None, exist_ok=True).repo_id
            return HfApi().upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url
    except (ConversionError, RuntimeError, ValueError) as error:  # the last two: what a refused file upload raises
        raise ConversionError(
            f"{first_line(error)}. {folder} is complete; to try the upload again: "
            f"{upload_command(repo_id, folder, private)}"
        ) from error
