"""How the converter finds a donor, proves that it is the right one, and refuses the wrong ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bert_pooled_mlm import ConversionError, conversion
from checkpoints import (
    SHAPE,
    contents,
    edit_json,
    make_donor,
    save_donor,
    save_lost,
    save_weights,
    state,
    stored,
    took,
)
from grafting import BIAS, COMMIT, LINEAGE, WEIGHT, config_of, graft, moved, name_it, refused, without
from transformers import BertForMaskedLM, BertForPreTraining

SHIPPED = conversion.known_donors.KNOWN_DONORS
CHINESE = "google-bert/bert-base-chinese"
GUESS = "the table of well-known BERTs"
PLACES = {
    "pooler_source": "config.json's pooler_source",
    "_name_or_path": "config.json's _name_or_path",
    "base_model": "README.md's base_model",
}


def lineage(folder: Path) -> torch.Tensor:
    return stored(folder)[LINEAGE].double().flatten()


# --- Finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", ["absolute", "relative", "~", "trailing slash"])
def test_a_named_folder_is_found(name, where, checkpoint, giver, donor, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    written = {"absolute": str(giver), "relative": "giver", "~": "~/giver", "trailing slash": "giver/"}
    name_it(checkpoint, where, written[name])
    report = graft(checkpoint)
    assert took(out, donor)
    assert (report.found_by, report.donor, report.donor_commit) == (PLACES[where], "giver", None)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    ("name", "shelved"),
    [
        ("somebody/model", "somebody/model"),
        (CHINESE, CHINESE),
        ("bert-base-chinese", CHINESE),
        ("bert-base-chinese", "bert-base-chinese"),  # its name on the Hub before organisations, and in older caches
        ("/data/models/bert-base-chinese", CHINESE),
        ("/data/models/bert-base-chinese/", CHINESE),
        ("./models/bert-base-chinese", CHINESE),
        ("../bert-base-chinese", "bert-base-chinese"),
        ("models/bert-base-chinese", CHINESE),  # a dead relative path looks like a Hub id
    ],
)
def test_a_named_model_of_the_hub_is_found(name, shelved, where, checkpoint, donor, out, shelve, table):
    table({CHINESE: None}, 21128, hidden_size=768)
    shelve(shelved, donor)
    name_it(checkpoint, where, name)
    report = graft(checkpoint)
    assert took(out, donor)
    assert (report.found_by, report.donor, report.donor_commit) == (PLACES[where], shelved, COMMIT)
    source = config_of(out)["pooler_source"]
    assert (source["donor"], source["revision"]) == (shelved, COMMIT)


def test_each_base_model_of_a_list_is_tried(checkpoint, donor, stranger, out, shelve):
    shelve("user/right", donor)
    shelve("user/wrong", stranger)
    name_it(checkpoint, "base_model", ["user/wrong", "user/right"])
    assert graft(checkpoint).donor == "user/right"
    assert took(out, donor)


def test_a_checkpoint_without_a_name_is_guessed_from_the_table(checkpoint, donor, out, table):
    table({"user/right": donor})
    report = graft(checkpoint)
    assert took(out, donor)
    assert (report.found_by, report.donor) == (GUESS, "user/right")


def test_what_the_user_says_comes_before_what_the_checkpoint_says(checkpoint, donor, out, tmp_path):
    close = moved(donor, tmp_path / "close", 1e-5, seed=4)
    name_it(checkpoint, "_name_or_path", str(close))
    assert graft(checkpoint, donor).found_by == "--pooler-from"
    assert took(out, donor)


def test_a_name_comes_before_the_table(checkpoint, lost, donor, giver, table):
    """Even where the table has a closer one: it is not asked."""
    save_weights(giver, stored(donor) | {name: t for name, t in stored(lost).items() if "encoder" in name})
    table({"user/guess": giver})
    name_it(checkpoint, "_name_or_path", str(donor))
    assert graft(checkpoint).found_by == PLACES["_name_or_path"]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_chain_of_checkpoints_that_lost_theirs_too_is_followed(length, lost, donor, checkpoint, out, tmp_path):
    """Each was trained from the one before it, and the first from the donor."""
    previous = donor
    for number in range(length):
        folder = Path(shutil.copytree(lost, tmp_path / f"run-{number}"))
        name_it(folder, "_name_or_path", str(previous))
        previous = folder
    name_it(checkpoint, "_name_or_path", str(previous))
    report = graft(checkpoint)
    assert took(out, donor)
    assert report.found_by == PLACES["_name_or_path"]
    notes = " ".join(report.notes)
    assert all(f"run-{number}" in notes for number in range(length))
    assert "no pooler: it lost its own; name the model before it" in notes


@pytest.mark.parametrize("own", [True, False], ids=["names itself", "names one that names it"])
def test_a_circle_of_names_ends(own, checkpoint, lost, tmp_path):
    other = Path(shutil.copytree(lost, tmp_path / "other"))
    name_it(checkpoint, "_name_or_path", str(checkpoint if own else other))
    name_it(other, "_name_or_path", str(checkpoint))
    with pytest.raises(ConversionError, match="no donor found for its pooler"):
        graft(checkpoint)


def test_a_donor_that_fits_needs_no_ancestor(checkpoint, donor, giver, out, asked):
    """Folders saved by transformers up to 4.48 name the model that they were loaded from; here it is out of reach."""
    name_it(giver, "_name_or_path", "google-bert/bert-base-uncased")
    name_it(checkpoint, "_name_or_path", str(giver))
    graft(checkpoint)
    assert took(out, donor)
    assert asked == []


def test_a_damaged_folder_in_the_chain_does_not_end_the_search(checkpoint, lost, donor, out, tmp_path):
    broken = Path(shutil.copytree(lost, tmp_path / "broken"))
    (broken / "config.json").write_text("{")
    name_it(checkpoint, "_name_or_path", str(broken))
    name_it(checkpoint, "base_model", str(donor))
    report = graft(checkpoint)
    assert took(out, donor)
    assert "not valid JSON" in report.notes[0]


@pytest.mark.parametrize(
    "name", ["~nosuchuser/x", "a" * 5000, "a\0b", "", "/", ".", "..", "https://huggingface.co/user/repo", 7, None, []]
)
def test_a_name_that_names_nothing_is_passed_over(name, checkpoint, donor, out, table):
    table({"user/right": donor})
    name_it(checkpoint, "_name_or_path", name)
    graft(checkpoint)
    assert took(out, donor)


def test_a_named_donor_out_of_reach_is_not_replaced_by_a_guess(checkpoint, donor, table):
    table({"user/guess": donor})
    name_it(checkpoint, "_name_or_path", "user/named")
    text = r"not in the local cache.*--pooler-from FOLDER. Not looked at: user/named$"
    with pytest.raises(ConversionError, match=text):
        graft(checkpoint)


# --- The table -------------------------------------------------------------------------------------------------------


def test_only_entries_that_fit_are_asked_for(checkpoint, table, asked):
    """The same shape, and a vocabulary that is the checkpoint's, or that it may have extended; the same one first."""
    table({"t/smaller": None}, 120)
    table({"t/same": None})
    table({"t/larger": None}, 129)
    table({"t/wide": None}, hidden_size=64)
    table({"t/deep": None}, num_hidden_layers=3)
    with pytest.raises(ConversionError, match="no donor found for its pooler"):
        graft(checkpoint)
    assert asked == ["t/same", "t/smaller"]


