"""text-embeddings-inference: what its source reads, stated as data, and compared with the files that are written.

The server is a Rust program that is not run here. From https://github.com/huggingface/text-embeddings-inference, read
in 2026: a field without a default that is missing, or of another type, ends its start ("Model is not supported"),
except in modules.json, where it goes on without the Dense module, and so without the pooler.
"""

import json

import pytest
from checkpoints import FORMATS, assert_modules

pytestmark = pytest.mark.versions

COUNTS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size", "pad_token_id",
)  # fmt: skip
# File -> {field: its value, or its type}.
READ = {
    # router/src/lib.rs, ModelConfig; backends/candle/src/models/bert.rs, BertConfig
    "config.json": {
        **dict.fromkeys(COUNTS, int),
        **dict.fromkeys(("hidden_dropout_prob", "initializer_range", "layer_norm_eps"), float),
        "model_type": str,
        "hidden_act": "gelu",  # or relu: backends/candle/src/layers/linear.rs, HiddenAct
        "position_embedding_type": "absolute",
    },
    "sentence_bert_config.json": {"max_seq_length": int},  # router/src/lib.rs, STConfig
    "1_Pooling/config.json": {  # router/src/lib.rs, PoolConfig
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": bool,
        "pooling_mode_max_tokens": bool,
        "pooling_mode_mean_sqrt_len_tokens": bool,
    },
    "2_Dense/config.json": {  # backends/candle/src/models/dense.rs, DenseConfig
        "in_features": int,
        "out_features": int,
        "bias": True,
        # The only activation that it knows besides Identity, by this very name.
        "activation_function": "torch.nn.modules.activation.Tanh",
    },
}
# backends/src/lib.rs, ModuleConfig: all four fields, and no type but these.
MODULE = {"idx": int, "name": str, "path": str, "type": str}
TYPES = {f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense", "Normalize")}


def unfit(fields: dict, found: dict) -> dict:
    return {name: found.get(name) for name, it in fields.items() if it not in (found.get(name), type(found.get(name)))}


@pytest.mark.parametrize("format", FORMATS)
def test_every_field_that_it_reads_is_there_with_its_type(format, converted):
    for file, fields in READ.items():
        assert unfit(fields, json.loads((converted / format / file).read_text("utf-8"))) == {}, file
    config = json.loads((converted / format / "config.json").read_text("utf-8"))
    assert not [name for name in config["architectures"] if name.endswith("Classification")], (
        "it would be a classifier"
    )


@pytest.mark.parametrize("format", FORMATS)
def test_it_finds_the_dense_module_whose_weights_are_the_pooler(format, converted):
    modules = json.loads((converted / format / "modules.json").read_text("utf-8"))
    assert all(not unfit(MODULE, module) and module["type"] in TYPES for module in modules)
    assert [module["path"] for module in modules if module["type"].endswith(".Dense")] == ["2_Dense"]
    assert_modules(converted / format)
