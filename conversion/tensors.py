# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors as byte ranges: safetensors in and out, without its library and without torch.

The format is read and written here, and not by its library, for two measured reasons: the process of a bert-base
conversion takes 70 MB this way, and 446 to 862 MB through safetensors 0.8; and the library does not tell the byte
offsets, by which a donor on the Hub is read in part. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from .errors import ConversionError
from .sources import Source, is_count, parse_json, refuse_pointer

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
