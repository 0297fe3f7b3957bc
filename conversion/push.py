# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Uploads an output in one commit, or as a pull request, and deletes older weight files of the repo with it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from huggingface_hub import HfApi

from . import hub
from .errors import ConversionError, first_line
from .terminal import shell_quoted

# What transformers may load as a model's weights: an older file could take precedence over a new one. None of these
# names has a character that a shell or a glob pattern reads otherwise.
WEIGHTS = r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"


@dataclasses.dataclass(frozen=True)
class Upload:
    """Where the output is uploaded to."""

    repo_id: str
    private: bool = False
    create_pr: bool = False
    stale: tuple[str, ...] = ()  # older weight files of the repo, which the same commit deletes

    def command(self, folder: Path) -> str:
        """The command that uploads a folder by hand."""
        options = [it for it, given in (("--private", self.private), ("--create-pr", self.create_pr)) if given]
        deletions = [f"--delete={name}" for name in self.stale]
        return " ".join(["hf", "upload", self.repo_id, shell_quoted(folder), ".", *options, *deletions])


def push(folder: Path, upload: Upload, message: str) -> tuple[str, list[str]]:
    """Uploads the folder in one commit; returns the URL of the commit or pull request, and notes for the report.

    Raises:
        ConversionError: The upload failed. The local folder is complete; the remedy is the command that tries again.
    """
    try:
        with hub.hub_errors(upload.repo_id), hub.waiting_for(f"upload to {upload.repo_id}"):
            upload, private = _prepared(upload, folder)
            try:
                commit = HfApi().upload_folder(
                    repo_id=upload.repo_id,
                    folder_path=folder,
                    commit_message=message,
                    create_pr=upload.create_pr,
                    delete_patterns=list(upload.stale) or None,
                )
            except RuntimeError as error:  # "Error while uploading"; the reason is its cause
                raise (error.__cause__ or error) from None
    except Exception as error:  # whatever the client raises: the local result is complete in any case
        if isinstance(error, AttributeError | NameError | TypeError):  # a mistake in this program
            raise
        reason = _reason(error, upload)
        # Not for a public repo: `hf upload --private` would publish there without a warning.
        again = "" if isinstance(error, PublicRepo) else f"; to try the upload again: {upload.command(folder)}"
        raise ConversionError(upload.repo_id, reason, f"{folder} is complete{again}") from error
    notes = [f"deleted there, as older weights: {', '.join(upload.stale)}"] if upload.stale else []
    if private and not upload.private:
        notes.append("the repository is private, and stays so")
    return (commit.pr_url if upload.create_pr else commit.commit_url), notes


class PublicRepo(ConversionError):
    """An output that was to be private would have been published."""


def _prepared(upload: Upload, folder: Path) -> tuple[Upload, bool]:
    """The upload, once its repo has been looked at, or created; and whether the repo is private."""
    if not upload.create_pr:
        created = HfApi().create_repo(upload.repo_id, private=upload.private or None, exist_ok=True)
        upload = dataclasses.replace(upload, repo_id=created.repo_id)
    info = HfApi().model_info(upload.repo_id)
    if upload.private and not info.private:
        raise PublicRepo(
            upload.repo_id,
            "is public, and --private would publish the output; make it private in its settings, choose another "
            "REPO_ID, or leave out --private",
        )
    files = {it.relative_to(folder).as_posix() for it in folder.rglob("*") if it.is_file()}
    names = {sibling.rfilename for sibling in info.siblings or ()}
    stale = tuple(sorted(name for name in names - files if re.fullmatch(WEIGHTS, name)))
    return dataclasses.replace(upload, repo_id=info.id, stale=stale), bool(info.private)


def _reason(error: Exception, upload: Upload) -> str:
    """Why an upload failed, where the reasons are other ones than when reading fails."""
    response = getattr(error.__cause__, "response", None)
    if response is not None:
        status, said = response.status_code, hub.server_message(error.__cause__)
        if status == 401:
            return "the Hub wants a token that may write there; set HF_TOKEN or run `hf auth login`"
        if status == 403 and response.headers.get("X-Error-Code") != "GatedRepo":
            instead = "" if upload.create_pr else ", or offer the output as a pull request: --create-pr"
            return f"the token may not write there ({said}); use one that may (HF_TOKEN){instead}"
        if status in (402, 413, 507):
            return f"the Hub has no room for it ({said}); free some storage there, or push elsewhere"
        if status in (409, 412):
            return f"was changed while it was written ({said})"
    return error.reason if isinstance(error, ConversionError) else first_line(error)
