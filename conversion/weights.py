# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's weights: safetensors, pickles or shards of either are read, safetensors are written.

safetensors' format is read and written here, not by its library, for two measured reasons: the process of a bert-base
conversion takes 70 MB this way, and 446 to 862 MB through safetensors 0.8; and the library does not tell the byte
offsets, by which a part of a donor on the Hub is downloaded. https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .errors import ConversionError, listed
from .pickles import read_pickle
from .sources import WEIGHT_FILES, Source, check_no_pointer, is_count, parse_json, read_json, weights_file
from .tensors import DTYPE_BYTES, FLOATS, Tensor, is_finite

HEADER_LIMIT = 8 << 20  # bytes; a BERT of 24 layers needs 0.05 MB


def read_header(source: Source, name: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a safetensors file, from its header, and the header's metadata.

    Raises:
        ConversionError: The header is damaged, is wrong about dtypes, shapes or offsets, or is larger than any BERT's.
    """
    where, size = source.where(name), source.size(name)
    first = b"".join(map(bytes, source.chunks(name, 0, min(size, 8))))
    check_no_pointer(source, name, first)
    length = int.from_bytes(first, "little") if size >= 8 else size
    if size < 8 or 8 + length > size:
        raise ConversionError(where, f"a header of {length} bytes in a file of {size}: truncated, or not safetensors")
    if length > HEADER_LIMIT:
        raise ConversionError(where, f"a header of {length} bytes; expected at most {HEADER_LIMIT} for a BERT")
    header = parse_json(b"".join(map(bytes, source.chunks(name, 8, length))), where)
    metadata = header.pop("__metadata__", None)
    tensors = {key: _entry(source, name, key, entry, 8 + length) for key, entry in header.items()}
    end = 8 + length
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if tensor.start != end:
            raise ConversionError(where, f"{key} starts at byte {tensor.start}, expected {end}: overlap or gap")
        end += tensor.nbytes
    if end != size:
        raise ConversionError(where, f"the header describes {end} bytes, the file has {size}: truncated or damaged")
    return tensors, metadata if isinstance(metadata, dict) else {}


def _entry(source: Source, name: str, key: str, entry: object, data_start: int) -> Tensor:
    where = source.where(name)
    is_text = key.encode(errors="replace").decode() == key  # half of a surrogate pair is none
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if len(entry) == 3 and is_text:
            pass
        case _:
            raise ConversionError(where, f"the header's entry of {key!r} does not describe a tensor; it is damaged")
    if dtype not in DTYPE_BYTES:
        raise ConversionError(where, f"{key} has the unknown dtype {dtype!r}; expected {', '.join(FLOATS.values())}")
    if len(shape) > 8 or not all(map(is_count, [*shape, begin, end])):
        found = f"{key} has the shape {str(shape)[:80]} at {begin} to {end}"
        raise ConversionError(where, f"{found}; expected a few whole numbers")
    tensor = Tensor(source, name, dtype, tuple(shape), data_start + begin)
    if end - begin != tensor.nbytes:
        raise ConversionError(where, f"{key} ({tensor}) has {tensor.nbytes} bytes; the header says {end - begin}")
    return tensor


def read_tensors(source: Source) -> dict[str, Tensor]:
    """All tensors of a checkpoint, under the names that it stores.

    Raises:
        ConversionError: No weights, or an index that does not match its shards.
    """
    weights = weights_file(source)
    if weights is None:
        raise ConversionError(source.where(), f"no weights; expected one of {', '.join(WEIGHT_FILES)}")
    read = read_pickle if ".bin" in weights else lambda source, name: read_header(source, name)[0]
    if ".index." not in weights:
        return read(source, weights)
    index, where = read_json(source, weights).get("weight_map"), source.where(weights)
    if not isinstance(index, dict) or not index or not all(isinstance(shard, str) for shard in index.values()):
        raise ConversionError(where, "no weight_map of tensors to files; it is damaged")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(index.values())):
        if shard != Path(shard).name or "\\" in shard or not shard.endswith((".safetensors", ".bin")):
            raise ConversionError(where, f"names the shard {shard!r}; expected a file in the same folder")
        if shard not in source.names():
            raise ConversionError(where, f"names the shard {shard}, which is missing", "copy it into the folder")
        stored = read(source, shard)
        named = {key for key, file in index.items() if file == shard}
        if stored.keys() != named:
            differing = listed(sorted(stored.keys() ^ named))
            raise ConversionError(
                source.where(shard),
                f"its tensors are not those that {weights} lists: {differing}; the index belongs to other shards",
            )
        tensors.update(stored)
    return tensors


def write_safetensors(
    file: BinaryIO,
    tensors: dict[str, Tensor],
    metadata: dict[str, str] | None = None,
    on_piece: Callable[[int], object] = lambda nbytes: None,
    checked: bool = False,
) -> dict[str, int]:
    """Writes tensors in safetensors' own order (widest dtype first, then by name), in pieces of bounded size.

    Args:
        file: Open for writing.
        tensors: By the names that they get.
        metadata: For the header, besides the format.
        on_piece: Is called with the number of tensor bytes that have just been written.
        checked: Compute checksums while the bytes are copied.

    Returns:
        The checksum of each tensor's bytes as they were read, if `checked`.

    Raises:
        ConversionError: A tensor holds NaN or infinity.
    """
    order = sorted(tensors, key=lambda key: (-DTYPE_BYTES[tensors[key].dtype], key))
    header: dict = {"__metadata__": {"format": "pt", **(metadata or {})}}  # transformers 4.x needs the format
    end = 0
    for key in order:
        tensor = tensors[key]
        begin, end = end, end + tensor.nbytes
        header[key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    checksums, damaged = {}, []
    for key in order:
        checksum = 0
        for piece in tensors[key].chunks():
            file.write(piece)
            if checked:
                checksum = zlib.crc32(piece, checksum)
            if key not in damaged and not is_finite(piece, tensors[key].dtype):
                damaged.append(key)
            on_piece(len(piece))
        checksums[key] = checksum
    if damaged:
        where = tensors[damaged[0]].source.where(tensors[damaged[0]].file)
        raise ConversionError(
            where, f"{listed(damaged)} hold NaN or infinity", "no pooler repairs that: convert an earlier checkpoint"
        )
    return checksums if checked else {}
