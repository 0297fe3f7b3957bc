# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""A tensor as a range of bytes: compared, hashed and cast without torch."""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Iterator

import numpy as np

from .errors import ConversionError
from .sources import CHUNK, Source, sha256_of

DTYPE_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # the finest first
# torch's names, which users know, for safetensors' codes.
DTYPES = FLOATS | {
    "I64": "int64", "U64": "uint64", "I32": "int32", "U32": "uint32", "I16": "int16", "U16": "uint16", "I8": "int8",
    "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
COARSENESS = tuple(FLOATS)


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that has not been read: where its bytes are."""

    source: Source
    file: str
    dtype: str  # safetensors' code
    shape: tuple[int, ...]
    start: int  # in the file, bytes
    data: memoryview | None = None  # in memory already: out of a pickle, or computed

    def __str__(self) -> str:
        return f"{DTYPES[self.dtype]} {list(self.shape)}"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in pieces of bounded size; each is valid until the next one is read."""
        if self.data is None:
            return self.source.chunks(self.file, self.start, self.nbytes)
        return (self.data[start : start + CHUNK] for start in range(0, len(self.data), CHUNK))

    def read(self) -> bytes:
        return b"".join(map(bytes, self.chunks()))

    def in_memory(self) -> Tensor:
        return self if self.data is not None else dataclasses.replace(self, data=memoryview(self.read()))

    def head(self, rows: int) -> Tensor:
        """The first rows of a matrix."""
        part = dataclasses.replace(self, shape=(min(rows, self.shape[0]), *self.shape[1:]), data=None)
        return part if self.data is None else dataclasses.replace(part, data=self.data[: part.nbytes])

    def row(self, number: int) -> Tensor:
        """One row of a matrix."""
        part = dataclasses.replace(self, shape=self.shape[1:], data=None)
        start = number * part.nbytes
        if self.data is not None:
            return dataclasses.replace(part, data=self.data[start : start + part.nbytes])
        return dataclasses.replace(part, start=self.start + start)

    def values(self) -> np.ndarray:
        """The values, float64, flat."""
        raw = self.read()
        with np.errstate(invalid="ignore"):  # a signalling NaN
            if self.dtype == "BF16":  # the upper half of a float32
                return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
            return np.frombuffer(raw, NUMPY[self.dtype]).astype(np.float64)

    def cast(self, dtype: str, part: str = "pooler") -> Tensor:
        """In memory, in another floating dtype; bit-identical where it is the same one. `part` is for messages.

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
        where = self.source.where(self.file)
        if not (finite.all() and np.isfinite(values).all()):
            raise ConversionError(where, f"its {part} is not finite as {FLOATS[dtype]}")
        if values.any() and not narrow.any():
            raise ConversionError(
                where,
                f"its {part} is zero as {FLOATS[dtype]}, whose smallest values are larger",
                "convert a float32 copy of the checkpoint",
            )
        return self.in_memory() if dtype == self.dtype else self.replaced(dtype, narrow.tobytes())

    def replaced(self, dtype: str, data: bytes) -> Tensor:
        """A tensor of the same shape with other values."""
        return dataclasses.replace(self, dtype=dtype, data=memoryview(data))

    @functools.cached_property
    def sha256(self) -> str:
        return sha256_of(self.chunks())

    def checksum(self) -> int:
        """CRC-32: it detects errors of disk and memory, and is two to ten times as fast as sha256."""
        checksum = 0
        for piece in self.chunks():
            checksum = zlib.crc32(piece, checksum)
        return checksum


def is_finite(piece: memoryview, dtype: str) -> bool:
    """Whether bytes of a tensor, in whole values, hold neither NaN nor infinity."""
    if dtype in ("F64", "F32"):
        values = np.frombuffer(piece, NUMPY[dtype])
        with np.errstate(all="ignore"):
            # A product is several times as fast as a look at each value, and finite if all of them are (and small).
            return bool(np.isfinite(values @ values) or np.isfinite(values).all())
    exponent = {"F16": 0x7C00, "BF16": 0x7F80}.get(dtype)
    return exponent is None or not ((np.frombuffer(piece, "<u2") & exponent) == exponent).any()


def same_bytes(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bits."""
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.sha256 == other.sha256


def same_pooler(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether tensors are the same but for the rounding to the coarser dtype that they are stored in."""
    if one.keys() != other.keys():
        return False
    for key, tensor in one.items():
        if not {tensor.dtype, other[key].dtype} <= FLOATS.keys():
            return False
        coarser = max(tensor.dtype, other[key].dtype, key=COARSENESS.index)
        try:
            if not same_bytes(tensor.cast(coarser), other[key].cast(coarser)):
                return False
        except ConversionError:  # not finite, or too small for it
            return False
    return True
