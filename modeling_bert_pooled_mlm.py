# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""BERT with a masked-language-modelling (MLM) head that keeps its original pooler.

`BertForMaskedLM` (transformers) has no pooler, so continued pre-training loses `bert.pooler.dense.*`. The classes here
are transformers' own BERT classes plus that pooler, under its standard names, fed by the same single encoder pass.
During MLM training the pooler is frozen; loading a checkpoint without one is an error, never a random initialisation.
BERT: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.
"""

import importlib
import inspect
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save
from torch.nn.functional import cross_entropy
from transformers.models.bert.modeling_bert import BertModel, BertPooler
from transformers.utils import ModelOutput, logging

if __package__:
    from .configuration_bert_pooled_mlm import BertPooledMLMConfig
else:  # Imported from a checkout's root. Not an import statement: the scanners of remote code would follow it.
    BertPooledMLMConfig = importlib.import_module("configuration_bert_pooled_mlm").BertPooledMLMConfig

__all__ = [
    "BertPooledMLMForMaskedLM",
    "BertPooledMLMForMultipleChoice",
    "BertPooledMLMForNextSentencePrediction",
    "BertPooledMLMForQuestionAnswering",
    "BertPooledMLMForSequenceClassification",
    "BertPooledMLMForTokenClassification",
    "BertPooledMLMModel",
    "BertPooledMLMModelOutput",
    "BertPooledMLMOutput",
]

logger = logging.get_logger(__name__)
PROJECT_URL = ""  # where bert-pooled-mlm is published; error messages name it once it is
DENSE = {"linear.weight": "bert.pooler.dense.weight", "linear.bias": "bert.pooler.dense.bias"}
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
# transformers 5 takes those of the first line through **kwargs.
ENCODER_ARGUMENTS = {"is_causal", "output_attentions", "output_hidden_states", "return_dict"}
ENCODER_ARGUMENTS |= inspect.signature(BertModel.forward).parameters.keys()


@dataclass
class BertPooledMLMOutput(ModelOutput):
    """Output of `BertPooledMLMForMaskedLM`: the logits come first after the loss, as in `MaskedLMOutput`.

    Args:
        loss: Scalar, float32; with `labels` or `pooler_targets`.
        logits: `(batch, sequence, vocab_size)`. In training mode with `sparse_prediction` and labels:
            `(labelled positions, vocab_size)`, ordered as `labels[labels != -100]`. `None` without `return_logits`.
        last_hidden_state: `(batch, sequence, hidden_size)`.
        pooler_output: `(batch, hidden_size)`: dense layer and tanh over the final state of [CLS].
        hidden_states: With `output_hidden_states`: the embeddings' and each layer's `(batch, sequence, hidden_size)`.
        attentions: With `output_attentions`: each layer's `(batch, heads, sequence, sequence)`.
        pooler_loss: Scalar, float32; with `pooler_targets`: relative squared distance of `pooler_output` from them.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pooler_loss: torch.FloatTensor | None = None


@dataclass
class BertPooledMLMModelOutput(ModelOutput):
    """Output of `BertPooledMLMModel`: `BertModel`'s elements in order (pipelines take element 0), then ours."""

    loss: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    logits: torch.FloatTensor | None = None
    pooler_loss: torch.FloatTensor | None = None


