# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Step 4, if asked: a plan becomes one with a pooler that is refitted to the checkpoint's encoder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from .bert import ENCODER, OPTIONS, POOLER, SIZES
from .checkpoint import Checkpoint, read_part
from .errors import ConversionError, first_line, listed
from .plan import Plan
from .provenance import Fit, PoolerSource
from .sources import checkpoint_files
from .tensors import Tensor
from .texts import Readings, digest, read_texts, read_with_both
from .tokenizer import read_tokenizer

if TYPE_CHECKING:
    from .regression import Calibration


@dataclasses.dataclass(frozen=True)
class Options:
    """How to fit."""

    texts: str  # a file, or a data set's id or folder
    samples: int = 2000  # texts at most
    length: int = 128  # tokens of a text at most
    batch_size: int = 32
    device: str | None = None  # a GPU where there is one


def refit(plan: Plan, options: Options, dry_run: bool, progress: bool) -> tuple[Plan, dict]:
    """The plan with a pooler that is refitted on the texts, if that is better; and what the report says of the fit.

    Raises:
        ConversionError: The texts, the donor or one of the encoders can't be read, or the fit failed.
    """
    readings = read_for_both(plan, options)
    if dry_run:
        return plan, {"texts": len(readings.texts), "sha256": digest(readings.texts)}
    fit, pooler = fit_encoders(plan, readings, options, progress)
    if fit.improved:
        record = Fit(**{field.name: getattr(fit, field.name) for field in dataclasses.fields(Fit)})
        plan = plan.refitted(pooler, record)
    return plan, dataclasses.asdict(fit)


def read_for_both(plan: Plan, options: Options) -> Readings:
    """The texts, tokenized for the checkpoint's encoder and the donor's: all that can be refused beforehand.

    Raises:
        ConversionError: One of the two can't read them, or the donor's own pooler was not trained for its encoder.
    """
    checkpoint, donor = plan.checkpoint, plan.donor
    origin = PoolerSource.from_config(donor.checkpoint.config.get("pooler_source"))
    if origin is not None and origin.calibration is None:
        raise ConversionError(
            f"{donor}: its own pooler was grafted, from {origin.donor}, and was not trained with its encoder; name "
            f"the model that it was trained with: --pooler-from {origin.donor}"
        )
    for side in (checkpoint, donor.checkpoint):
        longest = side.config["max_position_embeddings"]
        if options.length > longest:
            raise ConversionError(
                f"{side.source.label}: reads {longest} tokens; --calibrate-length is {options.length}"
            )
    device_of(options)
    tokenizers = _tokenizers(checkpoint, donor.checkpoint)
    with said_of(options.texts):
        texts = read_texts(options.texts, options.samples)
        readings = read_with_both(tokenizers, texts, options.length)
        for number, side in enumerate((checkpoint, donor.checkpoint)):
            config = side.config
            readings.check_sizes(number, config["vocab_size"], config["type_vocab_size"], side.source.label)
    return readings


@contextlib.contextmanager
def said_of(texts: str) -> Iterator[None]:
    """Turns what is wrong with the texts into one line."""
    try:
        yield
    except ValueError as error:
        raise ConversionError(f"--calibrate {texts}: {first_line(error)}") from error


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
        raise ConversionError(f"--device {device}: {first_line(error)}") from error
    return device


def _tokenizers(checkpoint: Checkpoint, donor: Checkpoint) -> tuple:
    ours, theirs = (read_tokenizer(side.source, side.config).load() for side in (checkpoint, donor))
    same_size = checkpoint.config["vocab_size"] == donor.config["vocab_size"]
    if (ours is None and theirs is None) or (not same_size and None in (ours, theirs)):
        without = checkpoint if ours is None else donor
        raise ConversionError(
            f"{without.source.label}: has no tokenizer to read texts with; copy its files into the folder"
        )
    return ours or theirs, theirs or ours


def fit_encoders(plan: Plan, readings: Readings, options: Options, progress: bool) -> tuple[Calibration, dict]:
    """What the fit found, and the refitted pooler's tensors in the checkpoint's dtype.

    Raises:
        ConversionError: The donor could not be read whole, or the fit failed.
    """
    from .regression import fit_pooler

    checkpoint, donor = plan.checkpoint, plan.donor.checkpoint
    folder = donor.source.fetch(checkpoint_files(donor.source))
    if folder is not donor.source:
        donor = read_part(folder, as_donor=True)
    adapted = load_encoder(checkpoint, checkpoint.tensors | plan.pooler)
    original = load_encoder(donor, donor.tensors)
    try:
        for encoder in (adapted, original):
            encoder.to(device_of(options))
        fit = fit_pooler(adapted, original, readings, batch_size=options.batch_size, progress=progress)
    except (ValueError, RuntimeError) as error:  # the latter: no memory left on the device
        raise ConversionError(
            f"{checkpoint.source.where()}: the pooler can't be calibrated: {first_line(error)}"
        ) from error
    pooler = {}
    for key, parameter in zip(POOLER, (adapted.pooler.dense.weight, adapted.pooler.dense.bias), strict=True):
        array = parameter.detach().cpu().numpy()
        fitted = Tensor(checkpoint.source, "the refitted pooler", "F32", array.shape, 0, memoryview(array.tobytes()))
        pooler[key] = fitted.cast(plan.donor.dtype)
    return fit, pooler


def load_encoder(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]):
    """A `BertModel` in float32, of tensors that have not been read yet.

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
            raise ConversionError(f"{label}: has no {listed(absent)}; its encoder is not a whole one")
        model.load_state_dict(
            {
                name: torch.from_numpy(tensor.values().astype(np.float32)).reshape(tensor.shape)
                for name, tensor in ((name, tensors[ENCODER + name]) for name in names)
            }
        )
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ConversionError(f"{label}: config.json and weights make no BertModel: {first_line(error)}") from error
    return model
