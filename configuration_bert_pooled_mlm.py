# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of BERT with both a masked-language-modelling (MLM) head and its original pooler.

It is `BertConfig` plus four fields. This file is copied into every checkpoint, beside `modeling_bert_pooled_mlm.py`;
`AutoConfig` runs it under `trust_remote_code=True`.
"""

import json
import math
from pathlib import Path

from transformers import BertConfig
from transformers.utils import cached_file

__all__ = ["AUTO_MAP", "BertPooledMLMConfig"]

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


class BertPooledMLMConfig(BertConfig):
    """`BertConfig` with the fields of the pooled MLM model.

    Args:
        sparse_prediction: In training mode with labels, run the MLM head on the labelled positions only. The loss
            and its gradients stay the same; the logits are then those rows, `(labelled positions, vocab_size)`.
            Evaluation always gives all positions. (The name is ModernBERT's.)
        return_logits: Whether `BertPooledMLMModel` runs the MLM head and returns its logits. `False` saves the
            vocabulary-sized product where only sentence vectors are needed. `BertPooledMLMForMaskedLM` does not read
            it; `forward(return_logits=...)` takes precedence in both.
        pooler_loss_weight: Weight of the pooler distillation loss, in steps that have `pooler_targets`.
        pooler_source: Where the pooler came from, as `convert.py` records it: the donor's repo or folder name, its
            revision, the sha256 of both tensors, the measured lineage.
        **kwargs: The fields of `BertConfig`.

    Raises:
        ValueError: A field above has a value of another type. The message names field, value and choices.
    """

    model_type = "bert_pooled_mlm"
    # Trainer's evaluation gathers every output that is not named here: the logits are what metrics read.
    keys_to_ignore_at_inference = ["last_hidden_state", "pooler_output", "hidden_states", "attentions", "pooler_loss"]

    def __init__(
        self,
        sparse_prediction: bool = False,
        return_logits: bool = True,
        pooler_loss_weight: float = 0.1,
        pooler_source: dict | None = None,
        **kwargs,
    ):
        for name, value in (("sparse_prediction", sparse_prediction), ("return_logits", return_logits)):
            if not isinstance(value, bool):
                raise ValueError(f"{name}={value!r}: expected True or False")
        number = isinstance(pooler_loss_weight, (int, float)) and not isinstance(pooler_loss_weight, bool)
        if not number or not 0 <= pooler_loss_weight < math.inf:
            raise ValueError(f"pooler_loss_weight={pooler_loss_weight!r}: expected a number from 0 on")
        if pooler_source is not None and not isinstance(pooler_source, dict):
            raise ValueError(f"pooler_source={pooler_source!r}: expected a dict or None")
        kwargs.setdefault("tokenizer_class", "BertTokenizer")  # pipelines of 4.x find the tokenizer by it
        super().__init__(**kwargs)
        self.sparse_prediction = sparse_prediction
        self.return_logits = return_logits
        self.pooler_loss_weight = float(pooler_loss_weight)
        self.pooler_source = pooler_source

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """Writes config.json, with the `auto_map` that points to the code in the same folder, and that code.

        In memory, transformers writes the origin of the code into `auto_map` (`user/repo--module.Class`), and
        4.41 to 5.0 need it there for `from_pretrained(other_weights, config=config)`. Saved, it would tie a trained
        checkpoint to the repo that it was started from.
        """
        in_memory = getattr(self, "auto_map", None)
        self.auto_map = dict(AUTO_MAP)
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            if in_memory is not None:
                self.auto_map = in_memory
        # transformers copies this file alone. AutoConfig runs it where the other may be missing.
        name = f"{_MODELING}.py"
        source, copy = Path(__file__).with_name(name), Path(save_directory, name)
        if source.exists() or (self.name_or_path and not copy.exists()):
            if not source.exists():
                source = Path(cached_file(self.name_or_path, name, revision=getattr(self, "_commit_hash", None)))
            copy.write_bytes(source.read_bytes())

    def sentence_transformers_files(self) -> dict[str, bytes]:
        """The JSON files by which sentence-transformers opens a saved folder, by name: [CLS] pooling, then Dense.

        In the form that its versions 3.0 to 6.2 and text-embeddings-inference read. `model_args` turns the MLM head
        off, which sentence vectors do not need.
        """
        kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))
        modes = ("max_tokens", "mean_sqrt_len_tokens", "mean_tokens")
        files = {
            "modules.json": [
                {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for number, (path, kind) in enumerate(kinds)
            ],
            "sentence_bert_config.json": {
                "max_seq_length": self.max_position_embeddings,
                "do_lower_case": False,
                "model_args": {"return_logits": False},
            },
            "1_Pooling/config.json": {
                "word_embedding_dimension": self.hidden_size,
                "pooling_mode_cls_token": True,
                **{f"pooling_mode_{mode}": False for mode in modes},
            },
            "2_Dense/config.json": {
                "in_features": self.hidden_size,
                "out_features": self.hidden_size,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
        }
        return {name: (json.dumps(value, indent=2, sort_keys=True) + "\n").encode() for name, value in files.items()}


# transformers 4.48 forgets to register classes loaded with trust_remote_code, and would then save them without code.
BertPooledMLMConfig.register_for_auto_class()
