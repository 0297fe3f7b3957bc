# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 4, if asked: refit the grafted pooler to the checkpoint's encoder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .bert import ENCODER, OPTIONS, POOLER, SIZES
from .checkpoint import Checkpoint, read_part
from .errors import ConversionError, first_line, listed
from .graft import Graft
from .options import Options
from .sources import checkpoint_files
from .tensors import Tensor
from .texts import Readings, read_texts, tokenize_with_both

if TYPE_CHECKING:
    from .regression import Calibration


def tokenize_texts(graft: Graft, options: Options) -> Readings:
    """The texts, tokenized for the checkpoint's encoder and the donor's; everything that can be checked beforehand is.

    Raises:
        ConversionError: One of the two can't read them, or the donor's own pooler was not trained for its encoder.
    """
    checkpoint, donor = graft.checkpoint, graft.donor
    origin = donor.checkpoint.pooler_source
    if origin is not None and origin.calibration is None:
        raise ConversionError(
            donor,
            f"its own pooler was grafted, from {origin.donor}, and was not trained with its encoder",
            f"name the model that it was trained with: --pooler-from {origin.donor}",
        )
    for side in (checkpoint, donor.checkpoint):
        longest = side.config["max_position_embeddings"]
        if options.calibrate_length > longest:
            reason = f"reads {longest} tokens; --calibrate-length is {options.calibrate_length}"
            raise ConversionError(side.source.label, reason)
    device_of(options)
    tokenizers = _tokenizers(checkpoint, donor.checkpoint)
    with _errors_of_texts(options):
        texts = read_texts(options.calibrate, options.calibrate_samples)
        readings = tokenize_with_both(tokenizers, texts, options.calibrate_length)
        for number, side in enumerate((checkpoint, donor.checkpoint)):
            config = side.config
            readings.check_sizes(number, config["vocab_size"], config["type_vocab_size"], side.source.label)
    return readings


def refit(graft: Graft, readings: Readings, options: Options, progress: bool) -> tuple[Graft, dict]:
    """The graft with a pooler that is refitted on the texts, if that is better; and the report's part on the fit.

    Raises:
        ConversionError: One of the encoders can't be read, or the fit failed.
    """
    fit, pooler = fit_encoders(graft, readings, options, progress)
    if fit.improved:
        graft = graft.refitted(pooler, fit.record)
    return graft, dataclasses.asdict(fit)


@contextlib.contextmanager
def _errors_of_texts(options: Options) -> Iterator[None]:
    """Turns what is wrong with the texts into one line."""
    try:
        yield
    except ValueError as error:
        raise ConversionError(f"--calibrate {options.calibrate}", first_line(error)) from error


def device_of(options: Options) -> str:
    """The device to encode on.

    Raises:
        ConversionError: There is no such device, or nothing can be computed on it.
    """
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:  # not there, not built in, or "meta"
        raise ConversionError(f"--device {device}", first_line(error)) from error
    return device


def _tokenizers(checkpoint: Checkpoint, donor: Checkpoint) -> tuple:
    ours, theirs = checkpoint.tokenizer.load(), donor.tokenizer.load()
    same_size = checkpoint.config["vocab_size"] == donor.config["vocab_size"]
    if (ours is None and theirs is None) or (not same_size and None in (ours, theirs)):
        without = checkpoint if ours is None else donor
        raise ConversionError(
            without.source.label, "has no tokenizer to read texts with", "copy its files into the folder"
        )
    return ours or theirs, theirs or ours


def fit_encoders(graft: Graft, readings: Readings, options: Options, progress: bool) -> tuple[Calibration, dict]:
    """What the fit found, and the refitted pooler's tensors in the checkpoint's dtype.

    Raises:
        ConversionError: The donor could not be read whole, or the fit failed.
    """
    from .regression import fit_pooler

    checkpoint, donor = graft.checkpoint, graft.donor.checkpoint
    folder = donor.source.fetch(checkpoint_files(donor.source))
    if folder is not donor.source:
        donor = read_part(folder, any_modules=True)
    adapted = load_encoder(checkpoint, checkpoint.tensors | graft.pooler)
    original = load_encoder(donor, donor.tensors)
    try:
        for encoder in (adapted, original):
            encoder.to(device_of(options))
        fit = fit_pooler(adapted, original, readings, batch_size=options.calibrate_batch_size, progress=progress)
    except (ValueError, RuntimeError) as error:  # the latter: the device is out of memory
        reason = f"the pooler can't be calibrated: {first_line(error)}"
        raise ConversionError(checkpoint.source.where(), reason) from error
    pooler = {}
    for key, parameter in zip(POOLER, (adapted.pooler.dense.weight, adapted.pooler.dense.bias), strict=True):
        values = parameter.detach().cpu().numpy()
        pooler[key] = graft.pooler[key].replaced("F32", values.tobytes()).cast(checkpoint.dtype)
    return fit, pooler


def load_encoder(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]):
    """A `BertModel` in float32 with the given tensors.

    Raises:
        ConversionError: A tensor is missing, or config.json describes another model.
    """
    import torch
    from transformers import BertConfig, BertModel

    config, label = checkpoint.config, checkpoint.source.label
    fields = {name: config[name] for name in (*SIZES, *OPTIONS) if name in config}
    try:
        model = BertModel(BertConfig(**fields)).eval()
        names = model.state_dict().keys()
        if absent := [name for name in names if ENCODER + name not in tensors]:
            raise ConversionError(label, f"has no {listed(absent)}: its encoder is incomplete")
        model.load_state_dict(
            {
                name: torch.from_numpy(tensor.values().astype(np.float32)).reshape(tensor.shape)
                for name, tensor in ((name, tensors[ENCODER + name]) for name in names)
            }
        )
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = f"config.json and weights do not make a BertModel: {first_line(error)}"
        raise ConversionError(label, reason) from error
    return model
