"""`--calibrate`: from the command line to a folder that loads, and what is refused."""

import copy
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM, ConversionError, ConversionReport, conversion, convert
from bert_pooled_mlm.convert import main
from checkpoints import (
    FORMATS,
    LAYER_NORM,
    POOLER,
    ROOT,
    contents,
    differing,
    edit_json,
    randomize,
    renamed,
    save_donor,
    save_lost,
    save_tokenizer,
    save_weights,
    state,
    stored,
    took,
)
from grafting import Conversions, config_of, graft, without
from programs import answer, run_python
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def plain(far, donor, tmp_path_factory) -> ConversionReport:
    """What the conversion of `far` without a fit reports."""
    return graft(far, donor, tmp_path_factory.mktemp("plain") / "out")


def test_from_the_command_line_to_two_equal_loads(far, donor, texts, tmp_path, capsys):
    before = state(far), state(donor), texts.read_bytes()
    for format in FORMATS:
        named = [far, "-o", tmp_path / format, "--pooler-from", donor, "--format", format]
        arguments = [*map(str, named), "--calibrate", str(texts), "--calibrate-length", "32"]
        if format == "pooled":
            done = run_python(ROOT / "convert.py", tmp_path, *arguments)
            assert done.returncode == 0, done.stderr
            out, err = done.stdout, done.stderr
        else:  # in this process: a new one imports for longer than it converts
            assert main(arguments) == 0
            out, err = capsys.readouterr()
        assert "calibrating on 300 texts, on " in err
        assert "calibrated   on 300 texts, sha256 " in out
        assert "two loads through AutoModel identical" in out
    assert (state(far), state(donor), texts.read_bytes()) == before
    graft(far, donor, tmp_path / "plain")
    folders = [tmp_path / name for name in (*FORMATS, "plain")]
    *calibrated, (_, plain) = answer("pooled_cosines", tmp_path, donor, *folders)
    for equal, cosine in calibrated:
        assert equal
        assert cosine > plain + 0.005


def test_everything_but_the_pooler_stays_bit_for_bit(plain, fitted):
    assert differing(stored(Path(plain.output)), stored(Path(fitted.output))) == set(POOLER)
    assert plain.grafted.keys() == fitted.grafted.keys()
    assert plain.grafted != fitted.grafted


def test_without_the_flag_the_graft_is_the_originals_bits(plain, donor):
    assert took(Path(plain.output), donor)
    assert "calibration" not in config_of(plain.output)["pooler_source"]


def test_the_dense_module_holds_the_calibrated_pooler(far, fit, out):
    fit(far, out, format="bert")
    dense = load_file(out / "2_Dense" / "model.safetensors")
    assert all(torch.equal(dense[f"linear.{key.split('.')[-1]}"], stored(out)[key]) for key in POOLER)


def test_twice_the_same_bytes(far, fit, fitted, out):
    fit(far, out)
    assert contents(out) == contents(Path(fitted.output))


@pytest.mark.versions
def test_a_donor_on_the_hub_is_fetched_whole_and_the_result_pushed(far, donor, texts, hub, tmp_path):
    hub.add_repo("google-bert/tiny", donor)
    with Conversions(**hub.environment(tmp_path, hub.TOKEN)) as conversions:
        donor_and_texts = ["--pooler-from", "google-bert/tiny", "--calibrate", texts, "--calibrate-length", "32"]
        named = ["-o", "out", "--push-to-hub", "user/tiny", "--json"]
        done = conversions.run(far, *donor_and_texts, *named, cwd=str(tmp_path))
    report = json.loads(done["out"])
    assert report["calibration"]["improved"]
    assert report["donor_commit"] == hub.commits("google-bert/tiny")[-1].sha
    files = hub.files("user/tiny")
    assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert b'"cosine_after"' in files["config.json"]
    machine = tmp_path / "machine"
    machine.mkdir()
    options = json.dumps({"trust_remote_code": True})
    _, _, pooler, source = answer("load", machine, "user/tiny", options, **hub.environment(machine, hub.TOKEN))
    assert source["calibration"]["texts"] == 300
    assert pooler == [stored(tmp_path / "out")[key].tolist() for key in POOLER]


