# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""BERT with a masked-language-modelling (MLM) head that keeps its original pooler.

`BertForMaskedLM` (transformers) has no pooler, so continued pre-training loses `bert.pooler.dense.*`. The classes here
are transformers' own BERT classes plus that pooler, under its standard names, fed by the same single encoder pass.
During MLM training the pooler is frozen; a checkpoint that has none is refused instead of being completed at random.
BERT: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.
"""

import importlib
import shlex
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import BertForMaskedLM, BertForSequenceClassification
from transformers.models.bert.modeling_bert import BertPooler
from transformers.utils import ModelOutput, is_torchdynamo_compiling, logging

if __package__:
    from .configuration_bert_pooled_mlm import BertPooledMLMConfig
else:  # Imported from a checkout's root. Not an import statement: the scanners of remote code would follow it.
    BertPooledMLMConfig = importlib.import_module("configuration_bert_pooled_mlm").BertPooledMLMConfig

__all__ = [
    "BertPooledMLMForMaskedLM",
    "BertPooledMLMForSequenceClassification",
    "BertPooledMLMModel",
    "BertPooledMLMModelOutput",
    "BertPooledMLMOutput",
]

logger = logging.get_logger(__name__)


@dataclass
class BertPooledMLMOutput(ModelOutput):
    """Output of `BertPooledMLMForMaskedLM`: the logits come first after the loss, as in `MaskedLMOutput`.

    Args:
        loss: Scalar, float32; with `labels` only.
        logits: `(batch, sequence, vocab_size)`. In training mode with `sparse_prediction` and labels:
            `(labelled positions, vocab_size)`, ordered as `labels[labels != -100]`. `None` without `return_logits`.
        last_hidden_state: `(batch, sequence, hidden_size)`.
        pooler_output: `(batch, hidden_size)`: dense layer and tanh over the final state of [CLS].
        hidden_states: With `output_hidden_states`: the embeddings' and each layer's `(batch, sequence, hidden_size)`.
        attentions: With `output_attentions`: each layer's `(batch, heads, sequence, sequence)`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class BertPooledMLMModelOutput(ModelOutput):
    """Output of `BertPooledMLMModel`: without labels, element by element what `BertModel` gives, then the logits.

    Code that takes element 0 for the hidden states (the feature-extraction pipeline) keeps working.
    """

    loss: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    logits: torch.FloatTensor | None = None


class _KeptPooler:
    """What each class of the family adds to a stock BERT class: a pooler that is never lost, nor made up at random."""

    config_class = BertPooledMLMConfig
    pooler_is_trained = True  # False where the class's own loss does not reach the pooler: it is frozen
    # Whole units for `device_map="auto"`; transformers 4.41 to 4.48 look for them on the class itself.
    _no_split_modules = ["BertEmbeddings", "BertLayer"]
    # What checkpoints of BertForPreTraining, and those of transformers before 4.31, hold besides.
    _keys_to_ignore_on_load_unexpected = [r"^cls\.seq_relationship\.", r"embeddings\.position_ids$"]

    def __init__(self, config, *args, **kwargs):
        # A stock BertConfig would be saved with the model, and Auto classes would then open the folder as stock BERT.
        if type(config).model_type != BertPooledMLMConfig.model_type:
            raise ValueError(f"{type(self).__name__} takes a BertPooledMLMConfig, found {type(config).__name__}")
        super().__init__(config, *args, **kwargs)
        if self.bert.pooler is None:  # the stock class has none
            self.bert.pooler = BertPooler(config)
            self.post_init()
        self.bert.pooler.requires_grad_(self.pooler_is_trained)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, allow_missing_pooler=False, **kwargs):
        """Loads a pooled or a stock BERT checkpoint that has a pooler; arguments as in `PreTrainedModel`, and:

        Args:
            allow_missing_pooler: Start a new, random pooler where the checkpoint has none.

        Raises:
            ValueError: The checkpoint has no pooler, or (under `ignore_mismatched_sizes`) one of another shape. The
                message holds the command that grafts the original one.
        """
        name, with_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
        mismatched = (key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])  # 4.57: names alone
        random_keys = sorted({*info["missing_keys"], *mismatched})
        random_pooler = [key for key in random_keys if "pooler.dense." in key]
        if random_pooler and not allow_missing_pooler:
            raise ValueError(
                f"{name} has no usable pooler: {', '.join(random_pooler)} would be random, different at each load. "
                "Graft the original one with bert-pooled-mlm, and load the folder that it writes: "
                f"`python convert.py {shlex.quote(str(name))}`. To train a new one from scratch instead, pass "
                "allow_missing_pooler=True."
            )
        # While loading, transformers 5.x resets requires_grad of every parameter.
        model.bert.pooler.requires_grad_(cls.pooler_is_trained)
        model._after_loading(random_keys)
        return (model, info) if with_info else model

    def _after_loading(self, random_keys: list[str]) -> None:
        """A class's own answer to the parameters that the checkpoint did not have."""


