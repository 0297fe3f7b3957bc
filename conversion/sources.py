# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint's files lie: the protocol, a local folder, and JSON out of either."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from .errors import ConversionError, first_line

CHUNK = 1 << 20  # bytes
JSON_LIMIT = 8 << 20  # bytes
LFS_POINTER = b"version https://git-lfs."
CONFIG_FILES = ("config.json", "bert_config.json")  # the latter in Google's own releases
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json",
    "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.json", "merges.txt", "bpe.codes",
)  # fmt: skip
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")


class Source(Protocol):
    """Where files are read from; nobody who reads needs to know which kind it is."""

    label: str  # for report and card: a repo's id, or a folder's last part
    commit: str | None

    def where(self, name: str = "") -> str:
        """The source, or a file of it, as a message names it."""

    def names(self) -> set[str]:
        """Files and folders at its top."""

    def size(self, name: str) -> int:
        """Of a file, in bytes."""

    def chunks(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        """A part of a file, a bounded piece at a time, each valid until the next one."""

    def fetch(self, names: list[str]) -> Folder:
        """A folder that holds whole files of this source."""


class Folder:
    """A local folder, or a repo's snapshot in the Hub's cache.

    Files are opened inside it only, and once: whoever replaces one meanwhile does not mix two files into one reading,
    and `changed` tells that it happened.
    """

    def __init__(self, path: Path, label: str | None = None, commit: str | None = None):
        self.path = path
        self.label = label or os.path.basename(os.path.abspath(path))
        self.commit = commit
        self._opened: dict[str, tuple[io.FileIO, tuple]] = {}
        # A snapshot in the Hub's cache holds links into the blobs/ of its repo, and nowhere else.
        real = Path(os.path.realpath(path))
        blobs = real.parent.parent / "blobs"
        self._roots = [real, blobs] if real.parent.name == "snapshots" else [real]

    def where(self, name: str = "") -> str:
        return (
            "/".join(filter(None, (self.label, name))) + " (in the Hub's cache)"
            if self.commit
            else str(self.path / name)
        )

    def names(self) -> set[str]:
        return self._names

    @functools.cached_property
    def _names(self) -> set[str]:
        return set(os.listdir(self.path))

    def local(self, name: str) -> Path:
        """The file's path, once it is certain that it is a plain file inside the folder.

        Raises:
            ConversionError: It is not.
        """
        path = self.path / name
        target = Path(os.path.realpath(path))  # Path.resolve raises at a circle of links
        if not any(target.is_relative_to(root) for root in self._roots):
            raise ConversionError(f"{path}: a link that leads out of the folder, to {target}; copy the file in")
        if not path.is_file():
            if path.is_dir():
                raise ConversionError(
                    f"{path}: expected a file, found a folder, as zero_to_fp32.py writes one under such a name; move "
                    f"the files that are in it into {self.path}"
                )
            raise ConversionError(f"{path}: expected a file, found something else or a dead link; copy the file there")
        return path

    def _open(self, name: str) -> io.FileIO:
        if name not in self._opened:
            # Without waiting, if a pipe has taken the file's place since `local` looked.
            descriptor = os.open(
                self.local(name), os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            )
            weakref.finalize(self, os.close, descriptor)
            self._opened[name] = io.FileIO(descriptor, closefd=False), _identity(os.fstat(descriptor))
        return self._opened[name][0]

    def size(self, name: str) -> int:
        return os.fstat(self._open(name).fileno()).st_size

    def chunks(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        file = self._open(name)
        buffer = memoryview(bytearray(min(length, CHUNK)))  # one for all pieces: new ones cost more than the copying
        while length:
            file.seek(start)  # each time: several may be reading it in turns
            count = file.readinto(buffer[: min(length, CHUNK)])
            if not count:
                raise ConversionError(f"{self.where(name)}: ended {length} bytes early; was it changed?")
            yield buffer[:count]
            start, length = start + count, length - count

    def fetch(self, names: list[str]) -> Folder:
        return self

    def changed(self) -> list[str]:
        """The files that are no longer what was opened under their names."""

        def now(name: str, file: io.FileIO) -> list[tuple | None]:
            try:
                return [_identity(os.fstat(file.fileno())), _identity(os.stat(self.path / name))]
            except OSError:  # it, or a folder above it, is gone
                return [None]

        return sorted(name for name, (file, then) in self._opened.items() if set(now(name, file)) != {then})


def _identity(stat: os.stat_result) -> tuple:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def local_path(name: str | os.PathLike) -> Path:
    """`name` as a path that has a last part; unlike `Path.expanduser` and `resolve`, this never raises."""
    path = Path(os.path.expanduser(name))
    return path if path.name not in ("", "..") else Path(os.path.abspath(path))


def read_bytes(source: Source, name: str, limit: int = JSON_LIMIT) -> bytes:
    """A whole file of bounded size.

    Raises:
        ConversionError: It is larger.
    """
    size = source.size(name)
    if size > limit:
        raise ConversionError(f"{source.where(name)}: {size} bytes; expected at most {limit} of such a file")
    data = b"".join(map(bytes, source.chunks(name, 0, size)))
    refuse_pointer(source, name, data)
    return data


def refuse_pointer(source: Source, name: str, beginning: bytes) -> None:
    """Refuses what Git LFS leaves in the place of a file that was not fetched.

    Raises:
        ConversionError: It is that.
    """
    if len(beginning) >= 8 and LFS_POINTER.startswith(beginning[: len(LFS_POINTER)]):
        raise ConversionError(
            f"{source.where(name)}: a Git LFS pointer, not the file itself; run `git lfs pull` in that folder"
        )


def read_json(source: Source, name: str) -> dict:
    """A JSON object of bounded size.

    Raises:
        ConversionError: It is too large, not JSON, nested too deeply, or not an object.
    """
    return parse_json(read_bytes(source, name), source.where(name))


def parse_json(text: bytes, where: str) -> dict:
    """A JSON object in which no key stands twice.

    Raises:
        ConversionError: `text` is none; `where` says where it stood.
    """

    def without_duplicates(pairs):
        found: dict = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} stands there twice")
            found[key] = value
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{where}: not valid JSON ({first_line(error)}); the file is damaged") from error
    if not isinstance(found, dict):
        raise ConversionError(f"{where}: expected a JSON object, found {type(found).__name__}; the file is damaged")
    return found


def to_json(value: object) -> bytes:
    """A file of the output, in the one spelling that all of them have."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def sha256_of(pieces: Iterable[memoryview]) -> str:
    """Of bytes that come in pieces."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def is_count(value: object) -> bool:
    """Whether a value out of JSON is a whole number that can count something."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def weights_file(source: Source) -> str | None:
    """The file through which transformers reads the weights, which is the first one that there is."""
    return next((name for name in WEIGHT_FILES if name in source.names()), None)


def checkpoint_files(source: Source) -> list[str]:
    """The files that hold a checkpoint's config and weights, as its index names them; the config last."""
    weights = weights_file(source)
    shards: set[str] = set()
    if weights is not None and weights.endswith(".index.json"):
        named = read_json(source, weights).get("weight_map")
        shards = {str(shard) for shard in named.values()} if isinstance(named, dict) else set()
    config = next((name for name in CONFIG_FILES if name in source.names()), CONFIG_FILES[0])
    return [*sorted(shards), *([weights] if weights else []), config]
