"""How the converter finds a donor, proves that it is the right one, and refuses the wrong ones."""

import importlib
import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from bert_pooled_mlm.convert import ConversionError, ConversionReport, KnownDonor, convert
from checkpoints import SHAPE, contents, edit_json, make_donor, save_donor, save_lost, save_weights, state, stored
from transformers import BertForMaskedLM, BertForPreTraining

converter = importlib.import_module("bert_pooled_mlm.convert")  # the package's `convert` is the function

WEIGHT, BIAS = "bert.pooler.dense.weight", "bert.pooler.dense.bias"
COMMIT = "c" * 40
SHIPPED = converter.KNOWN_DONORS


class NoHub:
    """What `HubRepo` raises without a network."""

    asked = []

    def __init__(self, repo_id, revision):
        self.asked.append(repo_id)
        raise converter.OfflineModeIsEnabled("off")


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch) -> Path:
    """An empty Hub cache, no Hub behind it, and a table without entries."""
    folder = tmp_path / "hub-cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(converter, "HubRepo", NoHub)
    monkeypatch.setattr(NoHub, "asked", [])
    monkeypatch.setattr(converter, "KNOWN_DONORS", ())
    return folder


def shelve(shelf: Path, repo_id: str, donor: Path) -> None:
    """Puts a folder into the Hub's cache."""
    repo = shelf / f"models--{repo_id.replace('/', '--')}"
    shutil.copytree(donor, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)


def known(repo_id: str, vocab_size: int = 128, **shape) -> KnownDonor:
    return KnownDonor(repo_id, vocab_size, **{"hidden_size": 32, "num_hidden_layers": 2, **shape})


def moved(donor: Path, folder: Path, drift: float, seed: int, pooler: int | None = None) -> Path:
    """A relative of a donor: its encoder moved by `drift`, its pooler too, or replaced by that of seed `pooler`."""
    tensors = stored(donor)
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: t + drift * torch.randn(t.shape, generator=generator) for name, t in tensors.items()}
    if pooler is not None:
        other = torch.Generator().manual_seed(pooler)
        tensors |= {name: torch.randn(tensors[name].shape, generator=other) for name in (WEIGHT, BIAS)}
    shutil.copytree(donor, folder)
    save_weights(folder, tensors)
    return folder


@pytest.fixture
def checkpoint(lost, tmp_path) -> Path:
    """A copy of the checkpoint that lost its pooler, which names no donor."""
    folder = Path(shutil.copytree(lost, tmp_path / "checkpoint"))
    edit_json(folder / "config.json", "_name_or_path")
    return folder


def name_it(folder: Path, where: str, name) -> None:
    """Writes down where a checkpoint came from, in one of the three places that are read."""
    if where == "base_model":
        (folder / "README.md").write_text(f"---\nbase_model: {json.dumps(name)}\n---\n# Text\n", encoding="utf-8")
    elif where == "pooler_source":
        edit_json(folder / "config.json", pooler_source={"donor": name, "revision": None, "sha256": {}})
    else:
        edit_json(folder / "config.json", _name_or_path=name)


def rescue(checkpoint: Path, **options) -> ConversionReport:
    return convert(checkpoint, checkpoint.parent / "out", verify=False, **options)


def took(report: ConversionReport, donor: Path) -> bool:
    """Whether the output's pooler is the donor's."""
    output = stored(Path(report.output))
    return all(torch.equal(output[name], stored(donor)[name]) for name in (WEIGHT, BIAS))


# --- Finding ---------------------------------------------------------------------------------------------------------