class _BertWithMLMHead(_KeptPooler, BertForMaskedLM):
    """Encoder, pooler, MLM head and its loss: the one `forward` behind the two public classes, which differ in what
    they declare here."""

    output_class: type[ModelOutput]
    logits_are_optional: bool  # whether `config.return_logits: false` is obeyed where `forward` is not told
    accepts_loss_kwargs = True  # Trainer passes num_items_in_batch, and does not divide the loss again

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        return_logits: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BertPooledMLMOutput | BertPooledMLMModelOutput | tuple:
        """One encoder pass; then the pooler, and the MLM head where its logits or a loss are wanted.

        Takes what `BertForMaskedLM.forward` takes (`output_hidden_states` and the like through `**kwargs`), and:

        Args:
            return_logits: Whether to return the logits. If not, the MLM head runs on the labelled positions alone, and
                without labels not at all. Default: yes; in `BertPooledMLMModel` the config's `return_logits`.
            num_items_in_batch: Labelled tokens in the whole batch, over accumulation steps and devices: the loss is
                the summed cross-entropy over this number. Default: those of this call, hence their mean.
        """
        if return_dict is None:  # torchscript is 4.x's; tracing wants tuples
            return_dict = self.config.return_dict and not getattr(self.config, "torchscript", False)
        if return_logits is None:
            return_logits = self.config.return_logits or not self.logits_are_optional
        encoded = self.bert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        states, loss, logits = encoded.last_hidden_state, None, None
        if labels is not None:
            labels = labels.to(states.device)
            sparse = self.training and self.config.sparse_prediction
            # The loss reads the labelled rows alone: the logits of all rows, copied, are a step's largest arrays.
            # A compiled graph takes all rows, since it is compiled anew for each shape, and the number of labelled
            # rows is another at each step. `sparse_prediction` asks for just these rows, compiled or not.
            all_rows = is_torchdynamo_compiling() and not sparse
            labelled = slice(None) if all_rows else (labels != -100).nonzero(as_tuple=True)
            if sparse or not return_logits:
                logits = scores = self.cls(states[labelled])
            else:
                logits = self.cls(states)
                scores = logits[labelled]
            loss = self._mlm_loss(scores, labels[labelled], num_items_in_batch)
        elif return_logits:
            logits = self.cls(states)
        output = self.output_class(
            loss=loss,
            logits=logits if return_logits else None,
            last_hidden_state=states,
            pooler_output=encoded.pooler_output,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )
        return output if return_dict else output.to_tuple()

    @staticmethod
    def _mlm_loss(logits, labels, num_items_in_batch):
        """Cross-entropy in float32; 0 with zero gradients, not NaN, where nothing is labelled."""
        total = cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")
        if num_items_in_batch is None:
            num_items_in_batch = (labels != -100).sum()
        return total / torch.as_tensor(num_items_in_batch, device=total.device).clamp(min=1)


class BertPooledMLMForMaskedLM(_BertWithMLMHead):
    """Drop-in for `BertForMaskedLM` that also returns `last_hidden_state` and `pooler_output`.

    `from_pretrained` takes a stock BERT that has a pooler, or a pooled checkpoint; `forward` gives a
    `BertPooledMLMOutput`; `save_pretrained` writes the code beside the weights, for `trust_remote_code=True`. The
    pooler is frozen, out of reach of weight decay and DDP; `model.bert.pooler.requires_grad_(True)` thaws it.
    """

    output_class = BertPooledMLMOutput
    pooler_is_trained = False
    logits_are_optional = False  # the fill-mask pipeline needs them, whatever the config says


class BertPooledMLMModel(_BertWithMLMHead):
    """Drop-in for `BertModel` by its outputs, plus the MLM head's logits; its pooler is trainable.

    For MLM training take `BertPooledMLMForMaskedLM`: DDP stops at a trainable pooler, which that loss never reaches.
    """

    output_class = BertPooledMLMModelOutput
    logits_are_optional = True

    def __init__(self, config: BertPooledMLMConfig, add_pooling_layer: bool = True):
        if not add_pooling_layer:
            raise ValueError(
                "BertPooledMLMModel always has its pooler: add_pooling_layer=False is for "
                "transformers.BertModel.from_pretrained(folder, add_pooling_layer=False), which reads the same folder."
            )
        super().__init__(config)

    def _after_loading(self, random_keys: list[str]) -> None:
        if any(key.startswith("cls.predictions.") for key in random_keys):
            self.config.return_logits = False
            self._keys_to_ignore_on_save = [key for key in self.state_dict() if key.startswith("cls.")]
            logger.warning(
                "The checkpoint has no MLM head: no logits are returned (return_logits=False), and the head is not "
                "saved. To train a new one, load with AutoModelForMaskedLM."
            )


class BertPooledMLMForSequenceClassification(_KeptPooler, BertForSequenceClassification):
    """`BertForSequenceClassification` on the checkpoint's own, trainable pooler: only `classifier.*` is new."""

    _keys_to_ignore_on_load_unexpected = [r"^cls\.", r"embeddings\.position_ids$"]


BertPooledMLMModel.register_for_auto_class("AutoModel")
BertPooledMLMForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
BertPooledMLMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