def test_an_extended_vocabulary_finds_the_model_that_it_extends(lost, donor, out, tmp_path, table):
    table({"user/right": donor})
    model = BertForMaskedLM.from_pretrained(lost)
    model.resize_token_embeddings(131)
    model.save_pretrained(tmp_path / "extended")
    edit_json(tmp_path / "extended" / "config.json", "_name_or_path")
    graft(tmp_path / "extended")
    assert took(out, donor)


def test_the_table_is_of_berts_that_published_configs_describe():
    assert len({entry.repo_id for entry in SHIPPED}) == len(SHIPPED)
    assert all(entry.repo_id.count("/") == 1 for entry in SHIPPED)
    sizes = {entry.repo_id: entry[1:4] for entry in SHIPPED}
    assert sizes["google-bert/bert-base-uncased"] == (30522, 768, 12)
    assert sizes["google-bert/bert-large-cased"] == (28996, 1024, 24)
    assert sizes["google-bert/bert-base-multilingual-cased"] == (119547, 768, 12)
    assert sizes[CHINESE] == sizes["hfl/chinese-roberta-wwm-ext"] == (21128, 768, 12)


def test_a_refusal_lists_every_candidate_with_its_reason(checkpoint, lost, stranger, table):
    table({"user/absent": None, "user/lost": lost, "user/stranger": stranger})
    with pytest.raises(ConversionError) as refusal:
        graft(checkpoint)
    text = str(refusal.value)
    assert text.startswith(f"{checkpoint}: no donor found for its pooler; name the model that its training started")
    assert "--pooler-from FOLDER_OR_HUB_ID. Not taken: " in text
    _, _, listed = text.partition("Not taken: ")
    reasons = dict(entry.split(": ", 1) for entry in listed.split(" | "))
    assert reasons.keys() == {"user/absent", "user/lost", "user/stranger"}
    assert "not in the local cache" in reasons["user/absent"]
    assert "it lost its own" in reasons["user/lost"]
    assert "not related" in reasons["user/stranger"]
    assert "\n" not in text