def test_a_dry_run_reads_the_texts_and_fits_nothing(far, donor, texts, out, capsys):
    arguments = [far, "-o", out, "--pooler-from", donor, "--calibrate", texts, "--calibrate-length", "32"]
    assert main([*map(str, arguments), "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "would fit    on 300 texts" in captured.out
    assert "calibrating" not in captured.err
    assert not out.exists()


def test_where_nothing_has_moved_the_original_stays_and_the_report_says_so(donor, fit, out, tmp_path):
    report = fit(save_lost(tmp_path / "lost", donor, drift=0), out)
    assert not report.calibration["improved"]
    assert "no better, so the original pooler was kept" in str(report)
    assert took(out, donor)
    assert "calibration" not in config_of(out)["pooler_source"]


@pytest.mark.parametrize("kind", ["bin", "shards", "old names", "half"])
def test_every_layout_of_checkpoint_and_donor(far, donor, fit, fitted, out, tmp_path, kind):
    folders = []
    for source, name in ((far, "far"), (donor, "donor")):
        folders.append(shutil.copytree(source, tmp_path / name))
        tensors = stored(source)
        if kind == "old names":
            tensors = renamed(tensors, {new: old for old, new in LAYER_NORM.items()})
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


def test_a_pooler_that_was_trained_is_not_replaced_unasked(trained, fit, out):
    model = BertPooledMLMForMaskedLM.from_pretrained(trained)
    model.bert.pooler.dense.bias.data += 1
    model.save_pretrained(trained)
    text = r"its pooler is not that of donor: it has been trained.*--replace-pooler"
    with pytest.raises(ConversionError, match=text):
        fit(trained, out)
    assert fit(trained, out, replace_pooler=True).calibration["improved"]


def test_a_grafted_donor_is_no_measure(far, plain, fit, fitted, tmp_path):
    """Its pooler was trained for another encoder than its own."""
    grafted = shutil.copytree(plain.output, tmp_path / "grafted")
    message = "its own pooler was grafted, from donor, .*: --pooler-from donor$"
    with pytest.raises(ConversionError, match=message):
        fit(far, tmp_path / "out", grafted)
    assert not fit(far, tmp_path / "out", fitted.output).calibration["improved"]


# --- Tokenizers ------------------------------------------------------------------------------------------------------


def test_an_extended_vocabulary_is_read_by_each_in_its_own_way(donor, texts, fit, out, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    model.resize_token_embeddings(130)
    model.save_pretrained(tmp_path / "longer")
    words = [*(donor / "vocab.txt").read_text().split(), "graft", "scion"]
    (tmp_path / "longer" / "vocab.txt").write_text("\n".join(words) + "\n")
    more = tmp_path / "more.txt"
    more.write_text("\n".join(f"{line} graft" for line in texts.read_text().splitlines()))
    assert "the vocabulary has 2 tokens more and 0 fewer" in str(fit(tmp_path / "longer", out, calibrate=more))


def without_tokenizer(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (target / name).unlink(missing_ok=True)
    return target


def test_a_missing_tokenizer_is_lent_by_the_other(far, donor, fit, fitted, tmp_path):
    bare_far, bare_donor = without_tokenizer(far, tmp_path / "far"), without_tokenizer(donor, tmp_path / "bare")
    for name, checkpoint, source in (("two", bare_far, donor), ("three", far, bare_donor)):
        assert fit(checkpoint, tmp_path / name, source).calibration == fitted.calibration
    with pytest.raises(ConversionError, match="far: has no tokenizer to read texts with; copy its files"):
        fit(bare_far, tmp_path / "four", bare_donor)


def test_nothing_of_the_tokenizers_folder_is_executed(far, fit, out, tmp_path):
    folder = shutil.copytree(far, tmp_path / "far")
    (folder / "evil.py").write_text("raise SystemExit('executed')\n")
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    assert fit(folder, out).calibration["improved"]


# --- Refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(far, donor, texts, tmp_path) -> Path:
    folder = tmp_path / "place"
    shutil.copytree(far, folder / "checkpoint")
    shutil.copytree(donor, folder / "donor")
    shutil.copy(texts, folder / "texts.txt")
    return folder


@pytest.fixture
def calibrating(place):
    """`--calibrate` on the command line; gives the exit code."""

    def run(*more: str) -> int:
        folders = [place / "checkpoint", "-o", place / "out", "--pooler-from", place / "donor"]
        texts = ["--calibrate", place / "texts.txt", "--calibrate-length", "32", "--no-verify"]
        return main([*map(str, [*folders, *texts]), *more])

    return run


def rewritten(name: str, change):
    return lambda place: (place / name).write_bytes(change((place / name).read_bytes()))


def other_tokenizer(place: Path) -> None:
    rewritten("donor/vocab.txt", lambda data: b"\n".join(reversed(data.split())) + b"\n")(place)
    (place / "donor" / "tokenizer.json").unlink(missing_ok=True)


def half_a_donor(place: Path) -> None:
    save_weights(place / "donor", without("layer.0.output.dense")(stored(place / "donor")))


# What is done to the folder, or added to the command line, and what is said.
REFUSALS = {
    "few texts": (
        rewritten("texts.txt", lambda data: b"\n".join(data.splitlines()[:20])),
        r"--calibrate .*texts.txt: 20 different texts; at least 100",
    ),
    "not UTF-8": (rewritten("texts.txt", lambda data: b"sch\xf6n\n" * 100), r"--calibrate .*texts.txt: not UTF-8"),
    "no file": (lambda place: (place / "texts.txt").unlink(), r"--calibrate .*texts.txt: .*no such file"),
    "too long": (["--calibrate-length", "65"], r"reads 64 tokens; --calibrate-length is 65"),
    "no device": (["--device", "cuda:99"], r"--device cuda:99: "),
    "other tokenizer": (other_tokenizer, r"of the same tokens differently"),
    "broken tokenizer": (rewritten("checkpoint/tokenizer.json", lambda data: b"{}"), r"its tokenizer can't be read"),
    "half a donor": (half_a_donor, r"has no bert.encoder.*|has no encoder.*"),
    "unrelated": (lambda place: save_donor(place / "donor", seed=9), r"its encoder is not related"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_line_and_nothing_is_written(case, place, calibrating, capsys):
    change, message = REFUSALS[case]
    if callable(change):
        change(place)
    before = state(place)
    assert calibrating(*([] if callable(change) else change)) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert re.search(message, error[0]), error
    assert state(place).keys() == before.keys()


def test_without_torch_it_says_what_is_missing(calibrating, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    assert calibrating() == 1
    assert "--calibrate needs torch; install what is missing" in capsys.readouterr().err


def test_an_interrupted_fit_leaves_nothing(place, calibrating, monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion.regression, "_choose_penalty", interrupted)
    before = {path.name for path in place.iterdir()}
    assert calibrating() == 130
    assert "interrupted" in capsys.readouterr().err
    assert {path.name for path in place.iterdir()} == before
