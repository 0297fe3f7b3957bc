"""How the converter checks that a donor is the right one, and rejects the wrong ones."""

import re
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import ConversionError
from checkpoints import SHAPE, save_donor, save_lost, save_weights, stored, took
from grafting import BIAS, COMMIT, LINEAGE, WEIGHT, config_of, graft, moved, name_it, refused, without
from transformers import BertForMaskedLM


def cosine(one: Path, other: Path) -> float:
    """Of the lineage tensors."""
    return torch.cosine_similarity(*(stored(it)[LINEAGE].double().flatten() for it in (one, other)), dim=0).item()


@pytest.mark.parametrize("drift", [0.0, 0.0001, 0.001, 0.01])
def test_the_lineage_is_the_cosine_of_the_last_layers(drift, donor, tmp_path):
    checkpoint = save_lost(tmp_path / "checkpoint", donor, drift=drift)
    report, expected = graft(checkpoint, donor), cosine(checkpoint, donor)
    assert report.lineage_cosine == pytest.approx(expected, abs=1e-6)  # it is rounded to six decimals
    assert expected == pytest.approx(1.0 if drift == 0.0 else (1 + (drift / 0.028) ** 2) ** -0.5, abs=0.01)
    assert f"lineage      cosine {report.lineage_cosine:.6f}" in str(report)


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ({"num_hidden_layers": 1}, "its encoder is not related"),
        ({"num_hidden_layers": 3}, "its encoder is not related"),
        ({"hidden_size": 64}, "giver: hidden_size is 64, the checkpoint's is 32"),
    ],
    ids=str,
)
def test_an_unrelated_donor_of_another_shape_is_rejected(shape, match, place, tmp_path):
    refused(place, match, pooler_from=save_donor(tmp_path / "giver", seed=9, **shape))


@pytest.mark.parametrize("how", ["--pooler-from", "_name_or_path", "the table"])
def test_an_unrelated_donor_is_rejected(how, place, stranger, table):
    similarity = cosine(place / "checkpoint", stranger)
    assert abs(similarity) < 0.1, "premise: unrelated encoders are orthogonal"
    if how == "_name_or_path":
        name_it(place / "checkpoint", how, str(stranger))
    elif how == "the table":
        table({"user/stranger": stranger})
    text = rf"stranger: its encoder is not related to the checkpoint's \(cosine {similarity:.3f} of {LINEAGE}"
    refused(place, text, pooler_from=stranger if how == "--pooler-from" else None)


def test_of_several_names_the_one_that_fits_is_taken(checkpoint, donor, stranger, out):
    name_it(checkpoint, "base_model", [str(stranger), str(donor)])
    report = graft(checkpoint)
    assert took(out, donor)
    (note,) = report.notes
    assert note.startswith(f"{stranger}: its encoder is not related")
    assert f"not taken    {note}" in str(report)


def test_force_takes_a_donor_for_all_its_reasons_and_the_output_states_them(place, stranger):
    save_weights(stranger, stored(stranger) | {BIAS: torch.zeros(SHAPE["hidden_size"])})
    refused(place, "not related.*; and its pooler was never trained.*--force-donor", pooler_from=stranger)
    report = graft(place / "checkpoint", stranger, force_donor=True)
    assert took(place / "out", stranger)
    assert len(report.forced) == 2
    assert config_of(place / "out")["pooler_source"]["forced"] == report.forced
    for reason in report.forced:
        assert f"- taken by --force-donor although {reason[:20]}" in (place / "out" / "README.md").read_text()
        assert f"forced       {reason}" in str(report)


# --- Several that fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_closest_of_several_wins(order, checkpoint, donor, out, tmp_path, table):
    """A family: models that were trained from one another are all related to the checkpoint."""
    family = [("user/near", donor)]
    family += [(f"user/{drift}", moved(donor, tmp_path / f"{drift}", drift, seed=7)) for drift in (0.005, 0.01)]
    table(dict(family[number] for number in order))
    assert graft(checkpoint).donor == "user/near"
    assert took(out, donor)


