# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""BERT with a masked-language-modelling (MLM) head that keeps its original pooler.

`BertForMaskedLM` (transformers) has no pooler, so continued pre-training loses `bert.pooler.dense.*`. The classes here
are transformers' own BERT classes plus that pooler, under its standard names, fed by the same single encoder pass.
During MLM training the pooler is frozen; loading a checkpoint without one is an error, never a random initialisation.
BERT: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.
"""

import contextlib
import importlib
import inspect
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers.models.bert.modeling_bert import BertModel, BertPooler
from transformers.utils import ModelOutput, logging

if __package__:
    from .configuration_bert_pooled_mlm import BertPooledMLMConfig
else:  # Imported from a checkout's root. Not an import statement: the scanners of remote code would follow it.
    BertPooledMLMConfig = importlib.import_module("configuration_bert_pooled_mlm").BertPooledMLMConfig

__all__ = [
    "BertPooledMLMForMaskedLM", "BertPooledMLMForMultipleChoice", "BertPooledMLMForNextSentencePrediction",
    "BertPooledMLMForQuestionAnswering", "BertPooledMLMForSequenceClassification",
    "BertPooledMLMForTokenClassification", "BertPooledMLMModel", "BertPooledMLMModelOutput", "BertPooledMLMOutput",
]  # fmt: skip

logger = logging.get_logger(__name__)
PROJECT_URL = ""  # where bert-pooled-mlm is published; error messages name it once it is
# What a tied MLM head does not store, by what it is tied to.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
ENCODER_ARGUMENTS = {"is_causal", "output_attentions", "output_hidden_states", "return_dict"}  # in 5.x by **kwargs
ENCODER_ARGUMENTS |= inspect.signature(BertModel.forward).parameters.keys()


@dataclass
class BertPooledMLMOutput(ModelOutput):
    """Output of `BertPooledMLMForMaskedLM`: the logits come first after the loss, as in `MaskedLMOutput`.

    Args:
        loss: Scalar, float32; with `labels` or `pooler_targets`.
        logits: `(batch, sequence, vocab_size)`. In training mode with `sparse_prediction` and labels:
            `(labelled positions, vocab_size)`, ordered as `labels[labels != -100]`. `None` without `return_logits`.
        last_hidden_state, hidden_states, attentions: As of `BertModel`.
        pooler_output: `(batch, hidden_size)`: dense layer and tanh over the final state of [CLS].
        pooler_loss: Scalar, float32; with `pooler_targets`: squared distance of `pooler_output`, by their variance.
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
    logits_are_optional = False  # whether `return_logits=False` of the config or of the loading is obeyed
    accepts_loss_kwargs = False  # Trainer of 5.x takes any **kwargs for a loss that reads num_items_in_batch
    _no_split_modules = ["BertEmbeddings", "BertLayer"]  # 4.41 to 4.48 read them of the class itself
    # Heads of other classes, and what checkpoints of transformers before 4.31 hold besides.
    _keys_to_ignore_on_load_unexpected = [r"^cls\.", r"embeddings\.position_ids$"]
    # transformers would copy the file of the object's class, which is torch's own where FSDP2 has wrapped the model.
    register_for_auto_class = classmethod(lambda cls, auto_class=None: None)  # the config copies the code

    def __init__(self, config, *args, add_pooling_layer: bool = True, return_logits: bool = True, **kwargs):
        if not add_pooling_layer:
            raise ValueError("add_pooling_layer=False needs transformers.BertModel, which reads the same folder")
        # A stock BertConfig would be saved with the model, and Auto classes would then open the folder as stock BERT.
        if type(config).model_type != BertPooledMLMConfig.model_type:
            raise ValueError(f"{type(self).__name__} takes a BertPooledMLMConfig, found {type(config).__name__}")
        super().__init__(config, *args, **kwargs)
        self.return_logits = return_logits  # `model_args` of sentence-transformers: not saved, unlike the config's
        config.modeling_file = Path(__file__)
        config.vectors_only = self.logits_are_optional and not (config.return_logits and return_logits)
        if self.bert.pooler is None:  # the stock class has none
            self.bert.pooler = BertPooler(config)
            self.post_init()
        self.bert.pooler.requires_grad_(self.pooler_is_trained)
        self.register_forward_pre_hook(_warn_of_half_precision)
        self.bert.register_forward_pre_hook(_check_arguments, with_kwargs=True)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, allow_missing_pooler=False, **kwargs):
        """Loads a pooled or a stock BERT checkpoint that has a pooler; arguments as in `PreTrainedModel`, and:

        Args:
            allow_missing_pooler: Initialise a new pooler at random where there is none, trainable in every class.

        Raises:
            ValueError: The checkpoint has no pooler of this shape. The message names the command that restores it.
        """
        name, with_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
        model.config.read_modules(name, **kwargs)
        mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}  # 4.57: names alone
        random_keys = mismatched.union(info["missing_keys"])
        random_pooler = sorted(key for key in random_keys if "pooler.dense." in key)
        wrapped = next((key for key in info["unexpected_keys"] if ".bert.embeddings." in key), "")
        if random_pooler and (wrapped or not allow_missing_pooler):
            reason = "It was lost in training: BertForMaskedLM has no pooler, and saves none."
            other = " To train a new one from scratch instead, pass allow_missing_pooler=True."
            if wrapped:  # by torch.compile(model), or for several processes
                prefix, other = wrapped.partition("bert.")[0], ""
                reason = f"The names in the file begin with {prefix!r}: it was saved from a wrapped model."
            folder = Path(name, kwargs["subfolder"]).as_posix() if kwargs.get("subfolder") else name
            raise ValueError(
                f"{name} has no usable pooler: {', '.join(random_pooler)} would be random, different at each load. "
                f"{reason} bert-pooled-mlm{PROJECT_URL and f' ({PROJECT_URL})'} restores the original one: run "
                f"`python convert.py {shlex.quote(str(folder))}` there and load the folder that it writes.{other}"
            )
        if random_pooler:
            model.config.pooler_source = None  # it describes the pooler that is gone
        for parameter in model.bert.pooler.parameters():  # while loading, transformers 5 resets requires_grad of all
            trained = cls.pooler_is_trained or bool(random_pooler)
            parameter.requires_grad_(trained and parameter.is_floating_point())  # not the integers of a quantised one
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for copy, original in TIED.items() if TIED.keys() <= parameters.keys() else ():  # an MLM head, not quantised
            if parameters[copy].is_meta and not parameters[original].is_meta:  # 5.3.0, and loads in several threads
                setattr(model.cls.predictions.decoder, copy.rpartition(".")[2], parameters[original])
            elif copy in random_keys and original not in random_keys:  # not tied, or cloned (torchscript of 4.x)
                parameters[copy].data.copy_(parameters[original])
        head = ("cls.predictions.transform.", "cls.predictions.bias")
        if cls.logits_are_optional and any(key.startswith(head) for key in random_keys):
            model.return_logits, model.config.vectors_only = False, True
            model._keys_to_ignore_on_save = [key for key in model.state_dict() if key.startswith("cls.")]
            logger.warning(
                "The checkpoint has no MLM head: no logits are returned (return_logits=False), and the head is not "
                "saved. bert-pooled-mlm's `python convert.py FOLDER --head-from DONOR` gives it that of the model "
                "before; to train a new one, load with AutoModelForMaskedLM."
            )
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory, is_main_process=True, *args, **kwargs):
        """Saves as `PreTrainedModel` does, and writes the modules by which sentence-transformers opens the folder."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        # Where several processes call it, later versions of transformers 5 choose the one that writes.
        if getattr(self, "should_save_on_this_rank", bool)(is_main_process):
            self.config.write_sentence_transformers(Path(save_directory), self.bert.pooler.dense)

    def _upload_modified_files(self, working_dir, *args, **kwargs):  # before save_pretrained(push_to_hub=True) ends
        self.config.write_sentence_transformers(Path(working_dir), self.bert.pooler.dense)
        return super()._upload_modified_files(working_dir, *args, **kwargs)


def _warn_of_half_precision(model, args):
    """Runs before each forward pass: transformers 5 loads a checkpoint in the dtype that it is stored in."""
    if model.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        half = {p.dtype for p in model.parameters() if p.requires_grad} & {torch.float16, torch.bfloat16}
        if half:
            logger.warning_once(
                f"Parameters of {half.pop()} are trained: small updates are lost, and the loss may become NaN. Load "
                "with dtype=torch.float32 (transformers 4: torch_dtype), unless the optimizer keeps float32 copies."
            )


def _check_arguments(encoder, args, kwargs):
    """Runs before each encoder pass: an argument that BERT does not read is an error. transformers 5 ignores it."""
    unknown = sorted(kwargs.keys() - ENCODER_ARGUMENTS)
    if unknown:
        raise TypeError(f"forward() does not read {', '.join(unknown)}: leave it out")


class _NotGenerating:
    """In place of BERT's method, by which transformers 4.45 to 5.0 wrap remote code in a class that pickle rejects."""

    def __get__(self, model, cls):
        return transformers.PreTrainedModel.prepare_inputs_for_generation  # an AttributeError from 4.50 on


