"""How the converter finds a donor. Whether it is the right one: test_lineage.py."""

import shutil
from pathlib import Path

import pytest
from bert_pooled_mlm import conversion
from checkpoints import save_weights, stored, took
from grafting import COMMIT, config_of, graft, moved, name_it, refused, rejected

SHIPPED = conversion.known_donors.KNOWN_DONORS
CHINESE = "google-bert/bert-base-chinese"
PLACES = ("pooler_source", "_name_or_path", "base_model")
FOUND_BY = {
    "pooler_source": "config.json's pooler_source",
    "_name_or_path": "config.json's _name_or_path",
    "base_model": "README.md's base_model",
    "the table": "the table of well-known BERTs",
}


# --- Finding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", ["{}/giver", "giver", "~/giver", "giver/"])
def test_a_named_folder_is_found(name, where, checkpoint, giver, donor, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    name_it(checkpoint, where, name.format(tmp_path))
    report = graft(checkpoint)
    assert took(out, donor)
    assert (report.found_by, report.donor, report.donor_commit) == (FOUND_BY[where], "giver", None)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(
    ("name", "shelved"),
    [
        ("somebody/model", "somebody/model"),
        (CHINESE, CHINESE),
        ("bert-base-chinese", CHINESE),
        ("bert-base-chinese", "bert-base-chinese"),  # its name on the Hub before organisations, and in older caches
        ("/data/models/bert-base-chinese/", CHINESE),
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
    assert (report.found_by, report.donor, report.donor_commit) == (FOUND_BY[where], shelved, COMMIT)
    source = config_of(out)["pooler_source"]
    assert (source["donor"], source["revision"]) == (shelved, COMMIT)


def test_the_order_is_the_users_name_the_checkpoints_the_table(checkpoint, lost, donor, giver, out, tmp_path, table):
    """Whichever is closest."""
    save_weights(giver, stored(donor) | {name: t for name, t in stored(lost).items() if "encoder" in name})
    table({"user/guess": giver})
    name_it(checkpoint, "_name_or_path", str(moved(donor, tmp_path / "named", 1e-5, seed=4)))
    assert graft(checkpoint, output=tmp_path / "second").found_by == FOUND_BY["_name_or_path"]
    assert graft(checkpoint, donor).found_by == "--pooler-from"
    assert took(out, donor)


def test_a_chain_of_checkpoints_that_lost_theirs_too_is_followed(lost, donor, checkpoint, out, tmp_path):
    previous = donor
    for number in range(3):
        folder = Path(shutil.copytree(lost, tmp_path / f"run-{number}"))
        name_it(folder, "_name_or_path", str(previous))
        previous = folder
    name_it(checkpoint, "_name_or_path", str(previous))
    report = graft(checkpoint)
    assert took(out, donor)
    assert report.found_by == FOUND_BY["_name_or_path"]
    (note,) = report.notes
    assert all(f"run-{number}" in note for number in range(3))
    assert "has no bert.pooler.dense.weight" in note


def test_a_damaged_folder_in_the_chain_does_not_end_the_search(checkpoint, lost, donor, out, tmp_path):
    broken = Path(shutil.copytree(lost, tmp_path / "broken"))
    (broken / "config.json").write_text("{")
    name_it(checkpoint, "_name_or_path", str(broken))
    name_it(checkpoint, "base_model", str(donor))
    assert "not valid JSON" in graft(checkpoint).notes[0]
    assert took(out, donor)


@pytest.mark.parametrize("own", [True, False], ids=["names itself", "names one that names it"])
def test_a_circle_of_names_ends(own, place, lost):
    checkpoint, other = place / "checkpoint", Path(shutil.copytree(lost, place / "other"))
    name_it(checkpoint, "_name_or_path", str(checkpoint if own else other))
    name_it(other, "_name_or_path", str(checkpoint))
    refused(place, "no donor found", pooler_from=None)


def test_a_donor_that_fits_needs_no_ancestor(checkpoint, donor, giver, out, asked):
    """Folders saved by transformers up to 4.48 name the model that they were loaded from; here it is out of reach."""
    name_it(giver, "_name_or_path", "google-bert/bert-base-uncased")
    name_it(checkpoint, "_name_or_path", str(giver))
    graft(checkpoint)
    assert took(out, donor)
    assert asked == []


@pytest.mark.parametrize(
    "name", ["~nosuchuser/x", "a" * 5000, "a\0b", "", "/", ".", "..", "https://huggingface.co/user/repo", 7, None, []]
)
def test_a_checkpoint_that_names_nothing_is_guessed_from_the_table(name, checkpoint, donor, out, table):
    table({"user/right": donor})
    name_it(checkpoint, "_name_or_path", name)
    assert graft(checkpoint).found_by == FOUND_BY["the table"]
    assert took(out, donor)


def test_a_named_donor_that_is_unreachable_is_not_replaced_by_a_guess(place, donor, table):
    table({"user/guess": donor})
    name_it(place / "checkpoint", "_name_or_path", "user/named")
    error = rejected(place, pooler_from=None)
    assert error.subject == str(place / "checkpoint")
    assert "not looked at: user/named (" in error.reason
    assert "user/guess" not in str(error)
    assert error.remedy.endswith("--pooler-from FOLDER")


# --- The table -------------------------------------------------------------------------------------------------------


def test_only_entries_that_fit_are_asked_for(place, table, asked):
    """The same shape; the vocabulary of the checkpoint first, then smaller ones, then larger ones."""
    table({"t/smaller": None}, 120)
    table({"t/same": None})
    table({"t/larger": None}, 129)
    table({"t/wide": None}, hidden_size=64)
    table({"t/deep": None}, num_hidden_layers=3)
    refused(place, r"no donor found .*not looked at: t/same, t/smaller, t/larger \(", pooler_from=None)
    assert asked == ["t/same", "t/smaller", "t/larger"]


def test_the_table_names_each_model_once_with_its_published_sizes():
    sizes = {entry.repo_id: entry[1:4] for entry in SHIPPED}
    assert len(sizes) == len(SHIPPED)
    assert sizes["google-bert/bert-large-cased"] == (28996, 1024, 24)


def test_an_error_lists_every_candidate_with_its_reason(place, lost, stranger, table):
    table({"user/absent": None, "user/lost": lost, "user/stranger": stranger})
    error = rejected(place, pooler_from=None)
    assert error.subject == str(place / "checkpoint")
    assert "--pooler-from FOLDER_OR_HUB_ID" in error.remedy
    reasons = dict(entry.split(": ", 1) for entry in error.reason.partition("not taken: ")[2].split(" | "))
    assert reasons.keys() == {"user/absent", "user/lost", "user/stranger"}
    assert "not in the local cache" in reasons["user/absent"]
    assert "has no bert.pooler.dense.weight" in reasons["user/lost"]
    assert "not related" in reasons["user/stranger"]
