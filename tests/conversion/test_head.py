"""--head-from: a checkpoint that lost its MLM head gets a donor's; a sentence-transformers model stays what it is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, BertPooledMLMForSequenceClassification, conversion, convert
from bert_pooled_mlm.conversion.bert import MLM_BIAS, MLM_HEAD, POOLER, WORD_EMBEDDINGS
from bert_pooled_mlm.conversion.formats import FORMATS
from bert_pooled_mlm.convert import main
from checkpoints import (
    WORDS,
    batch,
    bits,
    contents,
    edit_json,
    modules_of,
    randomize,
    save_tokenizer,
    save_weights,
    state,
    stored,
    todays,
)
from grafting import LINEAGE, Conversions, config_of, graft_beside, name_it, refused, unprefixed
from hub_faults import User
from hub_server import HubServer
from programs import answer
from transformers import BertForMaskedLM, BertForSequenceClassification


def headless(donor: Path, folder: Path, bare: bool = False, own_pooler: bool = True) -> Path:
    """What fine-tuning leaves of a donor: a moved encoder without an MLM head; of a classifier or a `BertModel`."""
    shutil.copytree(donor, folder)
    model = BertForSequenceClassification.from_pretrained(donor)
    randomize(model, 3, 0.001)
    tensors = {name: it for name, it in model.state_dict().items() if own_pooler or "pooler" not in name}
    save_weights(folder, unprefixed(tensors) if bare else tensors)
    edit_json(folder / "config.json", "_name_or_path", architectures=["BertForSequenceClassification"])
    return folder


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


def test_on_the_donors_own_encoder_the_logits_are_the_donors(donor, tmp_path):
    shutil.copytree(donor, tmp_path / "checkpoint")
    save_weights(tmp_path / "checkpoint", unprefixed(stored(donor)))
    report = graft_beside(tmp_path / "checkpoint", None, "bert", head_from=donor)
    ours, theirs = (BertForMaskedLM.from_pretrained(it).eval() for it in (report.output, donor))
    torch.testing.assert_close(ours(**batch()).logits, theirs(**batch()).logits)


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


REFUSED = {
    "unrelated": ({}, "not related to the checkpoint's .* its MLM head's output is noise; .*MLM head.*--force-donor"),
    "a donor without": ({"head_from": "checkpoint"}, "has no cls.predictions.transform.* name the model before it"),
    "untied": ({}, "decoder of its own .*tie_word_embeddings: false"),
    "never trained": ({}, "its MLM head was never trained"),
    "nothing found": ({"head_from": "auto"}, "no donor found for its MLM head: .*--head-from FOLDER_OR_HUB_ID"),
    "not lost": ({}, r"has an MLM head \(cls.predictions.\*\): it lost none; convert it without --head-from"),
    "another vocabulary": ({}, "vocabulary was replaced or reordered .*; name the donor that has this vocabulary"),
    "no tokens": ({}, "replaced or reordered .* without both tokenizers.*; copy the tokenizer's files"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_can_not_be_given_is_an_error_with_its_cause(why, donor, place):
    checkpoint, giver = place / "checkpoint", place / "donor"
    if why == "unrelated":
        save_weights(giver, stored(giver) | {LINEAGE: stored(giver)[LINEAGE].flip(0)})
    elif why == "untied":
        edit_json(giver / "config.json", tie_word_embeddings=False)
    elif why == "never trained":
        save_weights(giver, stored(giver) | {MLM_BIAS: torch.zeros(128)})
    elif why == "not lost":
        save_weights(checkpoint, stored(donor))
    elif why in ("another vocabulary", "no tokens"):
        tensors = stored(checkpoint)
        save_weights(checkpoint, tensors | {WORD_EMBEDDINGS: tensors[WORD_EMBEDDINGS].flip(0)})
        if why == "no tokens":
            for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
                (checkpoint / name).unlink(missing_ok=True)
    options, match = REFUSED[why]
    head = options.get("head_from", "donor")
    refused(place, match, pooler_from=None, head_from=head if head == "auto" else place / head)
    if why == "unrelated":
        assert give(place, force_donor=True).head["forced"]


def test_without_the_argument_the_error_names_it(place):
    for names in ("checkpoint", "bare"):
        (place / "bare").mkdir(exist_ok=True)
        shutil.copytree(place / "checkpoint", place / "bare", dirs_exist_ok=True)
        save_weights(place / "bare", {name: it for name, it in stored(place / "bare").items() if "pooler" not in name})
        assert "--head-from DONOR" in refused(place, "no MLM head", names, pooler_from=None)


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
    arguments = [
        str(place / "checkpoint"),
        "--head-from",
        str(place / "donor"),
        "-o",
        str(place / "out"),
        "--no-verify",
    ]
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
    again = convert(place / "out", place / "again", format="bert", verify=False)
    assert config_of(again.output)["head_source"] == source
    assert "head_source" not in config_of(
        convert(place / "out", place / "bare", format="encoder", verify=False).output
    )


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


# --- sentence-transformers models ------------------------------------------------------------------------------------

POOLING = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
TANH = "torch.nn.modules.activation.Tanh"
SETTINGS = {"__version__": {"sentence_transformers": "3.0.1"}, "prompts": {"query": "word3 "}}


def sentence_model(donor: Path, folder: Path, kinds: tuple[str, ...], below: str = "") -> Path:
    """A sentence-transformers model with a fine-tuned encoder, as sentence-transformers 3 saves it."""
    headless(donor, folder / below, bare=True)
    (folder / below / "sentence_bert_config.json").write_text('{\n  "max_seq_length": 48, "do_lower_case": false}')
    if not below:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(SETTINGS))
    modules = [{"idx": 0, "name": "0", "path": below, "type": "sentence_transformers.models.Transformer"}]
    for number, kind in enumerate(kinds, 1):
        path = f"{number}_{kind}"
        modules.append(
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        )
        if kind == "Normalize":
            continue
        (folder / path).mkdir()
        config = POOLING if not below else POOLING | dict(zip([*POOLING][1:], (True, False), strict=True))
        if kind == "Dense":
            config = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": TANH}
            generator = torch.Generator().manual_seed(1)
            weights = {"linear.weight": torch.randn(8, 32, generator=generator), "linear.bias": torch.ones(8)}
            torch.save(weights, folder / path / "pytorch_model.bin")
        (folder / path / "config.json").write_text(json.dumps(config, indent=3))
    (folder / "modules.json").write_text(json.dumps(modules, indent=7))
    return folder


@pytest.fixture
def models(donor, tmp_path) -> Path:
    sentence_model(donor, tmp_path / "models" / "root", ("Pooling", "Dense", "Normalize"))
    sentence_model(donor, tmp_path / "models" / "below", ("Pooling",), "0_Transformer")
    return tmp_path / "models"


@pytest.mark.versions
def test_a_sentence_transformers_model_stays_what_it_is_through_mlm(models, donor, tmp_path):
    pytest.importorskip("sentence_transformers", reason="pip install sentence-transformers")
    (tmp_path / "out").mkdir()
    edit_json(models / "below" / "0_Transformer" / "sentence_bert_config.json", tokenizer_args={"use_fast": True})
    for name in ("root", "below"):
        report = convert(models / name, tmp_path / "out" / name, head_from=donor, verify=False)
        assert {"modules.json", "1_Pooling/config.json"} <= {*report.copied}
    assert "sentence_bert_config.json's tokenizer_args" in report.dropped
    before = contents(models / "root")
    kept = contents(tmp_path / "out" / "root")
    byte_for_byte = ["modules.json", "config_sentence_transformers.json"]
    byte_for_byte += ["1_Pooling/config.json", "2_Dense/config.json"]
    assert {name: kept[name] for name in byte_for_byte} == {name: before[name] for name in byte_for_byte}
    assert not [name for name in kept if name.endswith(".bin")]
    found = answer("sentence_transformers_modules", tmp_path, models, tmp_path / "out")
    kinds = {"root": ["Transformer", "Pooling", "Dense", "Normalize"], "below": ["Transformer", "Pooling"]}
    for name, modules in kinds.items():
        seen = found[name]
        assert seen["modules"] == [modules, modules]
        assert seen["prompts"][0] == seen["prompts"][1]
        assert max(seen["as converted"], seen["saved"], seen["the trained encoder's"]) < 1e-6
        assert seen["trained"] > 1e-4, "premise: MLM moved the encoder"
        assert (
            contents(tmp_path / "out" / f"{name} again").items()
            >= {
                file: data
                for file, data in contents(tmp_path / "out" / f"{name} moved").items()
                if "modules" in file or file[0].isdecimal() or "sentence" in file
            }.items()
        )


@pytest.mark.parametrize("format", ["pooled", "bert"])
def test_it_is_verified_and_stays_so_when_it_is_converted_again(format, models, donor, tmp_path, forked):
    first = convert(models / "root", tmp_path / "first", head_from=donor, format=format)
    assert "bit for bit" in first.verified
    other = "bert" if format == "pooled" else "pooled"
    again = convert(tmp_path / "first", tmp_path / "again", format=other, verify=False)
    ours, theirs = (modules_of(Path(it.output)) for it in (first, again))
    assert {name: ours[name] for name in ours if "bert" not in name} == {
        name: theirs[name] for name in theirs if "bert" not in name
    }
    assert config_of(again.output)["keep_modules"] is True
    assert not [name for report in (first, again) for name in report.dropped if "sentence_bert" in name]
    for report, name in ((first, format), (again, other)):
        settings = json.loads((Path(report.output) / "sentence_bert_config.json").read_text())
        assert ("model_args" in settings) == (name == "pooled")


def test_from_the_hub_too(models, donor, place, tmp_path):
    """Converted from there, published there, loaded from there and saved."""
    code = (
        "import sys, transformers\n"
        "model = transformers.AutoModelForMaskedLM.from_pretrained('user/out', trust_remote_code=True)\n"
        "model.save_pretrained(sys.argv[1])\nprint(1)"
    )
    with HubServer() as hub, Conversions(**hub.environment(tmp_path)) as online:
        hub.add_repo("user/model", models / "root")
        shutil.copytree(donor, place / "giver")
        User(online, place, tmp_path).report("user/model", "--head-from", "giver", "-o", "out")
        hub.add_repo("user/out", place / "out")
        assert answer(code, place, "saved", **hub.environment(tmp_path)) == 1
    (missing,) = tmp_path.rglob(".no_exist")
    shutil.rmtree(missing)  # as `hf download` leaves the cache
    assert answer(code, place, "offline", **hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}) == 1
    saved, out = contents(place / "saved"), contents(place / "out")
    assert contents(place / "offline") == saved
    kept = {name for name in out if name[0].isdecimal() or "sentence" in name or name == "modules.json"}
    assert len(kept) == 6
    assert {name: saved.get(name) for name in kept} == {name: out[name] for name in kept}


BROKEN = {
    "code of its own": ({"type": "modeling.Own"}, "module 1 is .*modeling.Own"),
    "a path": ({"path": "../1_Pooling"}, "module 1 is .*kept are a Transformer"),
    "no function of torch's": ("config.json", "activation_function is 'os.abort', not torch's"),
    "gone": ("pytorch_model.bin", "a Dense of sentence-transformers has config and weights; found config.json"),
}


@pytest.mark.parametrize("why", BROKEN)
def test_modules_that_can_not_be_kept_are_an_error(why, models, donor):
    change, match = BROKEN[why]
    listed = json.loads((models / "root" / "modules.json").read_text())
    if isinstance(change, dict):
        listed[1] |= change
        (models / "root" / "modules.json").write_text(json.dumps(listed))
    elif change == "config.json":
        edit_json(models / "root" / "2_Dense" / change, activation_function="os.abort")
    else:
        (models / "root" / "2_Dense" / change).unlink()
    refused(models, match, "root", pooler_from=None, head_from=donor)


def test_a_model_whose_modules_are_gone_is_saved_without_any(models, donor, tmp_path):
    convert(models / "root", tmp_path / "out", head_from=donor, verify=False)
    (tmp_path / "out" / "modules.json").unlink()
    BertPooledMLMForMaskedLM.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "saved")
    assert "modules.json" not in contents(tmp_path / "saved")
