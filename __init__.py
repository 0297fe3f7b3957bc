# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""BERT that continues MLM pre-training without losing its pooler, and the converter that restores a lost one.

After `import bert_pooled_mlm`, `AutoModel.from_pretrained(folder)` reads a pooled checkpoint without
`trust_remote_code`. The import itself is light: torch and transformers are imported when a name first needs them.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING

from .conversion import __version__
from .registration import register_with_transformers

if TYPE_CHECKING:  # for type checkers and editors; at run time, `_Package` imports the same names on first use
    from .anchoring import AnchoredDataset, AnchoringCollator, anchor_rows
    from .configuration_bert_pooled_mlm import BertPooledMLMConfig
    from .conversion.regression import Calibration, calibrate_pooler
    from .convert import ConversionError, ConversionReport, convert
    from .modeling_bert_pooled_mlm import (
        BertPooledMLMForMaskedLM,
        BertPooledMLMForMultipleChoice,
        BertPooledMLMForNextSentencePrediction,
        BertPooledMLMForQuestionAnswering,
        BertPooledMLMForSequenceClassification,
        BertPooledMLMForTokenClassification,
        BertPooledMLMModel,
        BertPooledMLMModelOutput,
        BertPooledMLMOutput,
    )

_MODELING = "modeling_bert_pooled_mlm"
_MODULES = {
    "AnchoredDataset": "anchoring",
    "AnchoringCollator": "anchoring",
    "BertPooledMLMConfig": "configuration_bert_pooled_mlm",
    "BertPooledMLMForMaskedLM": _MODELING,
    "BertPooledMLMForMultipleChoice": _MODELING,
    "BertPooledMLMForNextSentencePrediction": _MODELING,
    "BertPooledMLMForQuestionAnswering": _MODELING,
    "BertPooledMLMForSequenceClassification": _MODELING,
    "BertPooledMLMForTokenClassification": _MODELING,
    "BertPooledMLMModel": _MODELING,
    "BertPooledMLMModelOutput": _MODELING,
    "BertPooledMLMOutput": _MODELING,
    "Calibration": "conversion.regression",
    "ConversionError": "convert",
    "ConversionReport": "convert",
    "anchor_rows": "anchoring",
    "calibrate_pooler": "conversion.regression",
    "convert": "convert",
}
__all__ = [
    "AnchoredDataset",
    "AnchoringCollator",
    "BertPooledMLMConfig",
    "BertPooledMLMForMaskedLM",
    "BertPooledMLMForMultipleChoice",
    "BertPooledMLMForNextSentencePrediction",
    "BertPooledMLMForQuestionAnswering",
    "BertPooledMLMForSequenceClassification",
    "BertPooledMLMForTokenClassification",
    "BertPooledMLMModel",
    "BertPooledMLMModelOutput",
    "BertPooledMLMOutput",
    "Calibration",
    "ConversionError",
    "ConversionReport",
    "__version__",
    "anchor_rows",
    "calibrate_pooler",
    "convert",
]


class _Package(types.ModuleType):
    """Imports public names on first use, as transformers does (PEP 562)."""

    def __getattr__(self, name: str):
        if name not in _MODULES:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{self.__name__}.{_MODULES[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # Importing the submodule `convert` sets this attribute; it is to remain the function of that name.
        if name == "convert" and isinstance(value, types.ModuleType):
            value = value.convert
        super().__setattr__(name, value)

    def __dir__(self):
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
register_with_transformers()
