# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors out of a PyTorch file, by `torch.load(weights_only=True)`: nothing else in it is unpickled.

Where the file's format allows it, their bytes are read from the file: the mapping that torch makes of it would end the
process by a signal if the file were truncated meanwhile.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
from pathlib import Path

from .errors import ConversionError
from .sources import LFS_POINTER, Folder, check_no_pointer
from .tensors import FLOATS, Tensor

SAVE_AGAIN = "load it in the program that wrote it, and run model.save_pretrained(folder)"


def read_pickle(folder: Folder, name: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, as ranges of its bytes where its format allows it, otherwise in memory.

    Raises:
        ConversionError: It holds more than tensors, or is damaged.
    """
    import torch

    codes = {getattr(torch, long): short for short, long in FLOATS.items()} | {torch.int64: "I64"}
    path = folder.local(name)
    # This opens it through the folder, which notices when it is replaced.
    beginning = folder.chunks(name, 0, min(folder.size(name), len(LFS_POINTER)))
    check_no_pointer(folder, name, b"".join(map(bytes, beginning)))
    is_zip = zipfile.is_zipfile(path)
    state = _load(path, mapped=is_zip)
    starts = _starts(path, state) if is_zip else {}
    if is_zip and not starts:
        state = _load(path, mapped=False)
    tensors = {}
    for key, value in state.items():
        if value.dtype not in codes or value.layout != torch.strided or value.device.type != "cpu":
            stored = f"{value.dtype}, {value.layout}, on {value.device}".replace("torch.", "")
            raise ConversionError(path, f"{key} is {stored}; expected values of {', '.join(FLOATS.values())}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ConversionError(path, f"{key} is an expanded view, of more values than are stored", SAVE_AGAIN)
        start, data = starts.get(value.untyped_storage().data_ptr()), None
        if start is None:
            start, data = 0, memoryview(value.resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            start += value.storage_offset() * value.element_size()
        tensors[str(key)] = Tensor(folder, name, codes[value.dtype], tuple(value.shape), start, data)
    return tensors


def _starts(path: Path, state: dict) -> dict[int, int]:
    """Where each mapped storage begins in the file, by its address; empty where that is not certain."""
    import torch

    if not all(it.layout == torch.strided and it.is_contiguous() and not it.is_neg() for it in state.values()):
        return {}
    begins = []
    try:
        with zipfile.ZipFile(path) as file, path.open("rb") as raw:
            for record in file.infolist():
                if record.filename.endswith("/byteorder") and file.read(record) != b"little":
                    return {}
                if "/data/" in record.filename and record.file_size:
                    raw.seek(record.header_offset + 26)
                    skipped = struct.unpack("<HH", raw.read(4))  # the lengths of the name and of what pads it
                    begins.append(record.header_offset + 30 + sum(skipped))
    except (zipfile.BadZipFile, RuntimeError, EOFError, struct.error):  # torch reads it, and Python does not
        return {}
    addresses = sorted({it.untyped_storage().data_ptr() for it in state.values() if it.untyped_storage().nbytes()})
    begins.sort()
    distances = {address - begin for address, begin in zip(addresses, begins, strict=False)}
    matched = len(addresses) == len(begins) and len(distances) == 1
    return dict(zip(addresses, begins, strict=True)) if matched else {}


def _load(path: Path, mapped: bool) -> dict:
    import torch

    try:
        with warnings.catch_warnings():  # torch's own advice is about unpickling, which is not done here
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except MemoryError:
        raise
    except Exception as error:  # torch raises whatever a damaged pickle causes
        raise ConversionError(
            path,
            "not a file of tensors alone: it is damaged, or holds other Python objects, which are not unpickled since "
            "that could run code",
            f"if you trust it, {SAVE_AGAIN}",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError(
            path, "expected a dict of tensors; found something else (a training checkpoint?)", SAVE_AGAIN
        )
    return state
