# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint's files are read from: the protocol, a local folder, and JSON out of either."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
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
# save_pretrained(folder, variant="fp16") writes these.
VARIANTS = re.compile(
    r"model\.[\w-]+\.safetensors|model\.safetensors\.index\.[\w-]+\.json|"
    r"pytorch_model\.[\w-]+\.bin|pytorch_model\.bin\.index\.[\w-]+\.json"
)
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json",
    "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.json", "merges.txt", "bpe.codes",
)  # fmt: skip
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")


class Source(Protocol):
    """Where files are read from; readers need not know which kind it is."""

    label: str  # for report and card: a repo's id, or a folder's last part
    commit: str | None

    def where(self, name: str = "") -> str:
        """The source, or a file of it, for messages."""

    def names(self) -> set[str]:
        """Files and folders at its top."""

    def size(self, name: str) -> int:
        """The size of a file, in bytes."""

    def chunks(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        """A part of a file in pieces of bounded size; each is valid until the next one is read."""

    def fetch(self, names: list[str]) -> Folder:
        """A folder that holds whole files of this source."""


class Folder:
    """A local folder, or a repo's snapshot in the Hub's cache.

    A file is opened once, and only if it is inside the folder. A file that is replaced meanwhile is not mixed with
    its successor, and `changed` tells that it happened.
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
        if not self.commit:
            return str(self.path / name)
        return "/".join(filter(None, (self.label, name))) + " (in the Hub's cache)"

    def names(self) -> set[str]:
        return self._names

    @functools.cached_property
    def _names(self) -> set[str]:
        return set(os.listdir(self.path))

    def local(self, name: str) -> Path:
        """The path of a plain file inside the folder.

        Raises:
            ConversionError: It is no plain file, or a link that leads out of the folder.
        """
        path = self.path / name
        target = Path(os.path.realpath(path))  # Path.resolve raises at a circle of links
        if not any(target.is_relative_to(root) for root in self._roots):
            raise ConversionError(path, f"a link that leads out of the folder, to {target}", "copy the file in")
        if path.is_dir():
            raise ConversionError(
                path,
                "expected a file, found a folder, as zero_to_fp32.py writes one under such a name",
                f"move the files in it into {self.path}",
            )
        if not path.is_file():
            raise ConversionError(path, "expected a file, found something else or a dead link", "copy the file there")
        return path

    def _open(self, name: str) -> io.FileIO:
        if name not in self._opened:
            # Non-blocking, in case a pipe has replaced the file since `local` looked.
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(self.local(name), flags)
            weakref.finalize(self, os.close, descriptor)
            self._opened[name] = io.FileIO(descriptor, closefd=False), _identity(os.fstat(descriptor))
        return self._opened[name][0]

    def size(self, name: str) -> int:
        return os.fstat(self._open(name).fileno()).st_size

    def chunks(self, name: str, start: int, length: int) -> Iterator[memoryview]:
        file = self._open(name)
        buffer = memoryview(bytearray(min(length, CHUNK)))  # one for all pieces: new ones cost more than the copying
        while length:
            file.seek(start)  # each time, since several readers may take turns
            wanted, count = min(length, CHUNK), 0
            while count < wanted:  # a network file system may return less than it is asked for
                if not (read := file.readinto(buffer[count:wanted])):
                    reason = f"ended {length - count} bytes early"
                    raise ConversionError(self.where(name), reason, "was it changed? Run it again")
                count += read
            yield buffer[:count]
            start, length = start + count, length - count

    def fetch(self, names: list[str]) -> Folder:
        return self

    def below(self, name: str) -> Folder:
        """A folder in this one, whose links may lead to where this one's may."""
        folder = Folder(self.path / name, self.label, self.commit)
        folder._roots = self._roots
        return folder

    def changed(self) -> list[str]:
        """The files that are no longer the ones that were opened under their names."""

        def now(name: str, file: io.FileIO) -> list[tuple | None]:
            try:
                return [_identity(os.fstat(file.fileno())), _identity(os.stat(self.path / name))]
            except OSError:  # the file, or a folder above it, is gone
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
        ConversionError: It is larger, or a Git LFS pointer.
    """
    size = source.size(name)
    if size > limit:
        raise ConversionError(source.where(name), f"{size} bytes; expected at most {limit} in such a file")
    data = b"".join(map(bytes, source.chunks(name, 0, size)))
    check_no_pointer(source, name, data)
    return data


def check_no_pointer(source: Source, name: str, beginning: bytes) -> None:
    """Raises ConversionError where a file is what Git LFS leaves of one that was not fetched."""
    if len(beginning) >= 8 and LFS_POINTER.startswith(beginning[: len(LFS_POINTER)]):
        raise ConversionError(
            source.where(name), "a Git LFS pointer, not the file itself", "run `git lfs pull` in that folder"
        )


def read_json(source: Source, name: str) -> dict:
    """A JSON object of bounded size; raises ConversionError where the file holds none."""
    return parse_json(read_bytes(source, name), source.where(name))


def parse_json(text: bytes, where: str) -> dict:
    """A JSON object in which no key occurs twice.

    Raises:
        ConversionError: `text` is no such object; `where` is the file that it was read from.
    """

    def without_duplicates(pairs):
        found: dict = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} occurs twice")
            found[key] = value
        return found

    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ConversionError(where, f"not valid JSON ({first_line(error)})", "the file is damaged") from error
    if not isinstance(found, dict):
        raise ConversionError(where, f"expected a JSON object, found {type(found).__name__}", "the file is damaged")
    return found


def to_json(value: object) -> bytes:
    """A JSON file of the output."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def sha256_of(pieces: Iterable[memoryview]) -> str:
    """The hash of bytes that come in pieces."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def is_count(value: object) -> bool:
    """Whether a value out of JSON is a whole number that can count something."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def weights_file(source: Source) -> str | None:
    """The file through which transformers reads the weights: the first of them that exists, else the only variant."""
    variants = sorted(name for name in source.names() if VARIANTS.fullmatch(name) and "-of-" not in name)
    files = [name for name in WEIGHT_FILES if name in source.names()] or (variants if len(variants) == 1 else [])
    return files[0] if files else None


def config_file(source: Source) -> str | None:
    """The model's config."""
    return next((name for name in CONFIG_FILES if name in source.names()), None)


def checkpoint_files(source: Source) -> list[str]:
    """The files that hold a checkpoint's config and weights, shards by their index; the config last."""
    weights = weights_file(source)
    shards: set[str] = set()
    if weights is not None and ".index." in weights:
        named = read_json(source, weights).get("weight_map")
        shards = {str(shard) for shard in named.values()} if isinstance(named, dict) else set()
    return [*sorted(shards), *([weights] if weights else []), config_file(source) or CONFIG_FILES[0]]