PLACES = {
    "pooler_source": "config.json's pooler_source",
    "_name_or_path": "config.json's _name_or_path",
    "base_model": "README.md's base_model",
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", ["absolute", "relative", "~", "trailing slash"])
def test_a_named_folder_is_found(name, where, checkpoint, donor, tmp_path, monkeypatch):
    shutil.copytree(donor, tmp_path / "giver")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    written = {"absolute": str(tmp_path / "giver"), "relative": "giver", "~": "~/giver", "trailing slash": "giver/"}
    name_it(checkpoint, where, written[name])
    report = rescue(checkpoint)
    assert took(report, donor)
    assert (report.found_by, report.donor, report.donor_commit) == (PLACES[where], "giver", None)


CHINESE = "google-bert/bert-base-chinese"


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
def test_a_named_model_of_the_hub_is_found(name, shelved, where, checkpoint, donor, shelf, monkeypatch):
    monkeypatch.setattr(converter, "KNOWN_DONORS", (known(CHINESE, 21128, hidden_size=768),))
    shelve(shelf, shelved, donor)
    name_it(checkpoint, where, name)
    report = rescue(checkpoint)
    assert took(report, donor)
    assert (report.found_by, report.donor, report.donor_commit) == (PLACES[where], shelved, COMMIT)
    config = json.loads(Path(report.output, "config.json").read_text("utf-8"))
    assert (config["pooler_source"]["donor"], config["pooler_source"]["revision"]) == (shelved, COMMIT)


def test_each_base_model_of_a_list_is_tried(checkpoint, donor, shelf):
    shelve(shelf, "user/right", donor)
    shelve(shelf, "user/wrong", save_donor(shelf.parent / "wrong", seed=9))
    name_it(checkpoint, "base_model", ["user/wrong", "user/right"])
    report = rescue(checkpoint)
    assert took(report, donor)
    assert report.donor == "user/right"


def test_a_checkpoint_without_a_name_is_guessed_from_the_table(checkpoint, donor, shelf, monkeypatch):
    monkeypatch.setattr(converter, "KNOWN_DONORS", (known("user/right"),))
    shelve(shelf, "user/right", donor)
    report = rescue(checkpoint)
    assert took(report, donor)
    assert (report.found_by, report.donor) == ("the table of well-known BERTs", "user/right")


def test_what_the_user_says_comes_before_what_the_checkpoint_says(checkpoint, donor, tmp_path):
    close = moved(donor, tmp_path / "close", 1e-5, seed=4)
    name_it(checkpoint, "_name_or_path", str(close))
    report = rescue(checkpoint, pooler_from=donor)
    assert took(report, donor)
    assert report.found_by == "--pooler-from"


def test_a_name_comes_before_the_table(checkpoint, lost, donor, shelf, tmp_path, monkeypatch):
    """Even where the table has a closer one: it is not asked."""
    monkeypatch.setattr(converter, "KNOWN_DONORS", (known("user/guess"),))
    tensors = stored(donor) | {name: t for name, t in stored(lost).items() if "encoder" in name}
    guess = Path(shutil.copytree(donor, tmp_path / "guess"))
    save_weights(guess, tensors)
    shelve(shelf, "user/guess", guess)
    name_it(checkpoint, "_name_or_path", str(donor))
    assert rescue(checkpoint).found_by == PLACES["_name_or_path"]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_chain_of_checkpoints_that_lost_theirs_too_is_followed(length, lost, donor, tmp_path):
    """Each was trained from the one before it, and the first from the donor."""
    previous = donor
    for number in range(length):
        folder = Path(shutil.copytree(lost, tmp_path / f"run-{number}"))
        name_it(folder, "_name_or_path", str(previous))
        previous = folder
    checkpoint = Path(shutil.copytree(lost, tmp_path / "checkpoint"))
    name_it(checkpoint, "_name_or_path", str(previous))
    report = rescue(checkpoint)
    assert took(report, donor)
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
        rescue(checkpoint)


def test_a_donor_that_fits_needs_no_ancestor(checkpoint, donor, tmp_path):
    """Folders saved by transformers up to 4.48 name the model that they were loaded from; here it is out of reach."""
    giver = Path(shutil.copytree(donor, tmp_path / "giver"))
    name_it(giver, "_name_or_path", "google-bert/bert-base-uncased")
    name_it(checkpoint, "_name_or_path", str(giver))
    assert took(rescue(checkpoint), donor)
    assert NoHub.asked == []


def test_a_damaged_folder_in_the_chain_does_not_end_the_search(checkpoint, lost, donor, tmp_path):
    broken = Path(shutil.copytree(lost, tmp_path / "broken"))
    (broken / "config.json").write_text("{")
    name_it(checkpoint, "_name_or_path", str(broken))
    name_it(checkpoint, "base_model", str(donor))
    report = rescue(checkpoint)
    assert took(report, donor)
    assert "not valid JSON" in report.notes[0]


@pytest.mark.parametrize(
    "name", ["~nosuchuser/x", "a" * 5000, "a\0b", "", "/", ".", "..", "https://huggingface.co/user/repo", 7, None, []]
)
def test_a_name_that_names_nothing_is_passed_over(name, checkpoint, donor, shelf, monkeypatch):
    monkeypatch.setattr(converter, "KNOWN_DONORS", (known("user/right"),))
    shelve(shelf, "user/right", donor)
    name_it(checkpoint, "_name_or_path", name)
    assert took(rescue(checkpoint), donor)


def test_a_named_donor_out_of_reach_is_not_replaced_by_a_guess(checkpoint, donor, shelf, monkeypatch):
    monkeypatch.setattr(converter, "KNOWN_DONORS", (known("user/guess"),))
    shelve(shelf, "user/guess", donor)
    name_it(checkpoint, "_name_or_path", "user/named")
    text = r"user/named: .*not in the local cache.*\(named by config.json's _name_or_path; to take another"
    with pytest.raises(ConversionError, match=text):
        rescue(checkpoint)


# --- The table -------------------------------------------------------------------------------------------------------

TABLE = (
    known("t/same"),
    known("t/smaller", 120),
    known("t/larger", 129),
    known("t/wide", hidden_size=64),
    known("t/deep", num_hidden_layers=3),
)


def test_only_entries_that_fit_are_asked_for(checkpoint, monkeypatch):
    """The same shape, and a vocabulary that is the checkpoint's, or that it may have extended; the same one first."""
    monkeypatch.setattr(converter, "KNOWN_DONORS", TABLE)
    with pytest.raises(ConversionError, match="no donor found for its pooler"):
        rescue(checkpoint)
    assert NoHub.asked == ["t/same", "t/smaller"]


def test_an_extended_vocabulary_finds_the_model_that_it_extends(lost, donor, shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "KNOWN_DONORS", (known("user/right"),))
    shelve(shelf, "user/right", donor)
    model = BertForMaskedLM.from_pretrained(lost)
    model.resize_token_embeddings(131)
    model.config._name_or_path = ""
    model.save_pretrained(tmp_path / "extended")
    edit_json(tmp_path / "extended" / "config.json", "_name_or_path")
    assert took(rescue(tmp_path / "extended"), donor)


def test_the_table_is_of_berts_that_published_configs_describe():
    assert len({entry.repo_id for entry in SHIPPED}) == len(SHIPPED)
    assert all(entry.repo_id.count("/") == 1 for entry in SHIPPED)
    sizes = {entry.repo_id: entry[1:4] for entry in SHIPPED}
    assert sizes["google-bert/bert-base-uncased"] == (30522, 768, 12)
    assert sizes["google-bert/bert-large-cased"] == (28996, 1024, 24)
    assert sizes["google-bert/bert-base-multilingual-cased"] == (119547, 768, 12)
    assert sizes[CHINESE] == sizes["hfl/chinese-roberta-wwm-ext"] == (21128, 768, 12)


def test_a_refusal_lists_every_candidate_with_its_reason(checkpoint, lost, shelf, tmp_path, monkeypatch):
    names = ("user/absent", "user/lost", "user/stranger")
    monkeypatch.setattr(converter, "KNOWN_DONORS", tuple(map(known, names)))
    shelve(shelf, "user/lost", lost)
    shelve(shelf, "user/stranger", save_donor(tmp_path / "stranger", seed=9))
    with pytest.raises(ConversionError) as refusal:
        rescue(checkpoint)
    text = str(refusal.value)
    assert text.startswith(f"{checkpoint}: no donor found for its pooler; name the model that its training started")
    assert "--pooler-from FOLDER_OR_HUB_ID. Not taken: " in text
    _, _, listed = text.partition("Not taken: ")
    reasons = dict(entry.split(": ", 1) for entry in listed.split(" | "))
    assert reasons.keys() == set(names)
    assert "not in the local cache" in reasons["user/absent"]
    assert "it lost its own" in reasons["user/lost"]
    assert "not related" in reasons["user/stranger"]
    assert "\n" not in text


# --- Lineage ---------------------------------------------------------------------------------------------------------


def lineage(folder: Path, layer: int = 1) -> torch.Tensor:
    return stored(folder)[f"bert.encoder.layer.{layer}.attention.output.dense.weight"].double().flatten()


@pytest.mark.parametrize("drift", [0.0, 0.0001, 0.001, 0.01])
def test_the_lineage_is_the_cosine_of_the_last_layers(drift, donor, tmp_path):
    checkpoint = save_lost(tmp_path / "checkpoint", donor, drift=drift)
    report = rescue(checkpoint, pooler_from=donor)
    expected = torch.cosine_similarity(lineage(checkpoint), lineage(donor), dim=0).item()
    assert report.lineage_cosine == pytest.approx(expected, abs=1e-6)  # it is rounded to six decimals
    assert expected == pytest.approx(1.0 if drift == 0.0 else (1 + (drift / 0.028) ** 2) ** -0.5, abs=0.01)
    assert f"lineage      cosine {report.lineage_cosine:.6f} of the last layer" in str(report)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_lineage_is_measured_across_dtypes(dtype, checkpoint, donor, tmp_path):
    giver = Path(shutil.copytree(donor, tmp_path / "giver"))
    save_weights(giver, {name: tensor.to(dtype) for name, tensor in stored(donor).items()})
    assert rescue(checkpoint, pooler_from=giver).lineage_cosine > 0.99


@pytest.mark.parametrize("how", ["--pooler-from", "_name_or_path", "the table"])
def test_an_unrelated_donor_is_refused(how, checkpoint, tmp_path, shelf, monkeypatch):
    stranger = save_donor(tmp_path / "stranger", seed=9)
    cosine = torch.cosine_similarity(lineage(checkpoint), lineage(stranger), dim=0).item()
    assert abs(cosine) < 0.1, "premise: unrelated encoders are orthogonal"
    before = state(tmp_path)
    options = {"pooler_from": stranger} if how == "--pooler-from" else {}
    if how == "_name_or_path":
        name_it(checkpoint, how, str(stranger))
        before = state(tmp_path)
    elif how == "the table":
        monkeypatch.setattr(converter, "KNOWN_DONORS", (known("user/stranger"),))
        shelve(shelf, "user/stranger", stranger)
        before = state(tmp_path)
    text = rf"stranger.*its encoder is not related to the checkpoint's \(cosine {cosine:.3f} of bert.encoder.layer.1."
    with pytest.raises(ConversionError, match=text):
        rescue(checkpoint, **options)
    assert state(tmp_path) == before


@pytest.mark.parametrize("layers", [1, 3])
def test_a_donor_of_another_depth_is_compared_by_its_own_last_layer(layers, checkpoint, tmp_path):
    """A pooler reads what the last layer gives: the same layer in the middle of a deeper encoder is not its match."""
    giver = save_donor(tmp_path / "giver", num_hidden_layers=layers)
    with pytest.raises(ConversionError, match=f"of bert.encoder.layer.{layers - 1}.attention.output.dense.weight"):
        rescue(checkpoint, pooler_from=giver)


def test_a_named_donor_that_is_unrelated_gives_way_to_one_that_fits(checkpoint, donor, shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(converter, "KNOWN_DONORS", (known("user/right"),))
    shelve(shelf, "user/right", donor)
    stranger = save_donor(tmp_path / "stranger", seed=9)
    name_it(checkpoint, "_name_or_path", str(stranger))
    report = rescue(checkpoint)
    assert took(report, donor)
    (note,) = report.notes
    assert note.startswith(f"{stranger}: its encoder is not related")
    assert f"not taken    {note}" in str(report)


def test_force_takes_an_unrelated_donor_and_the_card_says_so(checkpoint, tmp_path):
    stranger = save_donor(tmp_path / "stranger", seed=9)
    report = rescue(checkpoint, pooler_from=stranger, force_donor=True)
    assert took(report, stranger)
    (reason,) = report.forced
    assert "not related" in reason
    output = Path(report.output)
    assert json.loads((output / "config.json").read_text("utf-8"))["pooler_source"]["forced"] == [reason]
    assert f"- taken by --force-donor although {reason}" in (output / "README.md").read_text("utf-8")
    assert f"forced       {reason}" in str(report)


def test_force_changes_nothing_where_no_check_failed(checkpoint, donor):
    forced = rescue(checkpoint, pooler_from=donor, force_donor=True)
    first = contents(Path(forced.output))
    assert forced.forced == []
    rescue(checkpoint, pooler_from=donor, overwrite=True)
    assert contents(Path(forced.output)) == first


# --- Several that fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_closest_of_several_wins(order, checkpoint, donor, shelf, tmp_path, monkeypatch):
    """A family: models that were trained from one another are all related to the checkpoint."""
    family = {"user/near": donor}
    for name, drift in (("user/far", 0.005), ("user/farther", 0.01)):
        family[name] = moved(donor, tmp_path / name.replace("/", "-"), drift, seed=7)
    for name, folder in family.items():
        shelve(shelf, name, folder)
    names = [list(family)[number] for number in order]
    monkeypatch.setattr(converter, "KNOWN_DONORS", tuple(map(known, names)))
    report = rescue(checkpoint)
    assert report.donor == "user/near"
    assert took(report, donor)


def test_a_tie_of_different_poolers_is_refused_and_listed(checkpoint, donor, shelf, tmp_path, monkeypatch):
    twin = moved(donor, tmp_path / "twin", 0.0, seed=7, pooler=11)
    stranger = save_donor(tmp_path / "stranger", seed=9)
    for name, folder in (("user/one", donor), ("user/two", twin), ("user/three", stranger)):
        shelve(shelf, name, folder)
    monkeypatch.setattr(converter, "KNOWN_DONORS", tuple(map(known, ("user/one", "user/two", "user/three"))))
    with pytest.raises(ConversionError, match="several donors with different poolers are equally close") as refusal:
        rescue(checkpoint)
    text = str(refusal.value)
    assert all(name in text for name in ("user/one", "user/two", COMMIT[:7], "--pooler-from"))
    assert "user/three" not in text
    assert rescue(checkpoint, pooler_from="user/two").donor == "user/two", "what the message says helps"


def test_a_tie_of_equal_poolers_is_no_tie(checkpoint, donor, shelf, monkeypatch):
    for name in ("user/one", "user/copy"):
        shelve(shelf, name, donor)
    monkeypatch.setattr(converter, "KNOWN_DONORS", (known("user/one"), known("user/copy")))
    report = rescue(checkpoint)
    assert took(report, donor)
    assert report.donor == "user/one"


# --- A pooler that was never trained ---------------------------------------------------------------------------------


@pytest.fixture
def untrained(donor, tmp_path) -> Path:
    """As `BertModel` leaves it, loaded from an MLM checkpoint and saved: a random weight, a bias of zeros."""
    folder = Path(shutil.copytree(donor, tmp_path / "untrained"))
    save_weights(folder, stored(donor) | {BIAS: torch.zeros(SHAPE["hidden_size"])})
    return folder


def test_stock_bert_makes_such_poolers(lost, tmp_path):
    """The premise of the check: what transformers starts has a bias of exactly zero."""
    BertForPreTraining.from_pretrained(lost).save_pretrained(tmp_path / "random")
    assert not stored(tmp_path / "random")[BIAS].any()
    assert make_donor().bert.pooler.dense.bias.any()


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_a_donor_with_an_untrained_pooler_is_refused(value, checkpoint, untrained):
    save_weights(untrained, stored(untrained) | {BIAS: torch.full((SHAPE["hidden_size"],), value)})
    text = r"untrained: its pooler was never trained \(the bias is exactly zero.*\[CLS\] or the mean.*--force-donor"
    with pytest.raises(ConversionError, match=text):
        rescue(checkpoint, pooler_from=untrained)


def test_one_value_that_is_not_zero_is_enough(checkpoint, untrained):
    bias = torch.zeros(SHAPE["hidden_size"])
    bias[3] = 1e-30
    save_weights(untrained, stored(untrained) | {BIAS: bias})
    assert took(rescue(checkpoint, pooler_from=untrained), untrained)


def test_both_reasons_are_told_and_forced(checkpoint, untrained, tmp_path):
    generator = torch.Generator().manual_seed(3)
    stranger = {name: torch.randn(t.shape, generator=generator) for name, t in stored(untrained).items()}
    save_weights(untrained, stranger | {BIAS: torch.zeros(SHAPE["hidden_size"])})
    with pytest.raises(ConversionError, match=r"not related.*; and its pooler was never trained"):
        rescue(checkpoint, pooler_from=untrained)
    report = rescue(checkpoint, pooler_from=untrained, force_donor=True)
    assert took(report, untrained)
    assert len(report.forced) == 2


def test_the_real_minilm_is_no_donor(minilm, tmp_path):
    """all-MiniLM-L6-v2, a popular model: its encoder is the checkpoint's own, its pooler was never trained."""
    BertForMaskedLM.from_pretrained(minilm).save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ConversionError) as refusal:
        rescue(tmp_path / "checkpoint", pooler_from=minilm)
    assert "its pooler was never trained" in str(refusal.value)
    assert "not related" not in str(refusal.value), "the lineage is perfect"


# --- Checkpoints that were converted, and lost it again --------------------------------------------------------------


def test_a_pooled_checkpoint_that_lost_it_again_remembers_its_donor(checkpoint, donor, shelf, tmp_path):
    """Stock `BertForMaskedLM` drops the pooler of a folder in bert format, and keeps `pooler_source` in the config."""
    shelve(shelf, "user/right", donor)
    convert(checkpoint, tmp_path / "rescued", pooler_from="user/right", format="bert", verify=False)
    model = BertForMaskedLM.from_pretrained(tmp_path / "rescued")
    model.save_pretrained(tmp_path / "again")
    edit_json(tmp_path / "again" / "config.json", "_name_or_path")
    assert BIAS not in stored(tmp_path / "again"), "premise"
    report = rescue(tmp_path / "again")
    assert (report.found_by, report.donor) == (PLACES["pooler_source"], "user/right")
    assert took(report, donor)


def test_a_random_pooler_under_an_old_pooler_source_is_not_taken_for_pooled(checkpoint, lost, donor, tmp_path):
    convert(checkpoint, tmp_path / "rescued", pooler_from=donor, format="bert", verify=False)
    config = json.loads((tmp_path / "rescued" / "config.json").read_text("utf-8"))
    BertForPreTraining.from_pretrained(lost).save_pretrained(tmp_path / "random")
    edit_json(tmp_path / "random" / "config.json", pooler_source=config["pooler_source"])
    with pytest.raises(ConversionError, match=r"has a pooler already .*--replace-pooler"):
        rescue(tmp_path / "random", pooler_from=donor, format="bert")