class _BertWithMLMHead(_PoolerMixin, transformers.BertForMaskedLM):
    """Encoder, pooler, MLM head and loss: the one `forward` behind two public classes, which set `output_class`."""

    accepts_loss_kwargs = True  # Trainer passes num_items_in_batch, and does not divide the loss again
    prepare_inputs_for_generation = _NotGenerating()
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
        pooler_target_variance: torch.FloatTensor | None = None,
        return_logits: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BertPooledMLMOutput | BertPooledMLMModelOutput | tuple:
        """One encoder pass; arguments as in `BertForMaskedLM.forward` (some of them through `**kwargs`), and:

        Args:
            labels: Of the input's shape; -100 where nothing is to be predicted.
            pooler_targets: `(batch, hidden_size)`: target vectors for `pooler_output` (`anchoring.py`); rows of -100
                are not read. Adds `pooler_loss`, times the config's `pooler_loss_weight`, to the loss.
            pooler_target_variance: `(batch,)`: the total variance of all targets, by which squared distances are
                divided. Default: the squared length of each target.
            return_logits: If not, the MLM head runs on the labelled positions alone, and without labels not at all.
                Default: yes; in `BertPooledMLMModel` the config's `return_logits`.
            num_items_in_batch: Labelled tokens in the whole batch, over accumulation steps and devices, by which the
                summed cross-entropy is divided. Default: those of this call.
        """
        if return_dict is None:  # 5.0 removed torchscript, which wants tuples
            torchscript = transformers.__version__.startswith("4.") and self.config.torchscript
            return_dict = self.config.return_dict and not torchscript
        if return_logits is None:
            return_logits = not self.logits_are_optional or (self.config.return_logits and self.return_logits)
        inputs = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
        encoded = self.bert(input_ids, inputs_embeds=inputs_embeds, return_dict=True, **inputs, **kwargs)
        states, loss, pooler_loss = encoded.last_hidden_state, None, None
        sparse = labels is not None and self.training and self.config.sparse_prediction
        logits = self.cls(states) if return_logits and not sparse else None
        if labels is not None:
            labels = labels.to(states.device)
            if labels.shape != states.shape[:-1]:
                raise ValueError(f"labels are {tuple(labels.shape)}, the input is {tuple(states.shape[:-1])}")
            rows = (labels != -100).nonzero(as_tuple=True) if sparse else _labelled_rows(labels)
            scores = self.cls(states[rows]) if logits is None else logits[rows]
            logits = scores if logits is None else logits
            loss = _mlm_loss(scores, labels[rows], num_items_in_batch)
        if pooler_targets is not None:
            pooler_loss = _pooler_loss(encoded.pooler_output, pooler_targets, pooler_target_variance)
            part = 1 if num_items_in_batch is None else _part_of_batch(states, labels, num_items_in_batch)
            loss = (0 if loss is None else loss) + self.config.pooler_loss_weight * part * pooler_loss
        fields = {name: encoded.get(name) for name in self.config.ENCODER_OUTPUTS}
        fields |= {"logits": logits if return_logits else None, "pooler_loss": pooler_loss}
        output = self.output_class(loss=loss, **fields)
        return output if return_dict else output.to_tuple()


