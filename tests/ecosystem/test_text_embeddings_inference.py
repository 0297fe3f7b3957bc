"""text-embeddings-inference: what its source reads, stated as data, and compared with the files that are written.

The server is a Rust program that is not run here. From https://github.com/huggingface/text-embeddings-inference, read
in 2026: a field without a default that is missing, or of another type, ends its start ("Model is not supported"),
except in modules.json, where it goes on without the Dense module, and so without the pooler.
"""

import json

import pytest
import torch
from checkpoints import FORMATS, stored
from safetensors import safe_open
from transformers import BertModel

pytestmark = pytest.mark.versions


def is_count(value) -> bool:
    return type(value) is int and value >= 0


def is_a(*types):
    return lambda value: type(value) in types


is_number, is_text, is_flag = is_a(int, float), is_a(str), is_a(bool)


def optional(check):
    return lambda value: value is None or check(value)


# File -> (where in its source, {field: what it has to be}).
READ = {
    "config.json": (
        "router/src/lib.rs, ModelConfig",
        {
            # One that ends with "Classification" would make it a classifier.
            "architectures": lambda value: all(is_text(it) and not it.endswith("Classification") for it in value),
            "model_type": is_text,
            "id2label": optional(lambda value: all(map(is_text, [*value, *value.values()]))),
            "label2id": optional(lambda value: all(map(is_text, value)) and all(map(is_count, value.values()))),
        },
    ),
    "config.json, by the BERT": (
        "backends/candle/src/models/bert.rs, BertConfig",
        {
            **dict.fromkeys(
                (
                    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                    "max_position_embeddings", "type_vocab_size", "pad_token_id",
                ),
                is_count,
            ),
            **dict.fromkeys(("hidden_dropout_prob", "initializer_range", "layer_norm_eps"), is_number),
            "hidden_act": lambda value: value in ("gelu", "relu"),  # backends/candle/src/layers/linear.rs, HiddenAct
            "position_embedding_type": optional(lambda value: value == "absolute"),
            "use_cache": optional(is_flag),
            "classifier_dropout": optional(is_number),
        },
    ),
    "sentence_bert_config.json": ("router/src/lib.rs, STConfig", {"max_seq_length": is_count}),
    "1_Pooling/config.json": (
        "router/src/lib.rs, PoolConfig",
        {
            "pooling_mode_cls_token": lambda value: value is True,
            "pooling_mode_mean_tokens": is_flag,
            "pooling_mode_max_tokens": is_flag,
            "pooling_mode_mean_sqrt_len_tokens": is_flag,
        },
    ),
    "2_Dense/config.json": (
        "backends/candle/src/models/dense.rs, DenseConfig",
        {
            "in_features": is_count,
            "out_features": is_count,
            "bias": lambda value: value is True,
            # The only activation that it knows besides Identity, by this very name.
            "activation_function": lambda value: value == "torch.nn.modules.activation.Tanh",
        },
    ),
}  # fmt: skip
# backends/src/lib.rs, ModuleConfig: all four fields, and no type but these.
MODULE = {"idx": is_count, "name": is_text, "path": is_text, "type": is_text}
MODULES = {f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense", "Normalize")}


def read(folder, name: str):
    return json.loads((folder / name).read_text("utf-8"))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("file", READ)
def test_every_field_that_it_reads_is_there_with_its_type(file, format, converted):
    source, fields = READ[file]
    found = read(converted / format, file.split(",")[0])
    assert {name: found.get(name) for name, check in fields.items() if not check(found.get(name))} == {}, source


@pytest.mark.parametrize("format", FORMATS)
def test_it_finds_the_dense_module_whose_weights_are_the_pooler(format, converted):
    """dense.rs: linear.weight is (out_features, in_features), linear.bias is (out_features)."""
    modules = read(converted / format, "modules.json")
    for module in modules:
        assert all(check(module[name]) for name, check in MODULE.items())
        assert module["type"] in MODULES
    assert [module["path"] for module in modules if module["type"].endswith(".Dense")] == ["2_Dense"]
    config, pooler = read(converted / format, "2_Dense/config.json"), stored(converted / format)
    with safe_open(converted / format / "2_Dense" / "model.safetensors", "pt") as file:
        assert {*file.keys()} == {"linear.weight", "linear.bias"}
        assert file.get_tensor("linear.weight").shape == (config["out_features"], config["in_features"])
        assert torch.equal(file.get_tensor("linear.weight"), pooler["bert.pooler.dense.weight"])
        assert torch.equal(file.get_tensor("linear.bias"), pooler["bert.pooler.dense.bias"])


def test_the_bert_format_has_its_model_type_and_the_names_under_which_it_looks_for_weights(converted):
    """bert.rs: embeddings and encoder, with or without the prefix `bert.`; LayerNorm by weight and bias."""
    config, names = read(converted / "bert", "config.json"), stored(converted / "bert").keys()
    assert config["model_type"] == "bert"
    parts = [f"bert.embeddings.{part}_embeddings.weight" for part in ("word", "position", "token_type")]
    dense = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    dense += ["intermediate.dense", "output.dense", "attention.output.LayerNorm", "output.LayerNorm"]
    layers = [f"bert.encoder.layer.{number}" for number in range(config["num_hidden_layers"])]
    parts += [f"{layer}.{part}.{kind}" for layer in layers for part in dense for kind in ("weight", "bias")]
    parts += [f"bert.embeddings.LayerNorm.{kind}" for kind in ("weight", "bias")]
    assert {*parts} <= names
    ours = {f"bert.{name}" for name, _ in BertModel.from_pretrained(converted / "bert").named_parameters()}
    assert {name for name in ours if ".pooler." not in name} == {*parts}, "premise: nothing is missing here"
