# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What a BERT is: the names of its tensors, current and former, and their shapes; what the lineage check compares."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

ENCODER = "bert."
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
HEAD = "cls.predictions."
WORD_EMBEDDINGS = "bert.embeddings.word_embeddings.weight"
MLM_BIAS = "cls.predictions.bias"
MLM_HEAD = (
    "cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias", MLM_BIAS,
)  # fmt: skip
DECODER = "cls.predictions.decoder.weight"
DECODER_BIAS = "cls.predictions.decoder.bias"
# Some versions of transformers store them as well as what they are tied to, others instead of it.
TIED = {DECODER: WORD_EMBEDDINGS, DECODER_BIAS: MLM_BIAS}
DROPPED = {
    "bert.embeddings.position_ids": "a constant, stored by transformers before 4.31",
    "n_averaged": "the counter of torch's AveragedModel",
    "cls.seq_relationship.weight": "the next-sentence head",
    "cls.seq_relationship.bias": "the next-sentence head",
}
# Parts that DistributedDataParallel, torch.compile, FSDP and activation checkpointing add to names.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# SimCSE's names: its `mlp` is a dense layer and tanh on [CLS], trained in the place of the pooler.
SIMCSE = {"mlp.dense.": "bert.pooler.dense.", "lm_head.": "cls.predictions."}
OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# How tensor names begin where BertModel saves them, without "bert.".
BARE_PREFIXES = ("embeddings.", "encoder.", "pooler.")

MATRICES = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip
LIMITS = {"num_hidden_layers": 1024, "hidden_size": 1 << 14}  # time and memory grow with them
SIZE_LIMIT = 1 << 24  # of the other sizes in config.json; the largest vocabulary in use has 2 ** 18 tokens
SIZES = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
OPTIONS = ("hidden_act", "layer_norm_eps", "pad_token_id", "position_embedding_type", "is_decoder")


class Part(NamedTuple):
    """What a checkpoint can have lost, and a donor can give."""

    name: str
    flag: str  # the argument that names the donor
    keys: tuple[str, ...]


THE_POOLER = Part("pooler", "--pooler-from", POOLER)
THE_HEAD = Part("MLM head", "--head-from", MLM_HEAD)  # its decoder is tied to the word embeddings


def lineage_key(config: dict) -> str:
    """The encoder tensor close to the pooler that depends on neither vocabulary nor length."""
    return f"bert.encoder.layer.{config['num_hidden_layers'] - 1}.attention.output.dense.weight"


def matrices(config: dict) -> list[str]:
    """The matrices of each layer."""
    layers = range(config["num_hidden_layers"])
    return [f"bert.encoder.layer.{layer}.{matrix}.weight" for layer in layers for matrix in MATRICES]


def current_names(stored: Iterable[str]) -> dict[str, str]:
    """Stored names to those that `BertForMaskedLM` of current transformers gives the same tensors."""
    plain = {key: ".".join(part for part in key.split(".") if part not in WRAPPERS) for key in stored}
    root = _root(plain.values())
    names = {}
    for key, name in plain.items():
        name = name.removeprefix(root)
        for old, new in OLD_SUFFIXES.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        for old, new in SIMCSE.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        names[key] = ENCODER + name if name.startswith(BARE_PREFIXES) else name
    return names


def _root(names: Collection[str]) -> str:
    """A prefix of names, such as Lightning's `model.`; the name of the word embeddings tells it."""
    ending = WORD_EMBEDDINGS.removeprefix(ENCODER)
    before = next((name.removesuffix(ending) for name in names if name.endswith(ending)), "")
    root = before.removesuffix(ENCODER)
    # What is beside such a model is then named as unknown. Without `bert.` it may be that of another kind of model.
    return root if before.endswith(f".{ENCODER}") or all(name.startswith(root) for name in names) else ""


def expected_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of `BertForMaskedLM` with this config, pooler and tied ones included: name to shape."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]

    def dense(name: str, inputs: int, outputs: int) -> dict:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name: str) -> dict:
        return {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}

    shapes = {
        WORD_EMBEDDINGS: (vocabulary, hidden),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        **norm("bert.embeddings.LayerNorm"),
    }
    for number in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= dense(f"{layer}.attention.{part}", hidden, hidden)
        shapes |= norm(f"{layer}.attention.output.LayerNorm")
        shapes |= dense(f"{layer}.intermediate.dense", hidden, inner)
        shapes |= dense(f"{layer}.output.dense", inner, hidden)
        shapes |= norm(f"{layer}.output.LayerNorm")
    return {
        **shapes,
        **dense("bert.pooler.dense", hidden, hidden),
        **dense("cls.predictions.transform.dense", hidden, hidden),
        **norm("cls.predictions.transform.LayerNorm"),
        MLM_BIAS: (vocabulary,),
        DECODER: (vocabulary, hidden),
        DECODER_BIAS: (vocabulary,),
    }
