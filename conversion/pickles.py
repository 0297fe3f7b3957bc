# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors out of a PyTorch file, by `torch.load(weights_only=True)`: nothing else in it is unpickled."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

from .errors import ConversionError
from .sources import LFS_POINTER, Folder, check_no_pointer
from .tensors import FLOATS, Tensor

SAVE_AGAIN = "load it in the program that wrote it, and run model.save_pretrained(folder)"


def read_pickle(folder: Folder, name: str) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, mapped into memory where the file's format allows it.

    Raises:
        ConversionError: It holds more than tensors, or is damaged.
    """
    import torch

    codes = {getattr(torch, long): short for short, long in FLOATS.items()} | {torch.int64: "I64"}
    path = folder.local(name)
    # This opens it through the folder, which notices when it is replaced.
    beginning = folder.chunks(name, 0, min(folder.size(name), len(LFS_POINTER)))
    check_no_pointer(folder, name, b"".join(map(bytes, beginning)))
    tensors = {}
    for key, value in _load(path).items():
        if value.dtype not in codes or value.layout != torch.strided or value.device.type != "cpu":
            stored = f"{value.dtype}, {value.layout}, on {value.device}".replace("torch.", "")
            raise ConversionError(path, f"{key} is {stored}; expected values of {', '.join(FLOATS.values())}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ConversionError(path, f"{key} is an expanded view, of more values than are stored", SAVE_AGAIN)
        data = value.resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
        tensors[str(key)] = Tensor(folder, name, codes[value.dtype], tuple(value.shape), 0, memoryview(data))
    return tensors


def _load(path: Path) -> dict:
    import torch

    try:
        with warnings.catch_warnings():  # torch's own advice is about unpickling, which is not done here
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
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
