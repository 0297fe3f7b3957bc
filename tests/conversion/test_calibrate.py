"""`--calibrate`: from the command line to a folder that loads, and what is an error."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, ConversionError, ConversionReport, convert
from bert_pooled_mlm.convert import main
from checkpoints import (
    FORMATS,
    POOLER,
    assert_modules,
    contents,
    differing,
    edit_json,
    randomize,
    save_donor,
    save_lost,
    save_tokenizer,
    save_weights,
    state,
    stored,
    took,
)
from grafting import Conversions, config_of, graft, refused, without, without_tokenizer
from programs import answer


@pytest.fixture(scope="module")
def plain(far, donor, tmp_path_factory) -> ConversionReport:
    """The report of the conversion of `far` without a fit."""
    return graft(far, donor, tmp_path_factory.mktemp("plain") / "out")


@pytest.mark.usefixtures("forked")
def test_from_the_command_line_to_two_equal_loads(far, donor, plain, texts, tmp_path, capsys):
    before = state(far), state(donor), texts.read_bytes()
    for format in FORMATS:
        arguments = [far, "-o", tmp_path / format, "--pooler-from", donor, "--format", format]
        assert main([*map(str, [*arguments, "--calibrate", texts, "--calibrate-length", "32"])]) == 0
        out, err = capsys.readouterr()
        assert "300 texts" in err
        assert "calibrated   on 300 texts" in out
        assert "verified     " in out
    assert (state(far), state(donor), texts.read_bytes()) == before
    folders = [*(tmp_path / format for format in FORMATS), plain.output]
    *calibrated, (_, grafted) = answer("pooled_cosines", tmp_path, donor, *folders)
    for equal, cosine in calibrated:
        assert equal
        assert cosine > grafted + 0.005


def test_everything_but_the_pooler_stays_bit_for_bit(plain, fitted):
    assert differing(stored(Path(plain.output)), stored(Path(fitted.output))) == set(POOLER)
    assert_modules(Path(fitted.output))
    assert plain.grafted.keys() == fitted.grafted.keys()
    assert plain.grafted != fitted.grafted


def test_twice_the_same_bytes(far, fit, fitted, out):
    fit(far, out)
    assert contents(out) == contents(Path(fitted.output))


@pytest.mark.versions
def test_a_donor_on_the_hub_is_fetched_whole(far, donor, texts, hub, fitted, tmp_path):
    hub.add_repo("google-bert/tiny", donor)
    with Conversions(**hub.environment(tmp_path, hub.TOKEN)) as conversions:
        donor_and_texts = ["--pooler-from", "google-bert/tiny", "--calibrate", texts, "--calibrate-length", "32"]
        done = conversions.run(far, *donor_and_texts, "-o", "out", "--json", cwd=str(tmp_path))
    report = json.loads(done["out"])
    assert report["grafted"] == fitted.grafted
    assert report["donor_commit"] == hub.commits("google-bert/tiny")[-1].sha


def test_a_dry_run_reads_the_texts_and_fits_nothing(far, donor, texts, out, capsys):
    arguments = [far, "-o", out, "--pooler-from", donor, "--calibrate", texts, "--calibrate-length", "32"]
    assert main([*map(str, arguments), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "would fit " in captured.out
    assert "300 texts" in captured.out
    assert captured.err == ""
    assert not out.exists()


def test_where_nothing_has_moved_the_original_stays_and_the_report_has_it(donor, fit, out, tmp_path):
    report = fit(save_lost(tmp_path / "lost", donor, drift=0), out)
    assert not report.calibration["improved"]
    assert took(out, donor)
    assert "calibration" not in config_of(out)["pooler_source"]


@pytest.mark.parametrize("kind", ["bin", "shards", "half"])
def test_every_layout_of_checkpoint_and_donor(far, donor, fit, fitted, out, tmp_path, kind):
    folders = []
    for source, name in ((far, "far"), (donor, "donor")):
        folders.append(shutil.copytree(source, tmp_path / name))
        tensors = stored(source)
        if kind == "half":
            tensors = {key: tensor.half() for key, tensor in tensors.items()}
        save_weights(folders[-1], tensors, 2 if kind == "shards" else 1, "bin" if kind == "bin" else "safetensors")
    report = fit(folders[0], out, folders[1])
    assert report.calibration["improved"]
    assert stored(out)[POOLER[0]].dtype is (torch.float16 if kind == "half" else torch.float32)
    assert (report.grafted == fitted.grafted) == (kind != "half")


@pytest.fixture
def trained(donor, tmp_path) -> Path:
    """Trained with the package's own class from the donor, so that it kept the donor's pooler."""
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    pooler = copy.deepcopy(model.bert.pooler.state_dict())
    randomize(model, 0)
    model.bert.pooler.load_state_dict(pooler)
    model.save_pretrained(tmp_path / "trained")
    save_tokenizer(tmp_path / "trained")
    return tmp_path / "trained"


def test_a_pooled_checkpoint_that_was_trained_is_calibrated_too(trained, donor, fit, out):
    assert convert(trained, out).status == "already pooled"
    report = fit(trained, out)
    assert report.status == "converted"
    assert report.missing == []
    assert report.calibration["improved"]
    assert not torch.equal(stored(out)[POOLER[0]], stored(donor)[POOLER[0]])


def test_a_calibrated_checkpoint_is_calibrated_anew_from_the_original(fit, fitted, out):
    again = fit(Path(fitted.output), out)
    assert again.status == "converted"
    assert again.grafted == fitted.grafted


def test_a_pooler_that_was_trained_is_replaced_only_on_request(trained, fit, out):
    model = BertPooledMLMForMaskedLM.from_pretrained(trained)
    model.bert.pooler.dense.bias.data += 1
    model.save_pretrained(trained)
    with pytest.raises(ConversionError) as caught:
        fit(trained, out)
    assert "--replace-pooler" in caught.value.remedy
    assert fit(trained, out, replace_pooler=True).calibration["improved"]


def test_a_donor_whose_pooler_was_grafted_is_an_error(far, plain, fit, fitted, tmp_path):
    """It was trained for another encoder than its own."""
    grafted = shutil.copytree(plain.output, tmp_path / "grafted")
    with pytest.raises(ConversionError) as caught:
        fit(far, tmp_path / "out", grafted)
    assert caught.value.remedy.endswith("--pooler-from donor")
    assert not fit(far, tmp_path / "out", fitted.output).calibration["improved"]


# --- Tokenizers ------------------------------------------------------------------------------------------------------


def test_an_extended_vocabulary_is_read_with_its_own_tokenizer(donor, texts, fit, out, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    model.resize_token_embeddings(130)
    model.save_pretrained(tmp_path / "longer")
    words = [*(donor / "vocab.txt").read_text().split(), "graft", "scion"]
    (tmp_path / "longer" / "vocab.txt").write_text("\n".join(words) + "\n")
    more = tmp_path / "more.txt"
    more.write_text("\n".join(f"{line} graft" for line in texts.read_text().splitlines()))
    (note,) = fit(tmp_path / "longer", out, calibrate=more).calibration["notes"]
    assert "2 tokens more and 0 fewer" in note


def test_a_missing_tokenizer_is_taken_from_the_other_model(far, donor, fit, fitted, tmp_path):
    bare_far, bare_donor = (
        without_tokenizer(Path(shutil.copytree(folder, tmp_path / folder.name))) for folder in (far, donor)
    )
    for name, checkpoint, source in (("two", bare_far, donor), ("three", far, bare_donor)):
        assert fit(checkpoint, tmp_path / name, source).calibration == fitted.calibration
    with pytest.raises(ConversionError, match=r"^far: has no tokenizer"):
        fit(bare_far, tmp_path / "four", bare_donor)


def test_nothing_of_the_tokenizers_folder_is_executed(far, fit, out, tmp_path):
    folder = shutil.copytree(far, tmp_path / "far")
    (folder / "evil.py").write_text("raise SystemExit('executed')\n")
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    assert fit(folder, out).calibration["improved"]


# --- Errors ----------------------------------------------------------------------------------------------------------


def rewritten(name: str, change):
    return lambda place: (place / name).write_bytes(change((place / name).read_bytes()))


def other_tokenizer(place: Path) -> None:
    rewritten("donor/vocab.txt", lambda data: b"\n".join(reversed(data.split())) + b"\n")(place)
    (place / "donor" / "tokenizer.json").unlink(missing_ok=True)


def half_a_donor(place: Path) -> None:
    save_weights(place / "donor", without("layer.0.output.dense")(stored(place / "donor")))


# What is done to the folder, the options, and what the error names.
ERRORS = {
    "few texts": (rewritten("texts.txt", lambda data: b"\n".join(data.splitlines()[:20])), {}, "20 .*at least 100"),
    "too long": (None, {"calibrate_length": 65}, "reads 64 tokens"),
    "other tokenizer": (other_tokenizer, {}, "of the same tokens differently"),
    "broken tokenizer": (rewritten("checkpoint/tokenizer.json", lambda data: b"{}"), {}, "tokenizer can't be read"),
    "half a donor": (half_a_donor, {}, r"has no bert\.encoder|has no encoder"),
    "unrelated": (lambda place: save_donor(place / "donor", seed=9), {}, "its encoder is not related"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_one_line_and_nothing_is_written(case, place, texts):
    change, options, match = ERRORS[case]
    shutil.copy(texts, place / "texts.txt")
    if change:
        change(place)
    refused(place, match, **{"calibrate": place / "texts.txt", "calibrate_length": 32, **options})


def test_without_torch_it_says_what_is_missing(place, texts, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    refused(place, "--calibrate needs torch", calibrate=texts)
