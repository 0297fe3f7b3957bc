"""Inputs of public reports whose cause is not the pooler: each is answered with its cause and the next step."""

import shutil

import pytest
import torch
from bert_pooled_mlm import ConversionError, convert
from checkpoints import POOLER, edit_json, save_donor, save_lost, save_weights, stored
from grafting import LINEAGE, QUERY, name_it, refused


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float32, torch.nan), (torch.float16, torch.inf), (torch.bfloat16, -torch.inf), (torch.float64, torch.nan)],
)
def test_weights_that_are_not_finite_are_named(value, dtype, place):
    tensors = stored(place / "checkpoint")
    tensors[QUERY][3, 5] = value
    save_weights(place / "checkpoint", {name: it.to(dtype) for name, it in tensors.items()})
    text = refused(place, "NaN or infinity")
    assert QUERY in text
    assert "force-donor" not in text


@pytest.mark.parametrize("resized", ["embeddings", "decoder and embeddings", "config alone"])
def test_a_vocabulary_that_was_resized_in_part_names_each_size(resized, place):
    tensors = stored(place / "checkpoint")
    words = tensors["bert.embeddings.word_embeddings.weight"]
    if resized != "config alone":
        tensors["bert.embeddings.word_embeddings.weight"] = torch.cat([words, words[:8]])
    if resized == "decoder and embeddings":
        tensors["cls.predictions.decoder.weight"] = torch.cat([words, words[:8]])
    save_weights(place / "checkpoint", tensors)
    edit_json(place / "checkpoint" / "config.json", vocab_size=136)
    text = refused(place, "resized in part")
    assert "136" in text
    assert "cls.predictions.bias has 128" in text
    assert "resize_token_embeddings" in text


def test_a_donor_that_is_deeper_is_compared_in_the_layer_that_corresponds(place, tmp_path):
    """The first layers of a deeper model, then MLM: the pooler was trained for another layer's output."""
    deep = save_donor(tmp_path / "deep", num_hidden_layers=4)
    lost = save_lost(tmp_path / "deep-lost", deep)
    names = {name: it for name, it in stored(lost).items() if ".layer.2." not in name and ".layer.3." not in name}
    save_weights(lost, names)
    edit_json(lost / "config.json", "_name_or_path", num_hidden_layers=2)
    with pytest.raises(ConversionError, match="4 layers, the checkpoint 2") as error:
        convert(lost, tmp_path / "out", pooler_from=deep, verify=False)
    assert "related" in error.value.reason
    assert "layer.1." in error.value.reason
    report = convert(lost, tmp_path / "out", pooler_from=deep, verify=False, force_donor=True)
    assert report.lineage_cosine > 0.9


def test_one_matrix_in_common_does_not_make_a_local_donor(place, stranger):
    """All of the others are at hand, so they are compared as well."""
    save_weights(stranger, stored(stranger) | {LINEAGE: stored(place / "checkpoint")[LINEAGE]})
    text = refused(place, "not related", pooler_from=stranger)
    assert "layer.0.attention.self.query" in text


def test_pruned_heads_are_stated(place):
    edit_json(place / "checkpoint" / "config.json", pruned_heads={"0": [1]})
    refused(place, r"pruned.*'0': \[1\]")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("bert.encoder.layer.0.attention.self.Wqkv.weight", "Wqkv"),
        ("encoderLayer.0.multiHeadAttention.q.weight", "bert4torch"),
    ],
)
def test_names_of_another_framework_are_recognised(name, what, place):
    save_weights(place / "checkpoint", stored(place / "checkpoint") | {name: torch.ones(2, 2)})
    refused(place, what)
    refused(place, what, format="encoder")


@pytest.mark.parametrize("format", ["pooled", "bert", "encoder"])
def test_simcses_mlp_is_kept_as_the_pooler_that_it_is(format, checkpoint, donor, tmp_path):
    mlp = {name: stored(donor)[name] + 1 for name in POOLER}
    tensors = {name.replace("cls.predictions.", "lm_head."): it for name, it in stored(checkpoint).items()}
    tensors |= {name.replace("bert.pooler.", "mlp."): it for name, it in mlp.items()}
    save_weights(checkpoint, tensors)
    report = convert(checkpoint, tmp_path / "out", format=format, verify=False)
    assert report.donor is None
    assert any("mlp.dense" in remark for remark in report.remarks)
    written = stored(tmp_path / "out")
    for name in POOLER:
        assert torch.equal(written[name if format != "encoder" else name.removeprefix("bert.")], mlp[name])


@pytest.mark.parametrize("named", ["argument", "_name_or_path"])
@pytest.mark.parametrize(
    "donor_id",
    ["dccuchile/bert-base-spanish-wwm-cased", "uer/chinese_roberta_L-2_H-128", "ckiplab/bert-base-chinese-ws"],
)
def test_a_donor_that_never_had_a_pooler_gets_an_answer_of_its_own(named, donor_id, place, asked):
    if named == "argument":
        refused(place, "published without a pooler", pooler_from=donor_id)
    else:
        name_it(place / "checkpoint", named, donor_id)
        refused(place, "published without a pooler", pooler_from=None)
    assert donor_id not in asked


def test_a_folder_of_the_same_name_is_no_published_model(checkpoint, donor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(donor, tmp_path / "dccuchile" / "bert-base-spanish-wwm-cased")
    convert(checkpoint, tmp_path / "out", pooler_from="dccuchile/bert-base-spanish-wwm-cased", verify=False)