def test_no_donor_at_all_is_refused(place):
    refused(place, r"no donor found for its pooler; name the model.*--pooler-from FOLDER_OR_HUB_ID", pooler_from=None)


# --- Lineage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drift", [0.0, 0.0001, 0.001, 0.01])
def test_the_lineage_is_the_cosine_of_the_last_layers(drift, donor, tmp_path):
    checkpoint = save_lost(tmp_path / "checkpoint", donor, drift=drift)
    report = graft(checkpoint, donor)
    expected = torch.cosine_similarity(lineage(checkpoint), lineage(donor), dim=0).item()
    assert report.lineage_cosine == pytest.approx(expected, abs=1e-6)  # it is rounded to six decimals
    assert expected == pytest.approx(1.0 if drift == 0.0 else (1 + (drift / 0.028) ** 2) ** -0.5, abs=0.01)
    assert f"lineage      cosine {report.lineage_cosine:.6f} of the last layer" in str(report)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_lineage_is_measured_across_dtypes(dtype, checkpoint, giver):
    save_weights(giver, {name: tensor.to(dtype) for name, tensor in stored(giver).items()})
    assert graft(checkpoint, giver).lineage_cosine > 0.99


@pytest.mark.parametrize("how", ["--pooler-from", "_name_or_path", "the table"])
def test_an_unrelated_donor_is_refused(how, checkpoint, stranger, tmp_path, table):
    cosine = torch.cosine_similarity(lineage(checkpoint), lineage(stranger), dim=0).item()
    assert abs(cosine) < 0.1, "premise: unrelated encoders are orthogonal"
    if how == "_name_or_path":
        name_it(checkpoint, how, str(stranger))
    elif how == "the table":
        table({"user/stranger": stranger})
    before = state(tmp_path)
    text = rf"stranger.*its encoder is not related to the checkpoint's \(cosine {cosine:.3f} of bert.encoder.layer.1."
    with pytest.raises(ConversionError, match=text):
        graft(checkpoint, stranger if how == "--pooler-from" else None)
    assert state(tmp_path) == before


@pytest.mark.parametrize("layers", [1, 3])
def test_a_donor_of_another_depth_is_compared_by_its_own_last_layer(layers, checkpoint, tmp_path):
    """A pooler reads what the last layer gives: the same layer in the middle of a deeper encoder is not its match."""
    giver = save_donor(tmp_path / "giver", num_hidden_layers=layers)
    with pytest.raises(ConversionError, match=f"of bert.encoder.layer.{layers - 1}.attention.output.dense.weight"):
        graft(checkpoint, giver)


def test_a_named_donor_that_is_unrelated_gives_way_to_one_that_fits(checkpoint, donor, stranger, out, table):
    table({"user/right": donor})
    name_it(checkpoint, "_name_or_path", str(stranger))
    report = graft(checkpoint)
    assert took(out, donor)
    (note,) = report.notes
    assert note.startswith(f"{stranger}: its encoder is not related")
    assert f"not taken    {note}" in str(report)


def test_force_takes_an_unrelated_donor_and_the_card_says_so(checkpoint, stranger, out):
    report = graft(checkpoint, stranger, force_donor=True)
    assert took(out, stranger)
    (reason,) = report.forced
    assert "not related" in reason
    assert config_of(out)["pooler_source"]["forced"] == [reason]
    assert f"- taken by --force-donor although {reason}" in (out / "README.md").read_text("utf-8")
    assert f"forced       {reason}" in str(report)


