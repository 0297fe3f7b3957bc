# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The upload of an output: one commit, or a pull request, that leaves no older weights beside the new ones."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from . import hub, wire
from .errors import ConversionError, HubError, first_line
from .terminal import shell_quoted

# What transformers may load as a model's weights, where an older file can come before a new one; in none of these
# names is anything that a shell or a glob pattern reads otherwise.
WEIGHTS = r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"


@dataclasses.dataclass(frozen=True)
class Upload:
    """Where the output is going to be, or is."""

    repo_id: str
    private: bool = False
    create_pr: bool = False
    stale: tuple[str, ...] = ()  # older weight files of the repo, which the same commit deletes

    def command(self, folder: Path) -> str:
        """What uploads a folder by hand."""
        options = [it for it, given in (("--private", self.private), ("--create-pr", self.create_pr)) if given]
        deletions = [f"--delete={name}" for name in self.stale]
        return " ".join(["hf", "upload", self.repo_id, shell_quoted(folder), ".", *options, *deletions])


class Public(ConversionError):
    """What was to be private would have been published."""


def push(folder: Path, upload: Upload, message: str) -> tuple[str, list[str]]:
    """Uploads the folder in one commit; returns the URL of the commit or pull request, and what there is to know.

    Raises:
        ConversionError: The upload failed; the local folder is whole, and the message says how to try again.
    """
    wire.new_call()  # the conversion may have taken hours since the Hub could not be reached
    files = {it.relative_to(folder).as_posix(): it.stat().st_size for it in folder.rglob("*") if it.is_file()}
    try:
        with hub.hub_errors(upload.repo_id), wire.limited_client():
            upload, private = _target(upload, files)
            commit = _bounded(
                f"upload to {upload.repo_id}",
                sum(files.values()),
                HfApi().upload_folder,
                repo_id=upload.repo_id,
                folder_path=folder,
                commit_message=message,
                create_pr=upload.create_pr,
                delete_patterns=list(upload.stale) or None,
            )
    except (ConversionError, ValueError) as error:
        # Of a public repo no command: `hf upload --private` would publish there without a word.
        again = "" if isinstance(error, Public) else f"; to try the upload again: {upload.command(folder)}"
        raise ConversionError(f"{_refusal(error, upload)}. {folder} is complete{again}") from error
    notes = [f"deleted there, as older weights: {', '.join(upload.stale)}"] if upload.stale else []
    if private and not upload.private:
        notes.append("the repository is private, and stays so")
    return (commit.pr_url if upload.create_pr else commit.commit_url), notes


def _target(upload: Upload, files: Iterable[str]) -> tuple[Upload, bool]:
    """The upload, once its repo has been looked at, or created; and whether that is private."""
    if not upload.create_pr:
        what, private = f"creation of {upload.repo_id}", upload.private or None
        created = _bounded(what, 0, HfApi().create_repo, upload.repo_id, private=private, exist_ok=True)
        upload = dataclasses.replace(upload, repo_id=created.repo_id)
    there = hub.listing(upload.repo_id)
    if upload.private and there.get("private") is not True:
        raise Public(
            f"{upload.repo_id}: is public, and --private would publish the output; make it private in its settings, "
            "choose another REPO_ID, or leave out --private"
        )
    names = {sibling["rfilename"] for sibling in there["siblings"]}
    stale = tuple(sorted(name for name in names.difference(files) if re.fullmatch(WEIGHTS, name)))
    return dataclasses.replace(upload, repo_id=there["id"], stale=stale), there.get("private") is True


def _bounded(what: str, nbytes: int, call: Callable, *args: Any, **kwargs: Any) -> Any:
    """What a call of huggingface_hub returns that asks the Hub several times: eight, for a few files."""

    def work() -> Any:
        try:
            return call(*args, **kwargs)
        except RuntimeError as error:  # "Error while uploading": why stands below it
            raise (error.__cause__ or error) from None

    return wire.bounded(work, what, 8 * wire.time_limit(), nbytes=nbytes)


def _refusal(error: Exception, upload: Upload) -> str:
    """Why an upload failed, as far as its reasons are others than those of a reading that fails."""
    response = getattr(error.__cause__, "response", None)
    status, said = getattr(response, "status_code", None), response is not None and hub.said(error.__cause__)
    if status == 401:
        return f"{upload.repo_id}: the Hub wants a token that may write there; set HF_TOKEN or run `hf auth login`"
    if status == 403 and response.headers.get("X-Error-Code") != "GatedRepo":
        instead = "" if upload.create_pr else ", or offer the output as a pull request: --create-pr"
        return f"{upload.repo_id}: the token may not write there ({said}); use one that may (HF_TOKEN){instead}"
    if status in (402, 413, 507):
        return f"{upload.repo_id}: the Hub has no room for it ({said}); free some storage there, or push elsewhere"
    if status in (409, 412):
        return f"{upload.repo_id}: was changed while it was written ({said})"
    if isinstance(error, HubError) and response is None and error.__cause__ is not None:
        return f"{upload.repo_id}: the Hub failed ({wire.cause(error.__cause__)}) at {wire.endpoint()}"
    return first_line(error)
