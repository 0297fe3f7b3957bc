# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""A folder appears whole, or not at all; and nothing is replaced but what this program wrote."""

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
from typing import BinaryIO

from .errors import ConversionError, listed
from .hub import from_page
from .sources import Folder, local_path, parse_json, sha256_of
from .weights import read_header

MANIFEST = "bert-pooled-mlm"  # in the weights' header: {file: sha256} of what was written beside them
ASIDE = "replaced"  # in the workspace: what stood at the destination before
# A folder, on some file systems.
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.ENOSYS}


def default_output(checkpoint: str) -> Path:
    """`CHECKPOINT-pooled`, beside a folder; of a repo, and of a root that nothing is beside, in the current folder."""
    path = local_path(checkpoint)
    return path.with_name(f"{path.name}-pooled") if path.name and os.path.isdir(path) else Path(f"{path.name}-pooled")


def overlap(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    """Whether one of two paths lies inside the other, or both are the same."""
    first, second = Path(os.path.realpath(one)), Path(os.path.realpath(other))
    return first.is_relative_to(second) or second.is_relative_to(first)


def check_apart(output: Path, path: str | os.PathLike, what: str) -> None:
    """Refuses a destination in, around or at something that is read or written in the same call."""
    if os.path.realpath(output) == os.path.realpath(path):
        raise ConversionError(f"{output}: is {what} itself; choose another folder with -o")
    if overlap(output, path):
        raise ConversionError(f"{output}: inside {what} {path}, or around it; choose a folder beside it with -o")


def destinations(
    checkpoints: list[str], output_dir: str | None, reads: list[tuple[str | None, Path, str]]
) -> list[Path | ConversionError]:
    """Where each checkpoint's result goes; an error where that would meet what the call reads or writes besides.

    Args:
        checkpoints: As the user named them.
        output_dir: Of `-o`.
        reads: What the call reads: on behalf of which checkpoint, where, and what it is. A conversion watches over its
            own (`make_plan`).
    """
    outputs: list[Path | ConversionError] = []
    for name in checkpoints:
        others = [read for read in reads if read[0] != name or checkpoints.count(name) > 1]
        others += [
            (None, it, "the output of an earlier checkpoint of this call") for it in outputs if isinstance(it, Path)
        ]
        try:
            stem, _ = from_page(name)
            output = local_path(default_output(stem) if output_dir is None else output_dir)
            if output_dir is not None and len(checkpoints) > 1:
                output /= local_path(stem).name
            for _, path, what in others:
                if os.path.lexists(path) or path in outputs:
                    check_apart(output, path, what)
            outputs.append(output)
        except ConversionError as error:
            outputs.append(error)
    return outputs


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses a destination that could cost the user anything, or that can't be written.

    Raises:
        ConversionError: It exists, and is not replaceable; or its folder takes no files.
    """
    existing = next(parent for parent in (output, *Path(os.path.abspath(output)).parents) if os.path.lexists(parent))
    if existing != output:
        if not os.access(existing, os.W_OK | os.X_OK) or not os.path.isdir(existing):
            raise ConversionError(f"{existing}: can't be written into; choose another folder with -o")
        return
    if not overwrite:
        raise ConversionError(f"{output}: exists already; choose another with -o, or replace it with --overwrite")
    if output.is_symlink() or not output.is_dir():
        raise ConversionError(f"{output}: expected a folder, found something else; choose another with -o")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise ConversionError(f"{output.parent}: can't be written into; choose another folder with -o")
    if foreign := written_by_others(output):
        raise ConversionError(
            f"{output}: holds what this program did not write, or what has changed since: {listed(foreign)}; choose "
            "another folder with -o"
        )


def written_by_others(output: Path) -> list[str]:
    """What is in a folder that is not as a conversion left it there; all of it, if none did.

    The weights' header lists the other files with their hashes; a save by any other program writes another header.
    """
    top = sorted(os.listdir(output))
    folder = Folder(output)

    def sha256(name: str) -> str:
        return sha256_of(folder.chunks(name, 0, folder.size(name)))

    try:
        shards = [name for name in top if re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", name)]
        first, *others = [read_header(folder, name)[1][MANIFEST] for name in shards]
        written = parse_json(first.encode(), str(output))
        if any(other != first for other in others):
            return top
        entries = list(output.rglob("*"))
        parents = {path.parent for path in entries}
        names = {path.relative_to(output).as_posix() for path in entries if path.is_symlink() or path not in parents}
        changed = {name for name, digest in written.items() if name in names and sha256(name) != digest}
    except (ConversionError, KeyError, ValueError, AttributeError):  # no header that we wrote
        return top
    ours = {name.partition("/")[0] for name in written}
    foreign = names - written.keys() - set(shards)
    return sorted({name if name.partition("/")[0] in ours else name.partition("/")[0] for name in foreign} | changed)


@contextlib.contextmanager
def workspace(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output`, on the same file system, which is gone when the block ends.

    Its name tells which process works in it: what a killed one left is cleared away by the next run (`clear_stale`).
    """
    created = [parent for parent in output.parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f"{_prefix(output)}{os.getpid()}-{secrets.token_hex(4)}")
    OPEN.add(folder)
    try:
        folder.mkdir()
        yield folder
    finally:
        try:
            _clear(folder, output)
        except BaseException:  # a signal, in the midst of it
            _clear(folder, output)
            raise
        OPEN.discard(folder)
        for parent in created:
            with contextlib.suppress(OSError):  # not empty: it holds the output
                parent.rmdir()


OPEN: set[Path] = set()  # the workspaces of this process, whose threads may convert side by side


def _prefix(output: Path) -> str:
    return f".{output.name}.tmp-{re.sub(r'[^a-zA-Z0-9]', '_', socket.gethostname())}-"


def _clear(workspace: Path, output: Path) -> None:
    """Removes a workspace; an output that was put aside in it, and that none has replaced, gets its name back."""
    if os.path.exists(workspace / ASIDE) and not os.path.lexists(output):
        (workspace / ASIDE).rename(output)
    shutil.rmtree(workspace, ignore_errors=True)  # another run may be clearing it away as well


def clear_stale(output: Path) -> None:
    """Clears the workspaces that killed runs left."""
    prefix = _prefix(output)
    for stale in output.parent.glob(f"{glob.escape(prefix)}*"):
        number = re.fullmatch(r"(\d+)-[0-9a-f]{8}", stale.name.removeprefix(prefix))
        if number and stale not in OPEN and not stale.is_symlink() and not _is_running(int(number[1])):
            _clear(stale, output)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():  # an earlier process, whose number we got: likely in a container
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def put_in_place(folder: Path, output: Path, overwrite: bool) -> None:
    """Renames the complete folder to its name; one that stands there is put aside in the workspace, and goes with it.

    What ends the process between the two renames is mended when the workspace is cleared. Nothing that fails after
    them is an error: the output is there, and whole.

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
    """A new file, on disk when the block ends."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Puts a folder's entries on disk, where the file system has a way to do that."""
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
