# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors as byte ranges: safetensors and pickles in, safetensors out, all without torch where the file allows it.

The format is read and written here, and not by its library, for two measured reasons: the process of a bert-base
conversion takes 70 MB this way, and 446 to 862 MB through safetensors 0.8; and the library does not tell the byte
offsets, by which a donor on the Hub is read in part. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import ConversionError, first_line, listed
from .sources import (
    LFS_POINTER,
    WEIGHT_FILES,
    Folder,
    Source,
    is_count,
    parse_json,
    read_json,
    refuse_pointer,
    weights_file,
)

DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
COARSENESS = tuple(FLOATS)  # the finest first
HEADER_LIMIT = 8 << 20  # bytes; a BERT of 24 layers needs 0.05 MB


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that has not been read: where its bytes lie."""

    source: Source
    file: str
    dtype: str  # safetensors' code
    shape: tuple[int, ...]
    start: int  # in the file, bytes
    data: memoryview | None = None  # in memory already: out of a pickle, or computed

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def chunks(self) -> Iterator[memoryview]:
        """The bytes, a bounded piece at a time, each valid until the next one."""
        return iter([self.data]) if self.data is not None else self.source.chunks(self.file, self.start, self.nbytes)

    def read(self) -> bytes:
        return b"".join(map(bytes, self.chunks()))

    def in_memory(self) -> Tensor:
        return dataclasses.replace(self, data=memoryview(self.read()))

    def values(self) -> np.ndarray:
        """The values, float64, flat."""
        raw = self.read()
        with np.errstate(invalid="ignore"):  # a signalling NaN
            if self.dtype == "BF16":  # the upper half of a float32
                return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
            return np.frombuffer(raw, NUMPY[self.dtype]).astype(np.float64)

    def cast(self, dtype: str) -> Tensor:
        """In memory, in another floating dtype; the bits as they are where it is the same.

        Raises:
            ConversionError: A value is not finite, or too large for `dtype`; or all of them are too small for it.
        """
        values = self.values()
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = values if dtype == "F64" else values.astype("<f4")  # as torch does, also on the way to float16
            narrow = narrow if dtype == "BF16" else narrow.astype(NUMPY[dtype])
        if dtype == "BF16":  # round to nearest, ties to even, as torch does
            bits = narrow.view("<u4")
            rounded = ((bits.astype("<u8") + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype("<u2")
            narrow, finite = rounded, (rounded & 0x7F80) != 0x7F80
        else:
            finite = np.isfinite(narrow)
        if not (finite.all() and np.isfinite(values).all()):
            raise ConversionError(f"{self.source.where(self.file)}: its pooler is not finite as {FLOATS[dtype]}")
        if values.any() and not narrow.any():
            raise ConversionError(
                f"{self.source.where(self.file)}: its pooler is zero as {FLOATS[dtype]}, whose smallest values are "
                "larger; convert a float32 copy of the checkpoint"
            )
        raw = self.read() if dtype == self.dtype else narrow.tobytes()
        return dataclasses.replace(self, dtype=dtype, data=memoryview(raw))

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.chunks():
            digest.update(piece)
        return digest.hexdigest()


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bits."""
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.sha256() == other.sha256()


