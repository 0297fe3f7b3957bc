# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors out of a PyTorch file, as byte ranges where the format allows it; nothing else in it is unpickled."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from .errors import ConversionError, first_line
from .sources import LFS_POINTER, Folder, refuse_pointer
from .tensors import FLOATS, Tensor

PICKLE_LIMIT = 8 << 20  # bytes; a BERT of 24 layers needs 0.05 MB


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
            stored = f"{value.dtype}, {value.layout}, on {value.device}".replace("torch.", "")
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
                if record.filename.endswith(".pkl") and record.file_size > PICKLE_LIMIT:
                    raise ConversionError(f"{path}: a pickle of {record.file_size} bytes; expected {PICKLE_LIMIT}")
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

    if not all(it.layout == torch.strided and it.is_contiguous() and not it.is_neg() for it in state.values()):
        return None
    storages = sorted({it.untyped_storage().data_ptr() for it in state.values() if it.untyped_storage().nbytes()})
    bases = {address - begin for address, begin in zip(storages, records, strict=False)}
    if len(storages) != len(records) or len(bases) != 1:
        return None
    return dict(zip(storages, records, strict=True))