class _PoolerMixin:
    """What each class here adds to a stock BERT class: a pooler that is kept, and never initialised at random."""

    config_class = BertPooledMLMConfig
    pooler_is_trained = True  # False where the class's own loss does not reach the pooler: it is frozen
    accepts_loss_kwargs = False  # Trainer of 5.x takes any **kwargs for a loss that reads num_items_in_batch
    # Whole units for `device_map="auto"`; transformers 4.41 to 4.48 look for them on the class itself.
    _no_split_modules = ["BertEmbeddings", "BertLayer"]
    # Heads of other classes, and what checkpoints of transformers before 4.31 hold besides.
    _keys_to_ignore_on_load_unexpected = [r"^cls\.", r"embeddings\.position_ids$"]

    def __init__(self, config, *args, return_logits: bool = True, **kwargs):
        # A stock BertConfig would be saved with the model, and Auto classes would then open the folder as stock BERT.
        if type(config).model_type != BertPooledMLMConfig.model_type:
            raise ValueError(f"{type(self).__name__} takes a BertPooledMLMConfig, found {type(config).__name__}")
        super().__init__(config, *args, **kwargs)
        self.return_logits = return_logits  # `model_args` of sentence-transformers: not saved, unlike the config's
        if self.bert.pooler is None:  # the stock class has none
            self.bert.pooler = BertPooler(config)
            self.post_init()
        self.bert.pooler.requires_grad_(self.pooler_is_trained)
        self.bert.register_forward_pre_hook(_check_arguments, with_kwargs=True)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, allow_missing_pooler=False, **kwargs):
        """Loads a pooled or a stock BERT checkpoint that has a pooler; arguments as in `PreTrainedModel`, and:

        Args:
            allow_missing_pooler: Initialise a new pooler at random where the checkpoint has none. It is trainable in
                every class; saved and loaded again it is a pooler like any other, frozen where the class freezes it.

        Raises:
            ValueError: The checkpoint has no pooler, or (under `ignore_mismatched_sizes`) one of another shape. The
                message holds the command that grafts the original one.
        """
        name, with_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
        mismatched = (key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])  # 4.57: names alone
        random_keys = {*info["missing_keys"], *mismatched}
        random_pooler = sorted(key for key in random_keys if "pooler.dense." in key)
        if random_pooler and not allow_missing_pooler:
            raise ValueError(
                f"{name} has no usable pooler: {', '.join(random_pooler)} would be random, different at each load. It "
                "was lost in training: BertForMaskedLM has no pooler, and saves none. bert-pooled-mlm"
                f"{PROJECT_URL and f' ({PROJECT_URL})'} restores the original one: run `python convert.py "
                f"{shlex.quote(str(name))}` there and load the folder that it writes. To train a new pooler from "
                "scratch instead, pass allow_missing_pooler=True."
            )
        if random_pooler:
            model.config.pooler_source = None  # it describes the pooler that is gone
        # While loading, transformers 5.x resets requires_grad of every parameter.
        model.bert.pooler.requires_grad_(cls.pooler_is_trained or bool(random_pooler))
        model._after_loading(random_keys)
        return (model, info) if with_info else model

    def _after_loading(self, random_keys: set[str]) -> None:
        """Fills the copies that a tied MLM head does not store, where this one is not tied (or is cloned, 4.x)."""
        for copy, original in TIED.items():
            if copy in random_keys and original not in random_keys:
                self.get_parameter(copy).data.copy_(self.get_parameter(original))

    def save_pretrained(self, save_directory, is_main_process=True, *args, **kwargs):
        """Saves as `PreTrainedModel` does, and writes the modules by which sentence-transformers opens the folder."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        # Where several processes call it, later versions of transformers 5 choose the one that writes.
        if getattr(self, "should_save_on_this_rank", bool)(is_main_process):
            self._write_sentence_transformers(Path(save_directory))

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        self._write_sentence_transformers(Path(working_dir))  # save_pretrained(push_to_hub=True) uploads in its midst
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    def _write_sentence_transformers(self, folder: Path) -> None:
        """Writes the modules, whose Dense is the pooler in the folder's weights (sharded, offloaded or `state_dict=`).

        Nothing is written without a pooler there, or beside what sentence-transformers itself saves.
        """
        pooler = {}
        for file in sorted(folder.glob("model*.safetensors")):  # the shards, then the single file, which loads first
            with safe_open(file, "pt") as tensors:
                stored = {*tensors.keys()}
                pooler |= {name: tensors.get_tensor(key) for name, key in DENSE.items() if key in stored}
        for file in () if pooler else folder.glob("pytorch_model*.bin"):  # safe_serialization=False, until 5.0
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            pooler |= {name: tensors[key] for name, key in DENSE.items() if key in tensors}
        if not pooler or (folder / "config_sentence_transformers.json").exists():
            return
        dense = {"2_Dense/model.safetensors": save(pooler, {"format": "pt"})}
        for name, data in {**self.config.sentence_transformers_files(), **dense}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).unlink(missing_ok=True)  # uploads skip a folder in which no file is new
            (folder / name).write_bytes(data)


def _check_arguments(encoder, args, kwargs):
    """Runs before each encoder pass: an argument that BERT does not read is an error. transformers 5 ignores it."""
    unknown = sorted(kwargs.keys() - ENCODER_ARGUMENTS)
    if unknown:
        raise TypeError(f"forward() does not read {', '.join(unknown)}: leave it out")


class _BertWithMLMHead(_PoolerMixin, transformers.BertForMaskedLM):
    """Encoder, pooler, MLM head and loss: the one `forward` behind two public classes, which set these attributes."""

    output_class: type[ModelOutput]
    logits_are_optional: bool  # whether `return_logits=False` of the config or of the loading is obeyed
    accepts_loss_kwargs = True  # Trainer passes num_items_in_batch, and does not divide the loss again
    _keys_to_ignore_on_load_unexpected = [r"^cls\.seq_relationship\.", r"embeddings\.position_ids$"]

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        pooler_targets: torch.FloatTensor | None = None,
        return_logits: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BertPooledMLMOutput | BertPooledMLMModelOutput | tuple:
        """One encoder pass; then the pooler, and the MLM head where its logits or a loss are wanted.

        Takes what `BertForMaskedLM.forward` takes (`output_hidden_states` and the like through `**kwargs`), and:

        Args:
            labels: Of the input's shape; -100 where nothing is to be predicted.
            pooler_targets: `(batch, hidden_size)`: target vectors for `pooler_output` (`anchoring.py`); rows of -100
                are not read. Adds `pooler_loss`, times the config's `pooler_loss_weight`, to the loss.
            return_logits: Whether to return the logits. If not, the MLM head runs on the labelled positions alone, and
                without labels not at all. Default: yes; in `BertPooledMLMModel` the config's `return_logits`.
            num_items_in_batch: Labelled tokens in the whole batch, over accumulation steps and devices: the loss is
                the summed cross-entropy over this number. Default: those of this call, hence their mean.
        """
        if return_dict is None:
            legacy = transformers.__version__.startswith("4.")  # 5.0 removed torchscript, which wants tuples
            return_dict = self.config.return_dict and not (legacy and self.config.torchscript)
        if return_logits is None:
            return_logits = not self.logits_are_optional or (self.config.return_logits and self.return_logits)
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        encoded = self.bert(input_ids, inputs_embeds=inputs_embeds, return_dict=True, **inputs, **kwargs)
        states, loss, logits, pooler_loss = encoded.last_hidden_state, None, None, None
        if labels is not None:
            labels = labels.to(states.device)
            if labels.shape != states.shape[:-1]:
                raise ValueError(f"labels are {tuple(labels.shape)}, the input is {tuple(states.shape[:-1])}")
            sparse = self.training and self.config.sparse_prediction
            rows = (labels != -100).nonzero(as_tuple=True) if sparse else _labelled_rows(labels)
            if sparse or not return_logits:
                logits = scores = self.cls(states[rows])
            else:
                logits = self.cls(states)
                scores = logits[rows]
            loss = _mlm_loss(scores, labels[rows], num_items_in_batch)
        elif return_logits:
            logits = self.cls(states)
        if pooler_targets is not None:
            pooler_loss = _pooler_loss(encoded.pooler_output, pooler_targets.to(states.device))
            part = 1 if num_items_in_batch is None else _part_of_batch(states, labels, num_items_in_batch)
            weighted = self.config.pooler_loss_weight * part * pooler_loss
            loss = weighted if loss is None else loss + weighted
        output = self.output_class(
            loss=loss,
            logits=logits if return_logits else None,
            last_hidden_state=states,
            pooler_output=encoded.pooler_output,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            pooler_loss=pooler_loss,
        )
        return output if return_dict else output.to_tuple()


def _labelled_rows(labels):
    """Index of the labelled tokens, or of all where their number cannot be known: compiled, captured, vmap, meta.

    The loss of both is the same. But the logits of all tokens, copied for it, are a step's largest arrays.
    """
    if not torch.compiler.is_compiling() and not (labels.is_cuda and torch.cuda.is_current_stream_capturing()):
        try:
            return (labels != -100).nonzero(as_tuple=True)
        except RuntimeError:  # vmap, fake tensors and the meta device have no values to look at
            pass
    return slice(None)


def _mlm_loss(logits, labels, num_items_in_batch):
    """Cross-entropy in float32; 0 with zero gradients, not NaN, where nothing is labelled."""
    total = cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")
    if num_items_in_batch is None:
        num_items_in_batch = (labels != -100).sum()
    return total / torch.as_tensor(num_items_in_batch, device=total.device).clamp(min=1)


def _pooler_loss(pooled, targets):
    """The mean over the rows that have targets of ||pooled - target||² / ||target||², in float32; 0 without any."""
    if targets.shape != pooled.shape:
        raise ValueError(f"pooler_targets are {tuple(targets.shape)}, pooler_output is {tuple(pooled.shape)}")
    pooled, targets = pooled.float(), targets.float()
    read = (targets != -100).any(-1)
    errors = (pooled - targets).square().sum(-1) / targets.square().sum(-1).clamp(min=1e-12)
    return torch.where(read, errors, 0).sum() / read.sum().clamp(min=1)


def _part_of_batch(states, labels, num_items_in_batch):
    """The part of the whole batch that this call is, by its labelled tokens: 1, summed over the batch's calls.

    So the pooler's term weighs in four accumulated batches as much as in one. A call without a labelled token, such as
    an anchor alone in a batch of one, counts as if BERT's 15 % of its tokens were labelled.
    """
    items = 0 if labels is None else (labels != -100).sum()
    items = torch.as_tensor(items, device=states.device).float()
    items = torch.where(items > 0, items, 0.15 * states.shape[0] * states.shape[1])
    return (items / torch.as_tensor(num_items_in_batch, device=states.device).clamp(min=1)).clamp(max=1)


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

    def __init__(self, config: BertPooledMLMConfig, add_pooling_layer: bool = True, **kwargs):
        if not add_pooling_layer:
            raise ValueError(
                "BertPooledMLMModel always has its pooler: add_pooling_layer=False is for "
                "transformers.BertModel.from_pretrained(folder, add_pooling_layer=False), which reads the same folder."
            )
        super().__init__(config, **kwargs)

    def _after_loading(self, random_keys: set[str]) -> None:
        super()._after_loading(random_keys)
        if any(key.startswith(("cls.predictions.transform.", "cls.predictions.bias")) for key in random_keys):
            self.return_logits = False
            self._keys_to_ignore_on_save = [key for key in self.state_dict() if key.startswith("cls.")]
            logger.warning(
                "The checkpoint has no MLM head: no logits are returned (return_logits=False), and the head is not "
                "saved. To train a new one, load with AutoModelForMaskedLM."
            )


class BertPooledMLMForSequenceClassification(_PoolerMixin, transformers.BertForSequenceClassification):
    """`BertForSequenceClassification` on the checkpoint's own, trainable pooler: only `classifier.*` is new."""