def same_pooler(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether tensors are the same but for the rounding to the coarser dtype that they are stored in."""
    if one.keys() != other.keys():
        return False
    for key, tensor in one.items():
        coarser = max(tensor.dtype, other[key].dtype, key=COARSENESS.index)
        try:
            if not same_bytes(tensor.cast(coarser), other[key].cast(coarser)):
                return False
        except ConversionError:  # not finite, or too small for it
            return False
    return True


def read_header(source: Source, name: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a safetensors file, from its header, and the header's metadata.

    Raises:
        ConversionError: The header is damaged, lies about dtypes, shapes or offsets, or is larger than any BERT's.
    """
    where, size = source.where(name), source.size(name)
    first = b"".join(map(bytes, source.chunks(name, 0, min(size, 8))))
    refuse_pointer(source, name, first)
    length = int.from_bytes(first, "little") if size >= 8 else size
    if size < 8 or 8 + length > size:
        raise ConversionError(
            f"{where}: a header of {length} bytes in a file of {size}: truncated, or not safetensors"
        )
    if length > HEADER_LIMIT:
        raise ConversionError(f"{where}: a header of {length} bytes; expected at most {HEADER_LIMIT} of a BERT")
    header = parse_json(b"".join(map(bytes, source.chunks(name, 8, length))), where)
    metadata = header.pop("__metadata__", None)
    tensors = {key: _entry(source, name, key, entry, 8 + length) for key, entry in header.items()}
    end = 8 + length
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            raise ConversionError(f"{where}: {key} starts at byte {tensor.start}, expected {end}: overlap or gap")
        end += tensor.nbytes
    if end != size:
        raise ConversionError(f"{where}: the header describes {end} bytes, the file has {size}: truncated or damaged")
    return tensors, metadata if isinstance(metadata, dict) else {}


def _entry(source: Source, name: str, key: str, entry: object, data_start: int) -> Tensor:
    where = source.where(name)
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if len(entry) == 3:
            pass
        case _:
            raise ConversionError(f"{where}: the header's entry of {key!r} is not one of a tensor; it is damaged")
    if dtype not in DTYPE_BYTES:
        raise ConversionError(f"{where}: {key} has the unknown dtype {dtype!r}; expected {', '.join(FLOATS)}")
    if len(shape) > 8 or not all(map(is_count, [*shape, begin, end])):
        raise ConversionError(
            f"{where}: {key} has the shape {str(shape)[:80]} at {begin} to {end}; expected a few whole numbers"
        )
    tensor = Tensor(source, name, dtype, tuple(shape), data_start + begin)
    if end - begin != tensor.nbytes:
        raise ConversionError(
            f"{where}: {key} ({dtype} {shape}) has {tensor.nbytes} bytes; the header says {end - begin}"
        )
    return tensor


def read_pickle(folder: Folder, name: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, as byte ranges where the format allows it; nothing else in it is unpickled.

    Raises:
        ConversionError: It holds more than tensors, or is damaged.
    """
    import torch

    codes = {getattr(torch, long): short for short, long in FLOATS.items()} | {torch.int64: "I64"}
    path = folder.local(name)
    beginning = folder.chunks(name, 0, min(folder.size(name), len(LFS_POINTER)))  # opens it: `changed` watches it now
    refuse_pointer(folder, name, b"".join(map(bytes, beginning)))
    records = _records(path)
    state = _unpickled(path, mmap=True if records else None)
    starts = _starts(state, records)
    if records and starts is None:
        state, starts = _unpickled(path, mmap=None), {}
    tensors = {}
    for key, value in state.items():
        if value.dtype not in codes or value.layout != torch.strided or value.device.type != "cpu":
            stored = f"{value.dtype}, {value.layout}, on {value.device}"
            raise ConversionError(f"{path}: {key} is {stored}; expected values of {', '.join(FLOATS.values())}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ConversionError(f"{path}: {key} is an expanded view, of more values than are stored; save it anew")
        start, data = (starts or {}).get(value.untyped_storage().data_ptr()), None
        if start is None:
            data = memoryview(value.resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            start += value.storage_offset() * value.element_size()
        tensors[str(key)] = Tensor(folder, name, codes[value.dtype], tuple(value.shape), start or 0, data)
    return tensors


def _unpickled(path: Path, mmap: bool | None) -> dict:
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError:
        raise
    except Exception as error:  # torch raises whatever a damaged pickle runs into
        raise ConversionError(
            f"{path}: torch.load(weights_only=True) refused it ({first_line(error)}). It is damaged, or holds more "
            "than tensors, and unpickling that could run code. If you trust it, load it in the program that wrote it "
            "and save it anew: model.save_pretrained(folder)"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError(
            f"{path}: expected a dict of tensors; found something else (a training checkpoint?); save the model with "
            "model.save_pretrained(folder)"
        )
    return state


def _records(path: Path) -> list[int]:
    """Where the storages of a zipped PyTorch file begin; none for the older format.

    Raises:
        ConversionError: Something in it is compressed, as torch.save never does, or its pickle is too large.
    """
    if not zipfile.is_zipfile(path):
        return []
    begins, order = [], sys.byteorder
    try:
        with zipfile.ZipFile(path) as file, path.open("rb") as raw:
            for record in file.infolist():
                if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
                    raise ConversionError(f"{path}: {record.filename} is compressed, which torch.save never does")
                if record.filename.endswith(".pkl") and record.file_size > HEADER_LIMIT:
                    raise ConversionError(f"{path}: a pickle of {record.file_size} bytes; expected {HEADER_LIMIT}")
                if record.filename.endswith("/byteorder"):
                    order = file.open(record).read(8).decode("ascii", "replace")
                if "/data/" in record.filename and record.file_size:
                    raw.seek(record.header_offset + 26)
                    lengths = raw.read(4)  # of the name and of what pads it, in front of the data
                    skipped = int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
                    begins.append(record.header_offset + 30 + skipped)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise ConversionError(f"{path}: not a whole PyTorch file ({first_line(error)}); it is damaged") from error
    return sorted(begins) if order == "little" else []


def _starts(state: dict, records: list[int]) -> dict[int, int] | None:
    """The mapped storages' addresses to where they begin in the file: a mapping that is never touched can't fault.

    None where that is not certain: not all are used, or some are not read as they are stored.
    """
    import torch

    storages = sorted({it.untyped_storage().data_ptr() for it in state.values() if it.untyped_storage().nbytes()})
    whole = all(it.layout == torch.strided and it.is_contiguous() and not it.is_neg() for it in state.values())
    bases = {address - begin for address, begin in zip(storages, records, strict=False)}
    if not whole or len(storages) != len(records) or len(bases) != 1:
        return None
    return dict(zip(storages, records, strict=True))


def read_tensors(source: Source) -> dict[str, Tensor]:
    """All tensors of a checkpoint, under the names that it stores.

    Raises:
        ConversionError: No weights, or an index that does not fit its shards.
    """
    weights = weights_file(source)
    if weights is None:
        raise ConversionError(f"{source.where()}: no weights; expected one of {', '.join(WEIGHT_FILES)}")
    read = read_pickle if ".bin" in weights else lambda source, name: read_header(source, name)[0]
    if not weights.endswith(".index.json"):
        return read(source, weights)
    index = read_json(source, weights).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise ConversionError(f"{source.where(weights)}: no weight_map of tensors to files; it is damaged")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(index.values())):
        if shard != Path(shard).name or "\\" in shard or not shard.endswith((".safetensors", ".bin")):
            raise ConversionError(
                f"{source.where(weights)}: names the shard {shard!r}; expected a file in the same folder"
            )
        if shard not in source.names():
            raise ConversionError(f"{source.where(weights)}: names the shard {shard}, which is missing; copy it there")
        stored = read(source, shard)
        named = {key for key, file in index.items() if file == shard}
        if stored.keys() != named:
            raise ConversionError(
                f"{source.where(shard)}: its tensors are not those that {weights} lists: "
                f"{listed(sorted(stored.keys() ^ named))}; the index belongs to other shards"
            )
        tensors.update(stored)
    return tensors


def write_safetensors(
    file: BinaryIO,
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    on_piece: Callable[[int], object] = lambda nbytes: None,
    hashed: bool = False,
) -> dict[str, str]:
    """Writes tensors in safetensors' own order (widest dtype first, then by name), a bounded piece at a time.

    Args:
        file: Open for writing.
        tensors: By the names that they get.
        metadata: Stands in the header besides the format.
        on_piece: Is told how many bytes of tensors have just been written.
        hashed: Hash the bytes on their way, which takes half as long again as copying them.

    Returns:
        The sha256 of each tensor's bytes as they were read, if `hashed`.
    """
    order = sorted(tensors, key=lambda key: (-DTYPE_BYTES[tensors[key].dtype], key))
    header: dict = {"__metadata__": {"format": "pt", **(metadata or {})}}  # transformers 4.x refuses files without it
    end = 0
    for key in order:
        tensor = tensors[key]
        begin, end = end, end + tensor.nbytes
        header[key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    digests = {}
    for key in order:
        digest = hashlib.sha256()
        for piece in tensors[key].chunks():
            file.write(piece)
            if hashed:
                digest.update(piece)
            on_piece(len(piece))
        digests[key] = digest.hexdigest()
    return digests if hashed else {}
