"""sentence-transformers: what every class saves opens there, with the pooler as it is saved; fine-tuning there.

That a push uploads these files too is tested in test_published.py.
"""

import shutil
import stat

import bert_pooled_mlm
import pytest
import torch
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, convert
from checkpoints import (
    CODE_FILES,
    DENSE,
    FORMATS,
    MODULES,
    SHAPE,
    assert_modules,
    modules_of,
    save_tokenizer,
    stored,
)
from programs import answer
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.versions,
    # transformers 5.23 renames it to activation checkpointing; PEFT knows the old name only.
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
]
V4 = transformers.__version__.startswith("4.")
FAMILY = [name for name in bert_pooled_mlm.__all__ if "For" in name or name.endswith("MLMModel")]


def moved(model):
    with torch.no_grad():
        model.bert.pooler.dense.weight.add_(1)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_files_are_byte_for_byte_those_of_the_converter(dtype, donor, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor).to(dtype)
    model.save_pretrained(tmp_path / "ours")
    weights = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    save_tokenizer(tmp_path / "lost")
    stock = transformers.BertForMaskedLM(transformers.BertConfig(**SHAPE)).to(dtype)
    stock.load_state_dict(weights)
    stock.save_pretrained(tmp_path / "lost")
    model.save_pretrained(tmp_path / "donor")
    convert(tmp_path / "lost", tmp_path / "theirs", pooler_from=tmp_path / "donor", verify=False)
    assert modules_of(tmp_path / "ours").keys() == MODULES
    assert modules_of(tmp_path / "ours") == modules_of(tmp_path / "theirs")


@pytest.mark.parametrize("name", FAMILY)
def test_every_class_writes_them_with_the_usual_rights(name, donor, tmp_path):
    moved(getattr(bert_pooled_mlm, name).from_pretrained(donor)).save_pretrained(tmp_path)
    assert_modules(tmp_path)
    (tmp_path / "usual").touch()
    for file in MODULES:
        assert stat.S_IMODE((tmp_path / file).stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_they_follow_the_pooler_through_shards_a_state_dict_and_a_second_save(donor, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([*tmp_path.glob("model-*.safetensors")]) > 1, "premise"
    assert_modules(tmp_path)
    given = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "given", state_dict=dict(given))
    assert_modules(tmp_path / "given")
    assert torch.equal(stored(tmp_path / "given")[DENSE["linear.bias"]], given[DENSE["linear.bias"]]), "premise"
    moved(model).save_pretrained(tmp_path / "given")
    assert_modules(tmp_path / "given")


def test_only_the_main_process_writes_and_only_with_a_pooler(donor, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    model.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not modules_of(tmp_path / "other")
    weights = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    model.save_pretrained(tmp_path / "without", state_dict=weights)
    assert not modules_of(tmp_path / "without")


@pytest.mark.skipif(not V4, reason="transformers 5 writes safetensors alone")
def test_weights_in_a_pickle_have_them_too(donor, tmp_path):
    BertPooledMLMForMaskedLM.from_pretrained(donor).save_pretrained(tmp_path, safe_serialization=False)
    dense = load_file(tmp_path / "2_Dense" / "model.safetensors")
    pickled = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert all(torch.equal(dense[name], pickled[key]) for name, key in DENSE.items())


# sentence-transformers itself, in a fresh process (tests/children/sentence_transformers_client.py).


EQUAL = 1e-6  # the same weights out of another file: kernels round its alignment differently
WAYS = ("classifier", "lora merged")


def save_otherwise(pooled, folder):
    """A classifier and a merged adapter, each with a pooler that has moved."""
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = moved(BertPooledMLMForMaskedLM.from_pretrained(pooled))
    moved(BertPooledMLMForSequenceClassification.from_pretrained(pooled)).save_pretrained(folder / "classifier")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear", init_lora_weights=False))
    adapted.merge_and_unload().save_pretrained(folder / "lora merged")
    for way in WAYS:
        save_tokenizer(folder / way)


@pytest.fixture(scope="module")
def client(pooled, converted, tmp_path_factory):
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("client")
    shutil.copytree(pooled, source / "pooled")
    shutil.copytree(converted / "bert", source / "bert")
    save_otherwise(pooled, source / "saved otherwise")
    found, installed = answer("sentence_transformers_client", tmp_path_factory.mktemp("elsewhere"), source, out)
    assert installed is False
    return out, found


each_format = pytest.mark.parametrize("format", FORMATS)


@pytest.mark.parametrize("way", WAYS)
def test_however_a_folder_was_saved_encode_gives_pooler_output(way, client):
    difference, modules = client[1]["saved otherwise"][way]
    assert modules == ["Transformer", "Pooling", "Dense"]
    assert difference < EQUAL


@each_format
def test_encode_gives_pooler_output_runs_no_mlm_head_and_only_our_code_needs_trust(format, client):
    seen = client[1][format]
    assert seen["as saved"] < EQUAL
    assert seen["head called"] == 0
    if format == "pooled":
        assert "trust_remote_code" in seen["without trust"]
    else:
        assert seen["without trust"] == "SentenceTransformer"


@each_format
def test_what_it_saves_is_a_whole_model_whose_config_does_not_turn_the_logits_off(format, client):
    out, seen = client[0], client[1][format]
    assert seen["saved"] == [pytest.approx(0, abs=EQUAL), format == "pooled"]
    assert seen["config"].get("return_logits", True) is True
    if format == "pooled":
        assert all((out / "pooled-saved" / name).is_file() for name in CODE_FILES)


@each_format
def test_fine_tuned_there_the_pooler_differs_from_the_dense_until_that_is_copied(format, client):
    out, seen = client[0], client[1][format]
    assert seen["untied"] > 1e-3, "premise: the Dense moved, the pooler did not"
    assert seen["repaired"] < EQUAL
    if format == "pooled":  # saved by the model itself, it is a folder like any other of ours
        assert_modules(out / "ours")
        assert seen["ours"] == [pytest.approx(0, abs=EQUAL), True]
        assert seen["head called again"] == 0


@each_format
def test_tied_before_the_training_there_is_one_pooler_after_it(format, client):
    seen = client[1][format]
    assert seen["tied"] < EQUAL
    assert seen["tied again"] < EQUAL


@each_format
def test_a_structure_that_was_chosen_there_is_left_alone(format, client):
    seen = client[1][format]
    assert seen["mean"] == ["1_Pooling"]
    assert seen["mean again"] < EQUAL
