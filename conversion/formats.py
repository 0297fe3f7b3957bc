# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The output formats as data: their names, the classes that read them, and the files next to the weights.

The code files that every pooled checkpoint gets are not imported here, since that would import transformers. What they
define as well (AUTO_MAP, PROJECT_URL, the fields' defaults, sentence-transformers' files) is repeated here, and
tests/conversion/test_conversions.py compares the two.
"""

from __future__ import annotations

import dataclasses

PROJECT_URL = ""
MODEL_TYPE = "bert_pooled_mlm"
CODE_FILES = ("configuration_bert_pooled_mlm.py", "modeling_bert_pooled_mlm.py")
DENSE = "2_Dense/model.safetensors"  # a copy of the pooler, which sentence-transformers reads
DENSE_NAMES = ("linear.weight", "linear.bias")
MODULE_LIST = "modules.json"
# sentence-transformers' files. Their list comes first: it is what makes sentence-transformers read the others.
MODULES = (MODULE_LIST, "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json", DENSE)
_MODELING = "modeling_bert_pooled_mlm"
AUTO_MAP = {
    "AutoConfig": "configuration_bert_pooled_mlm.BertPooledMLMConfig",
    "AutoModel": f"{_MODELING}.BertPooledMLMModel",
    "AutoModelForMaskedLM": f"{_MODELING}.BertPooledMLMForMaskedLM",
    "AutoModelForPreTraining": f"{_MODELING}.BertPooledMLMForMaskedLM",
    "AutoModelForSequenceClassification": f"{_MODELING}.BertPooledMLMForSequenceClassification",
    "AutoModelForMultipleChoice": f"{_MODELING}.BertPooledMLMForMultipleChoice",
    "AutoModelForNextSentencePrediction": f"{_MODELING}.BertPooledMLMForNextSentencePrediction",
    "AutoModelForTokenClassification": f"{_MODELING}.BertPooledMLMForTokenClassification",
    "AutoModelForQuestionAnswering": f"{_MODELING}.BertPooledMLMForQuestionAnswering",
}


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to write a checkpoint."""

    name: str  # the value of --format
    summary: str  # for --help
    architecture: str
    model_type: str = "bert"
    auto_map: dict[str, str] | None = None
    code_files: tuple[str, ...] = ()
    config_defaults: dict = dataclasses.field(default_factory=dict)  # fields that only this format has
    prefix: str = "bert."  # of the encoder's tensor names
    has_mlm_head: bool = True

    @property
    def trust(self) -> str:
        """The argument that `from_pretrained` needs besides the folder."""
        return ", trust_remote_code=True" if self.code_files else ""

    @property
    def auto_classes(self) -> tuple[str, ...]:
        """The Auto classes that load it with nothing missing."""
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
            {"sparse_prediction": False, "return_logits": True, "pooler_loss_weight": 0.3},
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


def sentence_transformers_files(hidden_size: int, max_seq_length: int, model_args: dict) -> dict[str, object]:
    """[CLS] pooling, then the pooler as a Dense layer with tanh: the JSON files, by name.

    In the spelling that sentence-transformers 3.0 to 6.2 and text-embeddings-inference read.
    """
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
    modes = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "mean_tokens")
    return {
        MODULE_LIST: [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
            for number, (path, name) in enumerate(modules)
        ],
        "sentence_bert_config.json": {
            "max_seq_length": max_seq_length,
            "do_lower_case": False,
            **({"model_args": model_args} if model_args else {}),
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden_size,
            **{f"pooling_mode_{mode}": mode == "cls_token" for mode in modes},
        },
        "2_Dense/config.json": {
            "in_features": hidden_size,
            "out_features": hidden_size,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    }
