# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""An output folder appears complete, or not at all; nothing is replaced but what this program wrote."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .errors import ConversionError, listed
from .options import Options
from .pages import parse_page
from .sources import Folder, local_path, parse_json, sha256_of
from .weights import read_header

MANIFEST = "bert-pooled-mlm"  # in the weights' header: {file: sha256} of the other files of the output
ASIDE = "replaced"  # in the staging folder: what was at the destination before
# Errors of fsync on a folder, on some file systems.
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.ENOSYS}


def default_output(checkpoint: str) -> Path:
    """`CHECKPOINT-pooled`, next to a folder; for a repo, and for a root directory, in the current folder."""
    path = local_path(checkpoint)
    return path.with_name(f"{path.name}-pooled") if path.name and os.path.isdir(path) else Path(f"{path.name}-pooled")


def check_apart(output: Path, path: str | os.PathLike, what: str) -> None:
    """Raises ConversionError where a destination is in, around or at something that the same call reads or writes."""
    first, second = Path(os.path.realpath(output)), Path(os.path.realpath(path))
    if first == second:
        raise ConversionError(output, f"is {what} itself", "choose another folder with -o")
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise ConversionError(output, f"is inside {what} {path}, or around it", "choose a folder next to it with -o")


class Job(NamedTuple):
    """What one conversion reads, and where it writes."""

    checkpoint: str  # a folder or Hub id
    revision: str | None
    output: Path


def job_of(name: str, options: Options, is_one_of_several: bool = False) -> Job:
    """The conversion of the checkpoint that a user names by a path, an id or the address of its page.

    Raises:
        ConversionError: The page is not a model's.
    """
    checkpoint, revision = parse_page(name, options.revision)
    if options.output_dir is None:
        return Job(checkpoint, revision, default_output(checkpoint))
    output = local_path(options.output_dir)
    return Job(checkpoint, revision, output / local_path(checkpoint).name if is_one_of_several else output)


def jobs_of(
    names: list[str], options: Options, reads: list[tuple[str | None, Path, str]]
) -> list[Job | ConversionError]:
    """The conversions of one call; an error where an output would overlap what the call reads or writes besides.

    Args:
        names: The checkpoints, as the user named them.
        options: Of all.
        reads: What the call reads: for which checkpoint, where, and what it is. `make_plan` checks what a conversion
            reads for itself.
    """
    jobs: list[Job | ConversionError] = []
    for name in names:
        outputs = [job.output for job in jobs if isinstance(job, Job)]
        others = [read for read in reads if read[0] != name or names.count(name) > 1]
        others += [(None, output, "the output of an earlier checkpoint of this call") for output in outputs]
        try:
            job = job_of(name, options, len(names) > 1)
            for _, path, what in others:
                if os.path.lexists(path) or path in outputs:
                    check_apart(job.output, path, what)
            jobs.append(job)
        except ConversionError as error:
            jobs.append(error)
    return jobs


