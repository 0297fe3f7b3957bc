# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""BERT that continues MLM pre-training without losing its pooler, and the converter that gives a lost one back.

Importing the package registers its classes with transformers' Auto classes: `AutoModel.from_pretrained(folder)` then
reads a pooled checkpoint without `trust_remote_code`.
"""

import warnings

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    BertTokenizerFast,
)

from .configuration_bert_pooled_mlm import BertPooledMLMConfig
from .conversion.regression import Calibration, calibrate_pooler
from .convert import ConversionError, ConversionReport, convert
from .modeling_bert_pooled_mlm import (
    BertPooledMLMForMaskedLM,
    BertPooledMLMForSequenceClassification,
    BertPooledMLMModel,
    BertPooledMLMModelOutput,
    BertPooledMLMOutput,
)

__all__ = [
    "BertPooledMLMConfig",
    "BertPooledMLMForMaskedLM",
    "BertPooledMLMForSequenceClassification",
    "BertPooledMLMModel",
    "BertPooledMLMModelOutput",
    "BertPooledMLMOutput",
    "Calibration",
    "ConversionError",
    "ConversionReport",
    "calibrate_pooler",
    "convert",
]
__version__ = "0.1.0"

# `python -m bert_pooled_mlm.convert` runs a module that this package has imported already: meant, and harmless.
warnings.filterwarnings("ignore", message="'bert_pooled_mlm.convert' found in sys.modules", category=RuntimeWarning)

AutoConfig.register(BertPooledMLMConfig.model_type, BertPooledMLMConfig)
AutoModel.register(BertPooledMLMConfig, BertPooledMLMModel)
AutoModelForMaskedLM.register(BertPooledMLMConfig, BertPooledMLMForMaskedLM)
AutoModelForPreTraining.register(BertPooledMLMConfig, BertPooledMLMForMaskedLM)
AutoModelForSequenceClassification.register(BertPooledMLMConfig, BertPooledMLMForSequenceClassification)
AutoTokenizer.register(BertPooledMLMConfig, slow_tokenizer_class=BertTokenizer, fast_tokenizer_class=BertTokenizerFast)
