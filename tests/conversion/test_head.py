"""--head-from: a checkpoint that lost its MLM head gets a donor's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForSequenceClassification, conversion, convert
from bert_pooled_mlm.conversion.bert import MLM_BIAS, MLM_HEAD, POOLER, WORD_EMBEDDINGS
from bert_pooled_mlm.conversion.formats import FORMATS
from bert_pooled_mlm.convert import main
from checkpoints import (
    WORDS,
    bits,
    edit_json,
    modules_of,
    save_tokenizer,
    save_weights,
    state,
    stored,
    todays,
)
from grafting import LINEAGE, Conversions, config_of, graft_beside, headless, name_it, refused, without_tokenizer
from hub_faults import User
from hub_server import HubServer
from transformers import BertForMaskedLM


@pytest.fixture
def place(donor, tmp_path) -> Path:
    headless(donor, tmp_path / "place" / "checkpoint")
    shutil.copytree(donor, tmp_path / "place" / "donor")
    return tmp_path / "place"


def give(place: Path, donor: Path | str | None = None, **options):
    return convert(place / "checkpoint", place / "out", head_from=donor or place / "donor", verify=False, **options)


def resized(folder: Path, size: int, tokens: tuple[str, ...] | None = None) -> dict[str, torch.Tensor]:
    """Changes the vocabulary of a checkpoint to the first `size` tokens, with new rows for those that it lacked."""
    tensors = stored(folder)
    rows = torch.randn(max(0, size - 128), 32, generator=torch.Generator().manual_seed(5)) / 50
    tensors[WORD_EMBEDDINGS] = torch.cat([tensors[WORD_EMBEDDINGS], rows])[:size]
    save_weights(folder, tensors)
    edit_json(folder / "config.json", vocab_size=size)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    if tokens:
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return tensors


@pytest.mark.versions
@pytest.mark.parametrize("format", ["pooled", "bert"])
@pytest.mark.parametrize("bare", [False, True], ids=["a classifier's", "BertModel's"])
def test_the_head_is_the_donors_and_all_else_the_checkpoints_own(bare, format, donor, tmp_path, forked):
    folder = headless(donor, tmp_path / "checkpoint", bare)
    report = graft_beside(folder, None, format, head_from=donor, verify=True)
    ours = {name: it for name, it in todays(folder).items() if "classifier" not in name}
    ours = {name if name.startswith("bert.") else f"bert.{name}": it for name, it in ours.items()}
    expected = bits(ours | {name: todays(donor)[name] for name in MLM_HEAD})
    assert bits(stored(Path(report.output))) == expected
    assert set(POOLER) <= ours.keys(), "premise: a classifier's pooler, which has been trained"
    model, info = BertForMaskedLM.from_pretrained(report.output, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert "bit for bit" in report.verified


@pytest.mark.parametrize("how", ["named", "by --head-from", "auto"])
def test_a_pooler_that_is_lost_as_well_is_grafted_as_ever(how, donor, tmp_path):
    folder = headless(donor, tmp_path / "checkpoint", own_pooler=False)
    name_it(folder, "_name_or_path", str(donor))
    head = {"named": None, "by --head-from": donor, "auto": "auto"}[how]
    other = shutil.copytree(donor, tmp_path / "other")
    report = graft_beside(folder, other if how == "named" else None, head_from=head or donor)
    assert report.donor == ("other" if how == "named" else "donor")
    origin = "config.json's _name_or_path" if how == "auto" else "--head-from"
    assert report.found_by == ("--pooler-from" if how == "named" else origin)
    assert report.head["found_by"] == origin
    assert {*report.missing} == {*POOLER, *MLM_HEAD}
    written = bits(stored(Path(report.output)))
    assert {name: written[name] for name in (*POOLER, *MLM_HEAD)} == bits(
        {name: todays(donor)[name] for name in (*POOLER, *MLM_HEAD)}
    )


def weights(part: str, change):
    """Changes tensors of the checkpoint or of the donor."""
    return lambda place: save_weights(place / part, stored(place / part) | change(stored(place / part)))


other_vocabulary = weights("checkpoint", lambda t: {WORD_EMBEDDINGS: t[WORD_EMBEDDINGS].flip(0)})
REFUSED = {
    "unrelated": (
        weights("donor", lambda t: {LINEAGE: t[LINEAGE].flip(0)}),
        "not related to the checkpoint's .* its MLM head's output is noise; .*MLM head.*--force-donor",
    ),
    "a donor without": (
        lambda place: save_weights(place / "donor", stored(place / "checkpoint")),
        "has no cls.predictions.transform.* name the model before it",
    ),
    "untied": (
        lambda place: edit_json(place / "donor" / "config.json", tie_word_embeddings=False),
        "decoder of its own .*tie_word_embeddings: false",
    ),
    "never trained": (weights("donor", lambda t: {MLM_BIAS: torch.zeros(128)}), "its MLM head was never trained"),
    "nothing found": (lambda place: None, "no donor found for its MLM head: .*--head-from FOLDER_OR_HUB_ID"),
    "not lost": (
        lambda place: save_weights(place / "checkpoint", stored(place / "donor")),
        r"has an MLM head \(cls.predictions.\*\): it lost none; convert it without --head-from",
    ),
    "another vocabulary": (
        other_vocabulary,
        "vocabulary was replaced or reordered .*; name the donor that has this vocabulary",
    ),
    "no tokens": (
        lambda place: (other_vocabulary(place), without_tokenizer(place / "checkpoint")),
        "replaced or reordered .* without both tokenizers.*; copy the tokenizer's files",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_can_not_be_given_is_an_error_with_its_cause(why, place):
    change, match = REFUSED[why]
    change(place)
    refused(place, match, pooler_from=None, head_from="auto" if why == "nothing found" else place / "donor")
    if why == "unrelated":
        assert give(place, force_donor=True).head["forced"]


@pytest.mark.parametrize("own_pooler", [True, False])
def test_without_the_argument_the_error_names_it(own_pooler, donor, place):
    headless(donor, place / "other", own_pooler=own_pooler)
    assert "--head-from DONOR" in refused(place, "no MLM head", "other", pooler_from=None)


@pytest.mark.parametrize("known", [True, False], ids=["with its tokenizer", "without"])
def test_added_tokens_get_a_bias_of_zero(known, place):
    resized(place / "checkpoint", 136, (*WORDS, *(f"new{number}" for number in range(8))) if known else None)
    report = give(place)
    ours, theirs = stored(place / "out")[MLM_BIAS], stored(place / "donor")[MLM_BIAS]
    assert torch.equal(ours[:128], theirs)
    assert torch.equal(ours[128:], torch.zeros(8))
    assert any("8 tokens are not the donor's" in note for note in report.remarks)
    BertForMaskedLM.from_pretrained(place / "out")


def test_a_trimmed_vocabulary_gets_the_bias_of_its_own_tokens(place):
    kept = [0, 1, 2, 3, 4, *range(7, 128, 2)]
    tensors = resized(place / "checkpoint", len(kept), tuple(WORDS[number] for number in kept))
    original = todays(place / "donor")[WORD_EMBEDDINGS]
    save_weights(place / "checkpoint", tensors | {WORD_EMBEDDINGS: original[kept] + 1e-4})
    report = give(place)
    assert torch.equal(stored(place / "out")[MLM_BIAS], stored(place / "donor")[MLM_BIAS][kept])
    assert any("taken over by token" in note for note in report.remarks)


def test_the_report_says_where_it_came_from_and_so_does_the_output(place, capsys):
    options = ("--head-from", place / "donor", "-o", place / "out", "--no-verify")
    arguments = [*map(str, (place / "checkpoint", *options))]
    edit_json(place / "checkpoint" / "config.json", tie_word_embeddings=False)  # of no meaning without a head
    before = state(place)
    assert main([*arguments, "--dry-run"]) == 0
    assert state(place) == before
    shown = capsys.readouterr().out
    for row in ("head from    donor", "found by     --head-from", f"would graft  {MLM_BIAS}, sha256 "):
        assert row in shown
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["donor"] is None
    source = config_of(place / "out")["head_source"]
    assert source["sha256"] == report["head"]["grafted"]
    assert source["donor"] == report["head"]["donor"] == "donor"
    assert report["missing"] == [*MLM_HEAD]
    assert "tie_word_embeddings" not in config_of(place / "out")
    assert any("tie_word_embeddings" in name for name in report["dropped"])
    assert "## The MLM head" in (place / "out" / "README.md").read_text()
    for format, kept in (("bert", source), ("encoder", None)):
        convert(place / "out", place / format, format=format, verify=False)
        assert config_of(place / format).get("head_source") == kept


@pytest.mark.parametrize("pooler", [None, "user/donor"])
@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)
def test_the_card_is_well_formed(format, pooler):
    head, own = (conversion.provenance.HeadSource, MLM_HEAD), (conversion.provenance.PoolerSource, POOLER)
    head, own = (kind("user/donor", None, dict.fromkeys(keys, "ab" * 32), 0.9) for kind, keys in (head, own))
    for keeps in (True, False):
        card = conversion.card.Card({}, "")
        text = conversion.card.model_card(card, "out", format, own if pooler else None, None, True, head, keeps)
        assert "\n\n\n" not in text
        assert "\n".join(head.card_lines()) in text
        assert ("modules that it had before" in text) == keeps


def test_of_a_hub_donor_only_the_head_is_downloaded(place, tmp_path):
    with HubServer() as hub, Conversions(**hub.environment(tmp_path)) as online:
        hub.add_repo("user/donor", place / "donor")
        report = User(online, place, tmp_path).report("checkpoint", "--head-from", "user/donor")
        assert (report["head"]["donor"], report["donor"]) == ("user/donor", None)
        header = int.from_bytes((place / "donor" / "model.safetensors").read_bytes()[:8], "little")
        rows = 2 * 32 * 32 + 3 * 32 + 128 + conversion.head.SAMPLED * 32  # lineage, transform, bias, embeddings
        assert hub.bytes_sent("model.safetensors") == 8 + header + 4 * rows
        assert hub.bytes_sent("vocab.txt") == hub.bytes_sent("tokenizer.json") == 0


def test_a_pooled_classifier_gets_it_back_too(donor, tmp_path):
    """It was saved by a class of the family, whose modules are written anew."""
    BertPooledMLMForSequenceClassification.from_pretrained(donor).save_pretrained(tmp_path / "checkpoint")
    save_tokenizer(tmp_path / "checkpoint")
    report = graft_beside(tmp_path / "checkpoint", None, head_from=donor)
    assert report.status == "converted"
    assert modules_of(Path(report.output)) == modules_of(tmp_path / "checkpoint")
    assert not config_of(report.output).get("keep_modules")
