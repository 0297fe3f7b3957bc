# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The subjects of the benchmark: models that share their weights, batches, and the arithmetic of a call."""

import sys
import unittest.mock
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop
from transformers import BertConfig, BertForMaskedLM

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # measure this checkout, not an installed version

from configuration_bert_pooled_mlm import BertPooledMLMConfig  # noqa: E402
from modeling_bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMModel  # noqa: E402, F401

flop_registry[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = sdpa_flop  # torch has only those of GPUs
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


@dataclass(frozen=True)
class Work:
    """The setting of a measurement: model shape, number format, device and batch size."""

    shape: dict
    device: torch.device
    dtype: torch.dtype = torch.float32
    rows: int = 8
    length: int = 128
    share: float = 0.15  # fraction of tokens with a label

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}, {self.rows} x {self.length}"

    def config(self, **fields) -> BertPooledMLMConfig:
        return BertPooledMLMConfig(**self.shape, **fields)

    def stock_config(self) -> BertConfig:
        return BertConfig(**self.shape)

    def autocast(self) -> torch.autocast:
        """Training in half precision: weights in float32, products in `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def batch(self, labels: bool = False) -> dict[str, torch.Tensor]:
        """Seeded token ids without padding, `(rows, length)`; `share` of them labelled, over the whole batch."""
        generator = torch.Generator().manual_seed(0)
        size = (self.rows, self.length)
        ids = torch.randint(5, self.config().vocab_size, size, generator=generator)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if labels:
            chosen = torch.randperm(ids.numel(), generator=generator)[: max(1, round(self.share * ids.numel()))]
            inputs["labels"] = torch.full_like(ids, -100)
            inputs["labels"].view(-1)[chosen] = ids.view(-1)[chosen]
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}


class TwoEncoderPasses(BertForMaskedLM):
    """The usual home-made class: its own pooler, a second encoder pass for it, and a plain dict as output."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.pooler = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.pooler_activation = torch.nn.Tanh()

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, labels=None):
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        masked = super().forward(**inputs, labels=labels)
        states = self.bert(**inputs).last_hidden_state
        pooled = self.pooler_activation(self.pooler(states[:, 0]))
        return {"loss": masked.loss, "logits": masked.logits, "last_hidden_state": states, "pooler_output": pooled}


def new(work: Work, dtype: torch.dtype | None = None, **fields) -> BertPooledMLMForMaskedLM:
    """A model of ours with random weights, in evaluation mode; `dtype` is `work.dtype` unless it is given."""
    torch.manual_seed(0)
    return BertPooledMLMForMaskedLM(work.config(**fields)).to(work.device, dtype or work.dtype).eval()


def sharing(model: torch.nn.Module, source: torch.nn.Module, prefix: str = "") -> torch.nn.Module:
    """Gives `model` the tensors of `source`, because the memory layout of weights affects the speed of kernels.

    Args:
        prefix: Prefix of the names in `source`: "bert." if `model` is an encoder alone.
    """
    theirs = dict(source.named_parameters())
    first = next(iter(theirs.values()))
    model.to(first.device, first.dtype)
    for name, parameter in model.named_parameters():
        if prefix + name in theirs:
            parameter.data = theirs[prefix + name].data
    return model.train(source.training)


class Products(TorchDispatchMode):
    """Counts matrix products; an attention is one."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function._overloadpacket in flop_registry
        return function(*args, **(kwargs or {}))


def arithmetic(call) -> dict[str, int]:
    """The matrix products of one `call` and their floating-point operations, including the backward pass."""
    with FlopCounterMode(display=False) as operations, Products() as products:
        call()
    return {"products": products.count, "flops": operations.get_total_flops()}


def encoder_passes(model: torch.nn.Module, call) -> int:
    """The number of times that `call` runs the encoder of `model`."""
    with unittest.mock.patch.object(model.bert.encoder, "forward", wraps=model.bert.encoder.forward) as forward:
        call()
    return forward.call_count
