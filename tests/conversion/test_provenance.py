"""Where a pooler came from: what is recorded, what is kept, and what is not believed."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from bert_pooled_mlm import __version__
from bert_pooled_mlm.configuration_bert_pooled_mlm import AUTO_MAP
from bert_pooled_mlm.conversion.provenance import Fit, PoolerSource
from checkpoints import POOLER, contents, stored
from grafting import config_of


@pytest.mark.versions
def test_the_config_is_the_inputs_with_its_class_and_the_poolers_source(rescued, report, lost, donor):
    """No field of the input is lost, and the sha256 are those of the tensors in the file."""
    before, after = config_of(lost), config_of(rescued)
    source = after.pop("pooler_source")
    assert "tokenizer_class" not in before, "premise: only the model's type implies it"
    own = {
        "model_type": "bert_pooled_mlm",
        "auto_map": AUTO_MAP,
        "sparse_prediction": False,
        "return_logits": True,
        "pooler_loss_weight": 0.3,
        "tokenizer_class": "BertTokenizer",
    }
    pooled = rescued.name == "pooled"
    assert {name: after.get(name) for name in own} == (own if pooled else dict.fromkeys(own) | {"model_type": "bert"})
    assert after["architectures"] == ["BertPooledMLMForMaskedLM" if pooled else "BertForMaskedLM"]
    new = {"architectures", "_name_or_path", *own}
    kept = {name: value for name, value in before.items() if name not in new}
    kept |= {"position_embedding_type": "absolute"}
    assert {name: value for name, value in after.items() if name not in new} == kept
    tensors = stored(rescued)
    assert source == {
        "donor": donor.name,
        "revision": None,
        "sha256": {name: hashlib.sha256(tensors[name].numpy().tobytes()).hexdigest() for name in POOLER},
        "lineage_cosine": report.lineage_cosine,
        "version": __version__,
    }
    assert source["sha256"] == report.grafted


def test_the_fit_is_recorded_and_the_texts_are_not(fitted, texts):
    out = Path(fitted.output)
    recorded = config_of(out)["pooler_source"]
    assert recorded["sha256"] == fitted.grafted
    fit = recorded["calibration"]
    assert fit.keys() == {field.name for field in dataclasses.fields(Fit)}
    assert (fit["texts"], fit["held_out"]) == (300, 60)
    assert fit.items() <= fitted.calibration.items()
    card = (out / "README.md").read_text()
    assert f"sha256 `{fit['sha256']}`" in card
    assert f"{fit['cosine_before']:.4f} before, {fit['cosine_after']:.4f} after" in card
    neighbours = f"finds {fit['neighbours_kept_before']:.0%} -> {fit['neighbours_kept_after']:.0%} of the ten nearest"
    assert neighbours in card
    assert neighbours in str(fitted)
    lines = texts.read_text().splitlines()
    assert not any(line.encode() in content for content in contents(out).values() for line in lines)
    assert str(texts) not in card + json.dumps(recorded)


def test_a_fit_that_an_earlier_version_recorded_is_read_and_written_unchanged(fitted):
    source = config_of(Path(fitted.output))["pooler_source"]
    older = {name: source["calibration"][name] for name in ("texts", "held_out", "sha256", "penalty")}
    older |= {"cosine_before": 0.5, "cosine_after": 0.75}
    read = PoolerSource.from_config({**source, "calibration": older})
    assert read.to_config() == {**source, "calibration": older}
    assert "ten nearest" not in "".join(read.card_lines())
    for name in ("neighbours_kept_before", "penalty"):
        damaged = {**older, name: 0.5} if name not in older else {**older, name: "0.5"}
        assert PoolerSource.from_config({**source, "calibration": damaged}) is None
