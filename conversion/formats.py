# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The output formats as data: what each is called, which class reads it, and what lies beside the weights."""

from __future__ import annotations

import dataclasses

MODEL_TYPE = "bert_pooled_mlm"
CODE_FILES = ("configuration_bert_pooled_mlm.py", "modeling_bert_pooled_mlm.py")
DENSE = "2_Dense/model.safetensors"  # the pooler once more, where sentence-transformers reads it
DENSE_NAMES = ("linear.weight", "linear.bias")
# By which sentence-transformers opens a folder; the list of the others first.
MODULES = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json", DENSE)
# The configuration's AUTO_MAP again, since the converter imports neither of the two files; a test holds them together.
AUTO_MAP = {
    "AutoConfig": "configuration_bert_pooled_mlm.BertPooledMLMConfig",
    "AutoModel": "modeling_bert_pooled_mlm.BertPooledMLMModel",
    "AutoModelForMaskedLM": "modeling_bert_pooled_mlm.BertPooledMLMForMaskedLM",
    "AutoModelForPreTraining": "modeling_bert_pooled_mlm.BertPooledMLMForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_bert_pooled_mlm.BertPooledMLMForSequenceClassification",
    "AutoModelForMultipleChoice": "modeling_bert_pooled_mlm.BertPooledMLMForMultipleChoice",
    "AutoModelForNextSentencePrediction": "modeling_bert_pooled_mlm.BertPooledMLMForNextSentencePrediction",
    "AutoModelForTokenClassification": "modeling_bert_pooled_mlm.BertPooledMLMForTokenClassification",
    "AutoModelForQuestionAnswering": "modeling_bert_pooled_mlm.BertPooledMLMForQuestionAnswering",
}


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to write a checkpoint."""

    name: str  # as --format spells it
    summary: str  # for --help
    architecture: str
    model_type: str = "bert"
    auto_map: dict[str, str] | None = None
    code_files: tuple[str, ...] = ()
    config_defaults: dict = dataclasses.field(default_factory=dict)  # fields that only this format's class reads
    prefix: str = "bert."  # of the encoder's tensors
    has_mlm_head: bool = True

    @property
    def trust(self) -> str:
        """What `from_pretrained` takes besides the folder."""
        return ", trust_remote_code=True" if self.code_files else ""

    @property
    def doors(self) -> tuple[str, ...]:
        """The Auto classes that open it with nothing missing."""
        return ("AutoModel", "AutoModelForMaskedLM") if self.has_mlm_head else ("AutoModel",)


FORMATS = {
    format.name: format
    for format in (
        Format(
            "pooled",
            "this package's classes, code included",
            "BertPooledMLMForMaskedLM",
            MODEL_TYPE,
            AUTO_MAP,
            CODE_FILES,
            {"sparse_prediction": False, "return_logits": True, "pooler_loss_weight": 0.1},
        ),
        Format("bert", "stock BERT with its MLM head, needs no remote code", "BertForMaskedLM"),
        Format(
            "encoder",
            "as BertModel saves it, without an MLM head: vectors only",
            "BertModel",
            prefix="",
            has_mlm_head=False,
        ),
    )
}