def test_force_changes_nothing_where_no_check_failed(checkpoint, donor, out):
    forced = graft(checkpoint, donor, force_donor=True)
    first = contents(out)
    assert forced.forced == []
    graft(checkpoint, donor, overwrite=True)
    assert contents(out) == first


# --- Several that fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_closest_of_several_wins(order, checkpoint, donor, out, tmp_path, table):
    """A family: models that were trained from one another are all related to the checkpoint."""
    family = {"user/near": donor}
    for name, drift in (("user/far", 0.005), ("user/farther", 0.01)):
        family[name] = moved(donor, tmp_path / name.replace("/", "-"), drift, seed=7)
    table({list(family)[number]: list(family.values())[number] for number in order})
    assert graft(checkpoint).donor == "user/near"
    assert took(out, donor)


def test_a_tie_of_different_poolers_is_refused_and_listed(checkpoint, donor, stranger, tmp_path, table):
    twin = moved(donor, tmp_path / "twin", 0.0, seed=7, pooler=11)
    table({"user/one": donor, "user/two": twin, "user/three": stranger})
    with pytest.raises(ConversionError, match="several donors with different poolers are equally close") as refusal:
        graft(checkpoint)
    text = str(refusal.value)
    assert all(name in text for name in ("user/one", "user/two", COMMIT[:7], "--pooler-from"))
    assert "user/three" not in text
    assert graft(checkpoint, "user/two").donor == "user/two", "what the message says helps"


def test_a_tie_of_equal_poolers_is_no_tie(checkpoint, donor, out, table):
    table({"user/one": donor, "user/copy": donor})
    assert graft(checkpoint).donor == "user/one"
    assert took(out, donor)


# --- A pooler of no use ----------------------------------------------------------------------------------------------


@pytest.fixture
def untrained(giver) -> Path:
    """As `BertModel` leaves it, loaded from an MLM checkpoint and saved: a random weight, a bias of zeros."""
    save_weights(giver, stored(giver) | {BIAS: torch.zeros(SHAPE["hidden_size"])})
    return giver


def test_stock_bert_makes_such_poolers(lost, tmp_path):
    """The premise of the check: what transformers starts has a bias of exactly zero."""
    BertForPreTraining.from_pretrained(lost).save_pretrained(tmp_path / "random")
    assert not stored(tmp_path / "random")[BIAS].any()
    assert make_donor().bert.pooler.dense.bias.any()


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_a_donor_with_an_untrained_pooler_is_refused(value, checkpoint, untrained):
    save_weights(untrained, stored(untrained) | {BIAS: torch.full((SHAPE["hidden_size"],), value)})
    text = r"giver: its pooler was never trained \(the bias is exactly zero.*\[CLS\] or the mean.*--force-donor"
    with pytest.raises(ConversionError, match=text):
        graft(checkpoint, untrained)


def test_one_value_that_is_not_zero_is_enough(checkpoint, untrained, out):
    bias = torch.zeros(SHAPE["hidden_size"])
    bias[3] = 1e-30
    save_weights(untrained, stored(untrained) | {BIAS: bias})
    graft(checkpoint, untrained)
    assert took(out, untrained)


def test_both_reasons_are_told_and_forced(checkpoint, untrained, out):
    generator = torch.Generator().manual_seed(3)
    other = {name: torch.randn(t.shape, generator=generator) for name, t in stored(untrained).items()}
    save_weights(untrained, other | {BIAS: torch.zeros(SHAPE["hidden_size"])})
    with pytest.raises(ConversionError, match=r"not related.*; and its pooler was never trained"):
        graft(checkpoint, untrained)
    assert len(graft(checkpoint, untrained, force_donor=True).forced) == 2
    assert took(out, untrained)


def test_the_real_minilm_is_no_donor(minilm, tmp_path):
    """all-MiniLM-L6-v2, a popular model: its encoder is the checkpoint's own, its pooler was never trained."""
    BertForMaskedLM.from_pretrained(minilm).save_pretrained(tmp_path / "checkpoint")
    assert (minilm / "modules.json").is_file(), "premise: sentence-transformers' modules lie beside it"
    with pytest.raises(ConversionError) as refusal:
        graft(tmp_path / "checkpoint", minilm)
    assert "its pooler was never trained" in str(refusal.value)
    assert "not related" not in str(refusal.value), "the lineage is perfect"


