# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The arguments of a conversion, checked in one place for `convert()` and for the command line."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re

from .errors import ArgumentError, ConversionError
from .formats import FORMATS, Format
from .texts import check_source

CALIBRATION = ("calibrate_samples", "calibrate_length", "calibrate_batch_size")
AUTO = "auto"  # as `head_from`: the donor is to be found
# Arguments that mean nothing without another one.
NEEDS = {
    "pooler_revision": "pooler_from",
    "force_donor": "pooler_from head_from",  # one of them
    "private": "push_to_hub",
    "create_pr": "push_to_hub",
    "device": "calibrate",
    **dict.fromkeys(CALIBRATION, "calibrate"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What `convert()` documents.

    Raises:
        ArgumentError: A value is wrong, or an argument lacks another one that it needs.
    """

    output_dir: str | os.PathLike | None = None
    pooler_from: str | os.PathLike | None = None
    head_from: str | os.PathLike | None = None
    revision: str | None = None
    pooler_revision: str | None = None
    format: str = "pooled"
    push_to_hub: str | None = None
    private: bool = False
    create_pr: bool = False
    calibrate: str | os.PathLike | None = None
    calibrate_samples: int = 2000  # texts at most
    calibrate_length: int = 128  # tokens of a text at most
    calibrate_batch_size: int = 32
    device: str | None = None  # default: a GPU where there is one
    replace_pooler: bool = False
    force_donor: bool = False
    overwrite: bool = False
    dry_run: bool = False
    verify: bool = True

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ArgumentError(f"{{format}} is {self.format!r}; expected {' or '.join(map(repr, FORMATS))}")
        for name in CALIBRATION:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
                raise ArgumentError(f"{{{name}}} is {value!r}; expected a positive whole number")
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, needed in NEEDS.items():
            if getattr(self, name) != defaults[name] and all(getattr(self, it) is None for it in needed.split()):
                raise ArgumentError(f"{{{name}}} needs {' or '.join(f'{{{it}}}' for it in needed.split())}")
        if self.head_from is not None and not self.target.has_mlm_head:
            raise ArgumentError(f"{{head_from}} is of no use: {{format}} {self.format!r} has no MLM head")

    @property
    def target(self) -> Format:
        """The output format."""
        return FORMATS[self.format]

    def check_possible(self, checkpoint: str) -> None:
        """Finds early what would otherwise fail after minutes of work.

        Raises:
            ConversionError: The texts can't be opened, the repo id is none, or torch or transformers is missing.
        """
        if self.calibrate is not None:
            try:
                check_source(self.calibrate)
            except ValueError as error:
                raise ConversionError(f"--calibrate {self.calibrate}", str(error)) from error
        if self.push_to_hub is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.push_to_hub):
            raise ConversionError(self.push_to_hub, "not a repository id of the Hub", "expected user/name or name")
        missing = " and ".join(it for it in ("torch", "transformers") if importlib.util.find_spec(it) is None)
        if missing and self.calibrate is not None:
            raise ConversionError(checkpoint, f"--calibrate needs {missing}", f"pip install {missing}")
        if missing and self.verify and not self.dry_run:
            raise ConversionError(
                checkpoint, f"verification needs {missing}", f"pip install {missing}, or pass --no-verify"
            )
