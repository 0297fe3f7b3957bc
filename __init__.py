# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""BERT that continues MLM pre-training without losing its pooler, and the converter that gives a lost one back.

Importing the package registers its classes with transformers' Auto classes: `AutoModel.from_pretrained(folder)` then
reads a pooled checkpoint without `trust_remote_code`.
"""

from .conversion import terminal  # noqa: F401 - before what takes its time: see there

# isort: split
import inspect
import sys
import types
import warnings

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertTokenizer,
    BertTokenizerFast,
)

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
    "anchor_rows",
    "calibrate_pooler",
    "convert",
]
__version__ = "0.1.0"

# `python -m bert_pooled_mlm.convert` runs a module that this package has imported already: meant, and harmless.
warnings.filterwarnings("ignore", message="'bert_pooled_mlm.convert' found in sys.modules", category=RuntimeWarning)


class _Converter(types.ModuleType):
    """The module `bert_pooled_mlm.convert`, which can be called like its function of that name: both doors."""

    __call__ = staticmethod(convert)
    __signature__ = inspect.signature(convert)


sys.modules[f"{__name__}.convert"].__class__ = _Converter
globals()["convert"] = sys.modules[f"{__name__}.convert"]  # an assignment would hide the function from type checkers

AutoConfig.register(BertPooledMLMConfig.model_type, BertPooledMLMConfig)
AutoModel.register(BertPooledMLMConfig, BertPooledMLMModel)
AutoModelForMaskedLM.register(BertPooledMLMConfig, BertPooledMLMForMaskedLM)
AutoModelForPreTraining.register(BertPooledMLMConfig, BertPooledMLMForMaskedLM)
AutoModelForSequenceClassification.register(BertPooledMLMConfig, BertPooledMLMForSequenceClassification)
AutoModelForMultipleChoice.register(BertPooledMLMConfig, BertPooledMLMForMultipleChoice)
AutoModelForNextSentencePrediction.register(BertPooledMLMConfig, BertPooledMLMForNextSentencePrediction)
AutoModelForTokenClassification.register(BertPooledMLMConfig, BertPooledMLMForTokenClassification)
AutoModelForQuestionAnswering.register(BertPooledMLMConfig, BertPooledMLMForQuestionAnswering)
AutoTokenizer.register(BertPooledMLMConfig, slow_tokenizer_class=BertTokenizer, fast_tokenizer_class=BertTokenizerFast)