def existing_parent(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    return next(it for it in (folder, *Path(os.path.abspath(folder)).parents) if os.path.lexists(it))


def check_output(output: Path, overwrite: bool) -> None:
    """Raises ConversionError where writing to a destination would lose something of the user's, or is not possible."""
    existing = existing_parent(output)
    if existing != output:
        if not os.access(existing, os.W_OK | os.X_OK) or not os.path.isdir(existing):
            raise ConversionError(existing, "can't be written into", "choose another folder with -o")
        return
    if not overwrite:
        raise ConversionError(output, "exists already", "choose another with -o, or replace it with --overwrite")
    if output.is_symlink() or not output.is_dir():
        raise ConversionError(output, "expected a folder, found something else", "choose another with -o")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise ConversionError(output.parent, "can't be written into", "choose another folder with -o")
    if foreign := written_by_others(output):
        raise ConversionError(
            output,
            f"holds files that this program did not write, or that have changed since: {listed(foreign)}",
            "choose another folder with -o",
        )


def written_by_others(output: Path) -> list[str]:
    """What in a folder is not as a conversion left it; everything, if no conversion wrote it.

    The weights' header lists the other files with their hashes; a save by any other program writes another header.
    """
    top = sorted(os.listdir(output))
    folder = Folder(output)
    try:
        shards = [name for name in top if re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", name)]
        first, *others = [read_header(folder, name)[1][MANIFEST] for name in shards]
        written = parse_json(first.encode(), str(output))
        if any(other != first for other in others):
            return top
        entries = list(output.rglob("*"))
        parents = {path.parent for path in entries}
        names = {path.relative_to(output).as_posix() for path in entries if path.is_symlink() or path not in parents}
        changed = {
            name
            for name, digest in written.items()
            if name in names and sha256_of(folder.chunks(name, 0, folder.size(name))) != digest
        }
    except (ConversionError, KeyError, ValueError, AttributeError):  # not a header that this program wrote
        return top
    ours = {name.partition("/")[0] for name in written}
    foreign = names - written.keys() - set(shards)
    return sorted({name if name.partition("/")[0] in ours else name.partition("/")[0] for name in foreign} | changed)


@contextlib.contextmanager
def staging_folder(output: Path) -> Iterator[Path]:
    """A temporary folder next to `output`, on the same file system, which is removed when the block ends.

    Its name holds the number of the process that uses it: the next run removes what a killed process left.
    """
    CREATED.update(parent for parent in output.parents if not parent.exists())
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f"{_prefix(output)}{os.getpid()}-{secrets.token_hex(4)}")
    IN_USE.add(folder)
    try:
        folder.mkdir()
        yield folder
    finally:
        try:
            _remove(folder, output)
        except BaseException:  # interrupted by a signal
            _remove(folder, output)
            raise
        IN_USE.discard(folder)
        for parent in filter(CREATED.__contains__, output.parents):
            with contextlib.suppress(OSError):  # not empty: it holds the output, or the next one's staging folder
                parent.rmdir()


CREATED: set[Path] = set()  # folders around outputs that this process made
IN_USE: set[Path] = set()  # the staging folders of this process, whose threads may convert at the same time


def _prefix(output: Path) -> str:
    return f".{output.name}.tmp-{re.sub(r'[^a-zA-Z0-9]', '_', socket.gethostname())}-"


def _remove(folder: Path, output: Path) -> None:
    """Removes a staging folder; an output that was moved aside into it, and not replaced, is moved back."""
    if os.path.exists(folder / ASIDE) and not os.path.lexists(output):
        (folder / ASIDE).rename(output)
    shutil.rmtree(folder, ignore_errors=True)  # another run may be removing it as well


def remove_stale(output: Path) -> None:
    """Removes the staging folders that killed runs left."""
    prefix = _prefix(output)
    for stale in output.parent.glob(f"{glob.escape(prefix)}*"):
        number = re.fullmatch(r"(\d+)-[0-9a-f]{8}", stale.name.removeprefix(prefix))
        if number and stale not in IN_USE and not stale.is_symlink() and not _is_running(int(number[1])):
            _remove(stale, output)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():  # an earlier process with the same number, as is likely in a container
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def move_into_place(folder: Path, output: Path, overwrite: bool) -> None:
    """Renames the complete folder to its destination; a folder that is there already goes into the staging folder.

    If the process ends between the two renames, `_remove` moves the old folder back. Nothing that fails after them is
    an error: the output is there, and complete.

    Raises:
        ConversionError: Something else has appeared there meanwhile.
    """
    check_output(output, overwrite)
    if output.exists():
        output.rename(folder.with_name(ASIDE))
    folder.rename(output)
    with contextlib.suppress(OSError):
        sync_folder(output.parent)


@contextlib.contextmanager
def flushed(path: Path) -> Iterator[BinaryIO]:
    """A new file, which is on disk when the block ends."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Writes a folder's entries to disk, where the file system supports that."""
    if os.name != "posix":  # elsewhere a folder can't be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)
