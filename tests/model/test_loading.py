"""As a user loads: a fresh process in another folder, where the code comes out of the checkpoint itself."""

import json
import shutil

import pytest
import torch
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, BertPooledMLMModel
from bert_pooled_mlm.configuration_bert_pooled_mlm import AUTO_MAP
from checkpoints import CODE_FILES, POOLER, ROOT, batch, clone, make_donor, save_tokenizer, todays
from programs import answer
from safetensors.torch import load_file
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForMaskedLM,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
    pipeline,
)

pytestmark = pytest.mark.versions

FAMILY = {cls.__name__: cls for cls in (BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification)}
CLASS_OF = {auto: target.split(".")[1] for auto, target in AUTO_MAP.items() if auto != "AutoConfig"}
AUTOS = ("AutoModel", "AutoModelForPreTraining", "AutoModelForSequenceClassification")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A folder for each class of the family, saved by the package, with the weights of one seeded donor."""
    parent = tmp_path_factory.mktemp("first")
    make_donor().save_pretrained(parent / "donor")
    for name, cls in FAMILY.items():
        save_tokenizer(parent / "saved" / name)
        torch.manual_seed(0)
        cls.from_pretrained(parent / "donor").save_pretrained(parent / "saved" / name)
    return parent / "saved"


@pytest.fixture(scope="module")
def again(first, tmp_path_factory):
    """Those folders loaded as remote code through every Auto class and saved again; then the originals are gone."""
    parent = tmp_path_factory.mktemp("again")
    originals = parent / "originals"
    shutil.copytree(first, originals)
    assert (
        answer("loading_save_again", tmp_path_factory.mktemp("elsewhere"), originals, parent / "saved", *AUTOS)
        is False
    )
    shutil.rmtree(originals)
    return parent / "saved"


@pytest.fixture(scope="module")
def without_pooler(first, tmp_path_factory):
    """A pooled folder, code and config in place, after a stock class has saved its weights over it."""
    folder = tmp_path_factory.mktemp("first") / "without-pooler"
    shutil.copytree(first / "BertPooledMLMForMaskedLM", folder)
    config = (folder / "config.json").read_bytes()
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    (folder / "config.json").write_bytes(config)
    return folder


@pytest.fixture(scope="module")
def answers(again, without_pooler, tmp_path_factory):
    """What another fresh process, with an empty module cache, sees in them."""
    return answer("loading_remote", tmp_path_factory.mktemp("elsewhere"), again, without_pooler, *AUTOS)


each_source = pytest.mark.parametrize("source", FAMILY)
each_auto = pytest.mark.parametrize("auto", AUTOS)


def saved_config(folder) -> dict:
    """Of a folder that holds the code; its `auto_map` is the canonical one."""
    for name in CODE_FILES:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["auto_map"] == AUTO_MAP
    return config


@each_source
def test_a_saved_folder_holds_the_code_and_a_canonical_auto_map_also_saved_again_by_remote_code(source, first, again):
    assert saved_config(first / source)
    for auto in AUTOS:
        assert saved_config(again / source / auto)["architectures"] == [CLASS_OF[auto]]


@each_source
@each_auto
def test_with_the_originals_gone_it_loads_through_every_auto_class(source, auto, answers):
    has_classifier = "SequenceClassification" in CLASS_OF[auto]
    # A classifier has no MLM head to save, and a head once gone comes back only as the new one of a ForMaskedLM.
    has_head = CLASS_OF[auto] == "BertPooledMLMForMaskedLM" or (
        auto == "AutoModel" and source != "BertPooledMLMForSequenceClassification"
    )
    for other, loads in answers["loads"][f"{source}/{auto}"].items():
        assert loads[0]["pooler_output"] == loads[1]["pooler_output"]
        for load in loads:
            assert (load["class"], load["config"]) == (CLASS_OF[other], "BertPooledMLMConfig")
            assert load["module"].startswith("transformers_modules.")
            if CLASS_OF[other] == "BertPooledMLMForSequenceClassification":
                assert bool(load["missing"]) is not has_classifier
                assert all(name.startswith("classifier.") for name in load["missing"])
                assert not load["unexpected"]
            else:
                assert bool(load["missing"]) is not has_head
                assert all(name.startswith("cls.predictions.") for name in load["missing"])
                assert all(name.startswith("classifier.") for name in load["unexpected"])
            if other == "AutoModel" and not has_head:
                assert "logits" not in load["outputs"]
    assert answers["package"] is False, "premise: the installed package had no part in it"


def test_the_pooler_of_every_folder_and_of_every_load_is_the_donors(answers, again):
    loads = [load for folder in answers["loads"].values() for twice in folder.values() for load in twice]
    assert len(loads) == len(FAMILY) * len(AUTOS) ** 2 * 2
    assert len({load["pooler"] for load in loads}) == 1
    donor = make_donor().state_dict()
    for folder in again.glob("*/*"):
        saved = load_file(folder / "model.safetensors")
        assert all(torch.equal(saved[name], donor[name]) for name in POOLER)


def test_tokenizer_config_and_pipelines_load_beside_it_and_nothing_without_trust(answers, without_pooler):
    assert answers["tokens"] == [2, 12, 5, 1, 3]  # [CLS] word7 word0 [UNK] [SEP]
    assert answers["from_config"] == "BertPooledMLMForMaskedLM", "of a config that was saved alone"
    assert answers["frozen"] == [*POOLER]
    assert answers["every Auto class"] == CLASS_OF
    assert answers["pipelines"].pop("text-classification") < 1e-6, "the probabilities of the model"
    for how in ("folder alone", "with tokenizer"):
        assert answers["pipelines"][f"fill-mask, {how}"] == 5
        assert answers["pipelines"][f"feature-extraction, {how}"] == [1, 4, 32]
    assert {*answers["cached"]} == {*CODE_FILES}, "it runs from transformers' module cache"
    assert f"`python convert.py {without_pooler}`" in answers["lost"]
    assert "trust_remote_code" in answers["without trust"]


# Import 1: the package. (Its Auto classes, in every order of imports: with the package.)


def test_the_pipelines_give_what_they_give_with_stock_bert(pooled):
    tokenizer, text = AutoTokenizer.from_pretrained(pooled), "word3 [MASK] word5"
    for task, stock in (("fill-mask", BertForMaskedLM), ("feature-extraction", BertModel)):
        models = (str(pooled), stock.from_pretrained(pooled))
        ours, theirs = (pipeline(task, model=model, tokenizer=tokenizer)(text) for model in models)
        assert len(ours) == (5 if task == "fill-mask" else 1)
        assert ours == theirs


# Import 2: a checkout's root, nothing installed. People clone into a folder named after the repository.


def test_the_model_file_imports_plainly_from_a_checkout_and_saves_whole_folders(donor, tmp_path):
    seen = answer("loading_checkout", tmp_path, clone(tmp_path), donor, tmp_path / "saved")
    assert seen == {"pooler": make_donor().bert.pooler.dense.bias.tolist(), "config": True, "package": False}
    assert saved_config(tmp_path / "saved")


# Stock classes read a pooled folder; they only pass over what they have no place for.


# Of each: what it passes over, and what is new.
STOCK = {
    "BertModel": ("cls.", None),
    "BertForMaskedLM": ("bert.pooler.", None),
    "BertForPreTraining": (None, "cls.seq_relationship"),
    "BertForNextSentencePrediction": ("cls.", "cls.seq_relationship"),
    "BertForSequenceClassification": ("cls.", "classifier"),
    "BertForTokenClassification": (("cls.", "bert.pooler."), "classifier"),
    "BertForQuestionAnswering": (("cls.", "bert.pooler."), "qa_outputs"),
}


@pytest.mark.parametrize("name", STOCK)
def test_a_stock_class_finds_all_of_its_own_in_a_pooled_folder(name, pooled):
    passed_over, new = STOCK[name]
    _, info = getattr(transformers, name).from_pretrained(pooled, output_loading_info=True)
    assert {*info["unexpected_keys"]} == {it for it in todays(pooled) if passed_over and it.startswith(passed_over)}
    assert {*info["missing_keys"]} == ({f"{new}.weight", f"{new}.bias"} if new else set())
    assert not info["mismatched_keys"]


def test_stock_bert_model_gives_the_same_pooler_output_from_a_pooled_folder(pooled):
    ours = BertPooledMLMModel.from_pretrained(pooled)(**batch())
    stock = BertModel.from_pretrained(pooled).eval()(**batch())
    # One file: the same weights at the same alignment.
    assert torch.equal(ours.pooler_output, stock.pooler_output)


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 ties in another way")
def test_a_decoder_that_transformers_did_not_tie_is_tied(first, monkeypatch):
    """Of loads in two threads at a time, the later one leaves tying off for the rest of the process."""
    expected = BertPooledMLMForMaskedLM.from_pretrained(first / "BertPooledMLMForMaskedLM").eval()(**batch()).logits
    monkeypatch.setattr(PreTrainedModel, "tie_weights", lambda self, *args, **kwargs: None)
    for cls in (BertPooledMLMForMaskedLM, BertPooledMLMModel):
        model = cls.from_pretrained(first / "BertPooledMLMForMaskedLM").eval()
        assert torch.equal(model(**batch()).logits, expected)
        assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_a_stock_head_saved_from_a_pooled_folder_opens_by_its_auto_class(pooled, tmp_path):
    """It has our auto_map without our code, which trust_remote_code=True would look for."""
    BertForTokenClassification.from_pretrained(pooled).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["model_type"] == "bert"
    again, info = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert (type(again), any(info.values())) == (BertForTokenClassification, False)