def test_a_donor_may_be_a_sentence_transformers_model(checkpoint, giver, out):
    """What it was trained for there is another pooling; the pooler is asked for, and lies in the weights."""
    (giver / "modules.json").write_text("[]")
    assert not graft(checkpoint, giver).forced
    assert took(out, giver)


DONORS = {
    "no pooler": (without("pooler"), r"donor: has no bert.pooler.dense.weight \(no pooler: it lost its own; name the"),
    "no bias": (without(BIAS), r"donor: has no bert.pooler.dense.bias \(no pooler"),
    "no layer": (without("layer.1."), r"donor: has no bert.encoder.layer.1.*output.dense.weight \(no such layer\)"),
    "another shape": (lambda t: {WEIGHT: torch.ones(32, 31)}, r"weight is float32 \[32, 31\], expected a floating"),
    "whole numbers": (lambda t: {BIAS: torch.ones(32).long()}, r"bias is int64 \[32\], expected a floating \[32\]"),
    "stored twice": (lambda t: {f"module.{BIAS}": t[BIAS].clone()}, r"bert.pooler.dense.bias is stored twice"),
    "not a number": (lambda t: {BIAS: t[BIAS] * torch.nan}, r"not finite"),
    "infinite": (lambda t: {WEIGHT: t[WEIGHT] / 0}, r"not finite"),
    "unrelated": (
        lambda t: {LINEAGE: t[LINEAGE].flip(0)},
        r"encoder is not related to the checkpoint's \(cosine .*expected at least 0.5\).*it all the same: --force",
    ),
    "without direction": (lambda t: {LINEAGE: t[LINEAGE] * 0}, r"not related to the checkpoint's \(cosine 0.000"),
    "a lineage of no number": (
        lambda t: {LINEAGE: t[LINEAGE] * torch.nan},
        r"not related to the checkpoint's \(cosine 0.000",
    ),
    "never trained": (
        lambda t: {BIAS: torch.zeros(32)},
        r"its pooler was never trained \(the bias is exactly zero",
    ),
}


@pytest.mark.filterwarnings("error")  # a lineage of no number must not warn either
@pytest.mark.parametrize("damage", DONORS)
def test_a_donor_whose_pooler_is_of_no_use_is_refused(damage, place):
    change, match = DONORS[damage]
    tensors = stored(place / "donor")
    save_weights(place / "donor", change(tensors) if damage.startswith("no ") else tensors | change(tensors))
    refused(place, match)


def test_a_donor_of_another_width_is_refused(place, tmp_path):
    save_donor(tmp_path / "wide", hidden_size=64)
    refused(place, r"wide: hidden_size is 64, the checkpoint's is 32", pooler_from=tmp_path / "wide")


@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 65520.0), (torch.bfloat16, 3.4e38)])
def test_a_pooler_too_large_for_the_checkpoints_dtype_is_refused(dtype, value, place):
    save_weights(place / "checkpoint", {name: t.to(dtype) for name, t in stored(place / "checkpoint").items()})
    tensors = stored(place / "donor")
    tensors[WEIGHT][0, 0] = value
    assert tensors[WEIGHT].isfinite().all(), "premise"
    save_weights(place / "donor", tensors)
    name = str(dtype).removeprefix("torch.")
    refused(place, rf"not finite as {name}")


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_no_pattern_of_a_value_that_is_not_finite_passes(dtype, bits, place):
    save_weights(place / "checkpoint", {name: t.to(dtype) for name, t in stored(place / "checkpoint").items()})
    tensors = stored(place / "donor")
    tensors[BIAS].view(torch.int32)[3] = int(np.uint32(bits).view(np.int32))
    save_weights(place / "donor", tensors)
    refused(place, r"not finite")


NO_DONORS = {
    "checkpoint": r"checkpoint: has no bert.pooler.dense.weight \(no pooler",
    "donor/config.json": r"config.json: a file; pass the folder that holds it: .*donor$",
    "~nosuchuser/x": r"~nosuchuser/x: no such folder",
    "a b": r"a b: no such folder",
    "absent": r"absent: no such folder, and not in the local cache, and the Hub is not asked",
    "user/absent": r"user/absent: no such folder, .*or run `hf download user/absent` elsewhere and pass the folder",
}


@pytest.mark.parametrize("name", NO_DONORS)
def test_a_donor_that_is_none_is_refused(name, place, monkeypatch):
    monkeypatch.chdir(place)
    refused(place, NO_DONORS[name], pooler_from=name)