def _labelled_rows(labels):
    """Index of the labelled tokens; of all where their number is unknown: the loss is the same, its arrays larger."""
    if not torch.compiler.is_compiling() and not (labels.is_cuda and torch.cuda.is_current_stream_capturing()):
        with contextlib.suppress(RuntimeError):  # under vmap, of fake tensors, on the meta device
            return (labels != -100).nonzero(as_tuple=True)
    return slice(None)


def _mlm_loss(logits, labels, num_items_in_batch):
    """Cross-entropy in float32; 0 with zero gradients, not NaN, where nothing is labelled."""
    total = cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")
    if num_items_in_batch is None:
        num_items_in_batch = (labels != -100).sum()
    return total / torch.as_tensor(num_items_in_batch, device=total.device).clamp(min=1)


def _pooler_loss(pooled, targets, variance):
    """The mean over the rows that have targets of ||pooled - target||² / variance, in float32; 0 without any."""
    if targets.shape != pooled.shape:
        raise ValueError(f"pooler_targets are {tuple(targets.shape)}, pooler_output is {tuple(pooled.shape)}")
    pooled, targets = pooled.float(), targets.to(pooled.device).float()
    unit = targets.square().sum(-1) if variance is None else variance.to(pooled.device).float().flatten()
    errors, read = (pooled - targets).square().sum(-1) / unit.clamp(min=1e-12), (targets != -100).any(-1)
    return torch.where(read, errors, 0).sum() / read.sum().clamp(min=1)


def _part_of_batch(states, labels, num_items_in_batch):
    """What part of the whole batch this call is, by labelled tokens; without any, as if 15 % of its tokens were."""
    items = 0 if labels is None else (labels != -100).sum()
    items = torch.as_tensor(items, device=states.device).float()
    items = torch.where(items > 0, items, 0.15 * states.shape[0] * states.shape[1])
    return (items / torch.as_tensor(num_items_in_batch, device=states.device).clamp(min=1)).clamp(max=1)


class BertPooledMLMForMaskedLM(_BertWithMLMHead):
    """Drop-in for `BertForMaskedLM` that also returns `last_hidden_state` and `pooler_output`.

    The pooler is frozen, out of reach of weight decay and DDP; `model.bert.pooler.requires_grad_(True)` thaws it.
    """

    output_class = BertPooledMLMOutput
    pooler_is_trained = False


class BertPooledMLMModel(_BertWithMLMHead):
    """Drop-in for `BertModel` by its outputs, plus the MLM head's logits; its pooler is trainable.

    For MLM training take `BertPooledMLMForMaskedLM`: DDP stops at a trainable pooler, which that loss never reaches.
    """

    output_class = BertPooledMLMModelOutput
    logits_are_optional = True


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
