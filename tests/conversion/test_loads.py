"""Heads and poolers of inputs and donors that are not the usual ones: what is written of them, and what is noted."""

import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import ConversionError
from checkpoints import FORMATS, POOLER, edit_json, save_weights, stored, todays
from grafting import config_of, graft_beside
from programs import answer

WEIGHT, BIAS = POOLER
DECODER = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
MLM_BIAS = "cls.predictions.bias"


def error_of(checkpoint: Path, donor: Path | None = None, **options) -> str:
    with pytest.raises(ConversionError) as caught:
        graft_beside(checkpoint, donor, **options)
    return str(caught.value)


def change(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Sets tensors in a folder, and removes those that are None."""
    found = todays(folder) | tensors
    save_weights(folder, {name: tensor for name, tensor in found.items() if tensor is not None})
    return folder


# --- Heads -----------------------------------------------------------------------------------------------------------

LOGITS = """
import json, sys, torch
from transformers import AutoModelForMaskedLM
found = []
for folder in sys.argv[1:]:
    model, info = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    with torch.no_grad():
        logits = model.eval()(torch.arange(16)[None]).logits
    found.append([sorted(info["missing_keys"]), logits.flatten().tolist()])
print(json.dumps(found))
"""


@pytest.mark.versions
@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("stored_under", [[MLM_BIAS], [DECODER[1]], [MLM_BIAS, DECODER[1]]], ids=["4.x", "one", "5.x"])
def test_an_untied_head_has_its_bias_on_every_version(stored_under, checkpoint, donor, tmp_path):
    """4.x stores one; 5.x two, of which it adds `decoder.bias`, and starts that anew where it is not stored."""
    generator = torch.Generator().manual_seed(5)
    weight, bias = torch.randn(128, 32, generator=generator), torch.randn(128, generator=generator)
    unmoved = torch.zeros(128) if len(stored_under) == 2 else bias  # 5.x trains the one that it adds
    biases = {MLM_BIAS: unmoved, DECODER[1]: bias}
    biases = {name: it if name in stored_under else None for name, it in biases.items()}
    change(checkpoint, **{DECODER[0]: weight}, **biases)
    edit_json(checkpoint / "config.json", tie_word_embeddings=False)
    reports = [graft_beside(checkpoint, donor, format, verify=format == "bert") for format in FORMATS]
    for report in reports:
        written = stored(Path(report.output))
        assert torch.equal(written[DECODER[0]], weight)
        assert torch.equal(written[DECODER[1]], bias)
        assert torch.equal(written[MLM_BIAS], bias)
        assert (MLM_BIAS in report.dropped) == (len(stored_under) == 2)
    tied = change(
        Path(shutil.copytree(checkpoint, tmp_path / "reference")), **{MLM_BIAS: bias, DECODER[1]: bias.clone()}
    )
    one, other, expected = answer(LOGITS, tmp_path, *(report.output for report in reports), tied)
    assert one[0] == other[0] == []
    # The classes of the two formats compute the same; a float32 product in another order differs in its last bits.
    assert torch.allclose(torch.tensor([one[1], other[1]]), torch.tensor([expected[1]] * 2), atol=1e-5)
    assert not torch.allclose(torch.tensor(one[1]), torch.tensor(one[1]) - bias.repeat(16), atol=1e-2), "premise"


# --- Poolers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["pooled", "lost", "converted before"])
def test_a_pooler_that_was_never_trained_is_not_taken_for_pooled(whose, pooled, checkpoint, donor, rescues, tmp_path):
    """As `allow_missing_pooler=True` leaves it, or a save of stock classes: the bias is exactly zero."""
    folder = Path(shutil.copytree(pooled, tmp_path / "own")) if whose == "pooled" else checkpoint
    change(folder, **{WEIGHT: torch.randn(32, 32) * 0.02, BIAS: torch.zeros(32)})
    if whose == "converted before":
        edit_json(folder / "config.json", pooler_source=config_of(rescues["bert"].output)["pooler_source"])
    text = error_of(folder, donor)
    assert "never trained" in text
    assert "--replace-pooler" in text
    report = graft_beside(folder, donor, replace_pooler=True)
    assert torch.equal(stored(Path(report.output))[WEIGHT], stored(donor)[WEIGHT])


# --- Donors ----------------------------------------------------------------------------------------------------------


FINE_TUNED = {"classifier.weight": torch.ones(3, 32), "classifier.bias": torch.ones(3)}


@pytest.mark.parametrize(
    ("fields", "tensors", "words"),
    [
        ({}, FINE_TUNED, ["classifier."]),
        ({"num_attention_heads": 2}, {}, ["num_attention_heads 2", "4"]),
        ({"hidden_act": "relu"}, {}, ["hidden_act 'relu'", "'gelu'"]),
        ({"layer_norm_eps": 1e-5}, {}, ["layer_norm_eps 1e-05", "1e-12"]),
    ],
    ids=str,
)
def test_a_donor_of_another_make_is_taken_with_a_note(fields, tensors, words, checkpoint, giver):
    edit_json(giver / "config.json", **fields)
    save_weights(giver, stored(giver) | tensors)
    report = graft_beside(checkpoint, giver)
    (remark,) = report.to_dict()["remarks"]
    assert all(word in remark for word in words)
    assert remark in str(report)


def test_a_donor_with_fewer_layers_is_taken_with_a_note(checkpoint, giver):
    """The last of its layers is the checkpoint's last: one that was made by leaving layers out."""
    tensors = todays(giver)
    last = {name.replace("layer.1.", "layer.0."): it for name, it in tensors.items() if "layer.1." in name}
    save_weights(giver, {name: it for name, it in tensors.items() if "layer." not in name} | last)
    edit_json(giver / "config.json", num_hidden_layers=1)
    (remark,) = graft_beside(checkpoint, giver).remarks
    assert "num_hidden_layers 1" in remark


def test_what_float16_loses_of_a_pooler_is_said(checkpoint, giver):
    save_weights(checkpoint, {name: it.half() for name, it in stored(checkpoint).items()})
    weight = stored(giver)[WEIGHT].clone()
    weight[:16] = 1e-9  # half of it, below float16's smallest value
    change(giver, **{WEIGHT: weight})
    (remark,) = graft_beside(checkpoint, giver).remarks
    assert f"50% of {WEIGHT}" in remark