class BertPooledMLMForMultipleChoice(_PoolerMixin, transformers.BertForMultipleChoice):
    """`BertForMultipleChoice` on the checkpoint's own, trainable pooler: only `classifier.*` is new."""


class BertPooledMLMForNextSentencePrediction(_PoolerMixin, transformers.BertForNextSentencePrediction):
    """`BertForNextSentencePrediction` on the checkpoint's own, trainable pooler."""

    _keys_to_ignore_on_load_unexpected = [r"^cls\.predictions\.", r"embeddings\.position_ids$"]


class BertPooledMLMForTokenClassification(_PoolerMixin, transformers.BertForTokenClassification):
    """`BertForTokenClassification`, which does not read the pooler: it stays in the checkpoint, frozen."""

    pooler_is_trained = False


class BertPooledMLMForQuestionAnswering(_PoolerMixin, transformers.BertForQuestionAnswering):
    """`BertForQuestionAnswering`, which does not read the pooler: it stays in the checkpoint, frozen."""

    pooler_is_trained = False


# The config's auto_map lists the same; AutoModelForPreTraining opens the class of AutoModelForMaskedLM.
BertPooledMLMModel.register_for_auto_class("AutoModel")
BertPooledMLMForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
BertPooledMLMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
BertPooledMLMForMultipleChoice.register_for_auto_class("AutoModelForMultipleChoice")
BertPooledMLMForNextSentencePrediction.register_for_auto_class("AutoModelForNextSentencePrediction")
BertPooledMLMForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
BertPooledMLMForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")