def test_a_tie_of_different_poolers_is_an_error(place, donor, stranger, tmp_path, table):
    twin = moved(donor, tmp_path / "twin", 0.0, seed=7, pooler=11)
    table({"user/one": donor, "user/two": twin, "user/three": stranger})
    text = refused(place, "several donors with different poolers", pooler_from=None)
    assert all(name in text for name in ("user/one", "user/two", COMMIT[:7], "--pooler-from"))
    assert "user/three" not in text
    assert graft(place / "checkpoint", "user/two").donor == "user/two", "the remedy works"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_of_a_donor_is_no_tie_and_the_finer_one_is_taken(dtype, checkpoint, donor, giver, table):
    save_weights(checkpoint, without("pooler", "seq_relationship")(stored(donor)))  # as close to both
    save_weights(giver, {name: tensor.to(dtype) for name, tensor in stored(giver).items()})
    table({"user/copy": giver, "user/one": donor})
    assert graft(checkpoint).donor == ("user/copy" if dtype == torch.float32 else "user/one")


# --- A pooler of no use ----------------------------------------------------------------------------------------------


def test_the_real_minilm_is_no_donor(minilm, tmp_path):
    """all-MiniLM-L6-v2, a popular model: its encoder is the checkpoint's own, its pooler was never trained."""
    BertForMaskedLM.from_pretrained(minilm).save_pretrained(tmp_path / "checkpoint")
    assert (minilm / "modules.json").is_file(), "premise: sentence-transformers' modules are next to it"
    with pytest.raises(ConversionError, match="its pooler was never trained") as caught:
        graft(tmp_path / "checkpoint", minilm)
    assert "not related" not in str(caught.value), "the lineage is perfect"


DONORS = {
    "no pooler": (without("pooler"), f"has no {WEIGHT}"),
    "no bias": (without(BIAS), f"has no {BIAS}"),
    "no layer": (without("layer.1."), f"has no {LINEAGE}"),
    "another shape": (lambda t: {WEIGHT: torch.ones(32, 31)}, r"weight is float32 \[32, 31\], expected a floating"),
    "whole numbers": (lambda t: {BIAS: torch.ones(32).long()}, r"bias is int64 \[32\], expected a floating \[32\]"),
    "stored twice": (lambda t: {f"module.{BIAS}": t[BIAS].clone()}, f"{BIAS} is stored twice"),
    "not a number": (lambda t: {BIAS: t[BIAS] * torch.nan}, "not finite"),
    "infinite": (lambda t: {WEIGHT: t[WEIGHT] / 0}, "not finite"),
    "unrelated": (lambda t: {LINEAGE: t[LINEAGE].flip(0)}, "not related .*expected at least 0.5.*--force-donor"),
    "without direction": (lambda t: {LINEAGE: t[LINEAGE] * 0}, r"not related to the checkpoint's \(cosine 0.000"),
    "a lineage of no number": (lambda t: {LINEAGE: t[LINEAGE] * torch.nan}, "NaN or infinity"),
    "never trained": (lambda t: {BIAS: torch.zeros(32)}, "its pooler was never trained"),
    "rank one": (lambda t: {WEIGHT: torch.ones(32, 32)}, "its pooler's weight is 1 everywhere"),
}


@pytest.mark.filterwarnings("error")  # a lineage of no number must not warn either
@pytest.mark.parametrize("damage", DONORS)
def test_a_donor_whose_pooler_is_of_no_use_is_rejected(damage, place):
    change, match = DONORS[damage]
    tensors = stored(place / "donor")
    save_weights(place / "donor", change(tensors) if damage.startswith("no ") else tensors | change(tensors))
    refused(place, match)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.float16, 65520.0),
        (torch.bfloat16, 3.4e38),
        *((dtype, value) for dtype in (torch.float64, torch.bfloat16) for value in (torch.inf, torch.nan)),
        (torch.bfloat16, torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)),  # rounded up, it is a zero
    ],
)
def test_a_value_that_is_not_finite_as_it_would_be_stored_is_rejected(dtype, value, place):
    save_weights(place / "checkpoint", {name: t.to(dtype) for name, t in stored(place / "checkpoint").items()})
    tensors = stored(place / "donor")
    tensors[BIAS][3] = value
    save_weights(place / "donor", tensors)
    refused(place, rf"not finite as {re.escape(str(dtype).removeprefix('torch.'))}")
