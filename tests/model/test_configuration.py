"""The configuration: its own fields, and the `auto_map` that makes each saved folder self-contained."""

import inspect
import json
import re

import bert_pooled_mlm
import pytest
from bert_pooled_mlm import BertPooledMLMConfig
from bert_pooled_mlm.configuration_bert_pooled_mlm import AUTO_MAP
from checkpoints import SHAPE, edit_json
from transformers import BertConfig, PretrainedConfig, PreTrainedModel

pytestmark = pytest.mark.versions

# Each field of our own, at a value that is not its default.
OWN_FIELDS = {
    "sparse_prediction": True,
    "return_logits": False,
    "pooler_loss_weight": 0.25,
    "pooler_source": {"name": "user/donor", "revision": "0" * 40, "sha256": {"weight": "a", "bias": "b"}},
    "head_source": {"name": "user/donor"},
    "keep_modules": True,
}


def test_every_own_field_is_tested():
    parameters = inspect.signature(BertPooledMLMConfig.__init__).parameters.values()
    assert {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD} - {"self"} == OWN_FIELDS.keys()


@pytest.mark.parametrize("field", OWN_FIELDS)
def test_an_own_field_survives_save_load_save_byte_for_byte(field, tmp_path):
    value = OWN_FIELDS[field]
    assert getattr(BertPooledMLMConfig(), field) != value, "premise: not the default"
    BertPooledMLMConfig(**{field: value}).save_pretrained(tmp_path / "first")
    loaded = BertPooledMLMConfig.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    assert getattr(loaded, field) == value
    assert (tmp_path / "second/config.json").read_bytes() == (tmp_path / "first/config.json").read_bytes()


def test_the_fields_of_bert_reach_bert(tmp_path):
    fields = {**SHAPE, "hidden_act": "relu", "layer_norm_eps": 1e-5, "type_vocab_size": 3, "num_labels": 5}
    BertPooledMLMConfig(**fields).save_pretrained(tmp_path)
    loaded, stock = BertPooledMLMConfig.from_pretrained(tmp_path), BertConfig(**fields)
    assert {field: getattr(loaded, field) for field in fields} == fields
    ours = {"architectures", "auto_map", "model_type", "tokenizer_class", "transformers_version", *OWN_FIELDS}
    # A folder's name and where the config came from are transformers' business (4.x).
    ours |= {"_name_or_path", "_attn_implementation_autoset"}
    assert {k: v for k, v in loaded.to_dict().items() if k not in ours} == {
        k: v for k, v in stock.to_dict().items() if k not in ours
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sparse_prediction", 1),
        ("return_logits", None),
        ("return_logits", "false"),
        ("pooler_loss_weight", -1),
        ("pooler_loss_weight", "0.1"),
        ("pooler_loss_weight", True),
        ("pooler_source", ["user/donor"]),
        ("head_source", "user/donor"),
        ("keep_modules", 1),
    ],
)
def test_a_bad_value_is_an_error_that_names_field_and_value(field, value, tmp_path):
    message = re.escape(f"{field}={value!r}: expected ")
    with pytest.raises(ValueError, match=message):
        BertPooledMLMConfig(**{field: value})
    BertPooledMLMConfig().save_pretrained(tmp_path)
    edit_json(tmp_path / "config.json", **{field: value})
    with pytest.raises(ValueError, match=message):
        BertPooledMLMConfig.from_pretrained(tmp_path)


def test_the_saved_auto_map_is_canonical_while_that_of_the_origin_stays_in_memory(tmp_path):
    origin = {auto: f"user/repo--{target}" for auto, target in AUTO_MAP.items()}
    config = BertPooledMLMConfig(auto_map=dict(origin))  # as transformers leaves it after a load from the Hub
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["auto_map"] == AUTO_MAP
    assert config.auto_map == origin
    assert BertPooledMLMConfig.from_dict(config.to_dict()).auto_map == origin


@pytest.mark.parametrize("fields", [{}, OWN_FIELDS, {"auto_map": {"AutoModel": "user/repo--module.Class"}}])
def test_a_config_in_a_bare_file_is_read_back_the_same(fields, tmp_path):
    config = BertPooledMLMConfig(**SHAPE, **fields)
    config.to_json_file(tmp_path / "bare.json")
    assert BertPooledMLMConfig.from_json_file(tmp_path / "bare.json").to_dict() == config.to_dict()


def test_every_class_of_the_family_has_its_auto_class_in_the_module_that_defines_it():
    public = (getattr(bert_pooled_mlm, name) for name in bert_pooled_mlm.__all__)
    loadable = {
        f"{value.__module__.rpartition('.')[2]}.{value.__name__}"
        for value in public
        if isinstance(value, type) and issubclass(value, (PreTrainedModel, PretrainedConfig))
    }
    assert {*AUTO_MAP.values()} == loadable
    assert len(loadable) == 8
