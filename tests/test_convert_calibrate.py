"""`convert.py --calibrate`: from the command line to a folder that loads, and what is recorded and refused."""

import json
import random
import re
import shutil
import subprocess
import sys

import pytest
import torch
from bert_pooled_mlm import BertPooledMLMForMaskedLM
from bert_pooled_mlm.convert import POOLER, ConversionError, convert, main
from checkpoints import (
    ROOT,
    answer,
    contents,
    edit_json,
    run_python,
    save_donor,
    save_lost,
    save_tokenizer,
    save_weights,
    state,
    stored,
)
from hub_server import HubServer

SHORT = {"calibrate_length": 32, "verify": False}


@pytest.fixture(scope="module")
def far(tmp_path_factory, donor):
    """An MLM checkpoint that its training moved far: there is something to bring back."""
    return save_lost(tmp_path_factory.mktemp("far") / "far", donor, drift=0.02)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    generator = random.Random(0)
    lines = [
        " ".join(f"word{generator.randrange(123)}" for _ in range(generator.randrange(3, 20))) for _ in range(300)
    ]
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(lines))
    return file


OUTPUTS = """
import json, sys
import torch
from transformers import AutoModel, AutoTokenizer, BertModel
folder, donor = sys.argv[1], sys.argv[2]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
batch = tokenizer([f"word{n} word{n + 7} word{3 * n}" for n in range(40)], return_tensors="pt")
load = lambda: AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    one, other = load()(**batch).pooler_output, load()(**batch).pooler_output
    target = BertModel.from_pretrained(donor).eval()(**batch).pooler_output
print(json.dumps([torch.equal(one, other), float(torch.cosine_similarity(one, target).mean())]))
"""


@pytest.mark.versions
@pytest.mark.parametrize("format", ["pooled", "bert"])
def test_from_the_command_line_to_two_equal_loads(far, donor, texts, tmp_path, format):
    command = [sys.executable, ROOT / "convert.py", far, "-o", tmp_path / "out", "--pooler-from", donor]
    command += ["--calibrate", texts, "--calibrate-length", "32", "--format", format]
    before = state(far), state(donor), texts.read_bytes()
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "calibrating on 300 texts, on " in done.stderr
    assert "calibrated   on 300 texts, sha256 " in done.stdout
    assert "two loads through AutoModel identical" in done.stdout
    assert (state(far), state(donor), texts.read_bytes()) == before
    convert(far, tmp_path / "plain", pooler_from=donor, format=format, verify=False)
    equal, calibrated = answer(OUTPUTS, tmp_path, tmp_path / "out", donor)
    _, plain = answer(OUTPUTS, tmp_path, tmp_path / "plain", donor)
    assert equal
    assert calibrated > plain + 0.005


def test_everything_but_the_pooler_stays_bit_for_bit(far, donor, texts, tmp_path):
    plain = convert(far, tmp_path / "plain", pooler_from=donor, verify=False)
    fitted = convert(far, tmp_path / "fitted", pooler_from=donor, calibrate=texts, **SHORT)
    one, other = stored(tmp_path / "plain"), stored(tmp_path / "fitted")
    assert {key for key in one if not torch.equal(one[key], other[key])} == set(POOLER)
    assert plain.grafted.keys() == fitted.grafted.keys()
    assert plain.grafted != fitted.grafted


def test_without_the_flag_the_graft_is_the_originals_bits(far, donor, tmp_path):
    convert(far, tmp_path / "plain", pooler_from=donor, verify=False)
    one, other = stored(tmp_path / "plain"), stored(donor)
    assert all(torch.equal(one[key], other[key]) for key in POOLER)
    assert "calibration" not in json.loads((tmp_path / "plain" / "config.json").read_text())["pooler_source"]


def test_the_fit_is_recorded_and_the_texts_are_not(far, donor, texts, tmp_path):
    out = tmp_path / "out"
    report = convert(far, out, pooler_from=donor, calibrate=texts, **SHORT)
    recorded = json.loads((out / "config.json").read_text())["pooler_source"]
    assert recorded["sha256"] == report.grafted
    fit = recorded["calibration"]
    assert fit.keys() == {"texts", "held_out", "sha256", "penalty", "cosine_before", "cosine_after"}
    assert (fit["texts"], fit["held_out"]) == (300, 60)
    assert fit.items() <= report.calibration.items()
    card = (out / "README.md").read_text()
    assert f"sha256 `{fit['sha256']}`" in card
    assert f"{fit['cosine_before']:.4f} before, {fit['cosine_after']:.4f} after" in card
    assert "The pooler was refitted to\nthe adapted encoder" in card
    lines = texts.read_text().splitlines()
    assert not any(line.encode() in content for content in contents(out).values() for line in lines)
    assert str(texts) not in card + json.dumps(recorded)


def test_the_dense_module_holds_the_calibrated_pooler(far, donor, texts, tmp_path):
    convert(far, tmp_path / "out", pooler_from=donor, calibrate=texts, format="bert", **SHORT)
    pooler = [stored(tmp_path / "out")[key] for key in POOLER]
    code = """
import json, sys
from safetensors.torch import load_file
dense = load_file("2_Dense/model.safetensors")
print(json.dumps([dense["linear.weight"].tolist(), dense["linear.bias"].tolist()]))
"""
    assert answer(code, tmp_path / "out") == [part.tolist() for part in pooler]


def test_twice_the_same_bytes(far, donor, texts, tmp_path):
    for name in ("one", "other"):
        convert(far, tmp_path / name / "out", pooler_from=donor, calibrate=texts, **SHORT)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


@pytest.mark.versions
def test_the_record_survives_loading_training_and_saving(far, donor, texts, tmp_path):
    convert(far, tmp_path / "out", pooler_from=donor, calibrate=texts, **SHORT)
    model = BertPooledMLMForMaskedLM.from_pretrained(tmp_path / "out")
    model.save_pretrained(tmp_path / "again")
    one, other = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("out", "again"))
    assert one["pooler_source"] == other["pooler_source"]
    assert all(torch.equal(stored(tmp_path / "out")[key], stored(tmp_path / "again")[key]) for key in POOLER)


@pytest.mark.versions
def test_a_donor_on_the_hub_is_fetched_whole_and_the_result_pushed(far, donor, texts, tmp_path):
    with HubServer() as hub:
        hub.add_repo("google-bert/tiny", donor)
        code = f"""
import json, sys
from bert_pooled_mlm import convert
report = convert({str(far)!r}, "out", pooler_from="google-bert/tiny", calibrate={str(texts)!r}, calibrate_length=32,
                 push_to_hub="user/tiny", verify=False)
print(json.dumps(report.to_dict()))
"""
        report = answer(code, tmp_path, **hub.environment(tmp_path, hub.TOKEN))
        assert report["calibration"]["improved"]
        assert report["donor_commit"] == hub.commits("google-bert/tiny")[-1].sha
        files = hub.files("user/tiny")
        assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
        assert b'"cosine_after"' in files["config.json"]
        load = """
import json
from transformers import AutoModel
model = AutoModel.from_pretrained("user/tiny", trust_remote_code=True)
print(json.dumps([model.bert.pooler.dense.weight.tolist(), model.config.pooler_source["calibration"]["texts"]]))
"""
        machine = tmp_path / "machine"
        machine.mkdir()
        weight, count = answer(load, machine, **hub.environment(machine, hub.TOKEN))
    assert count == 300
    assert weight == stored(tmp_path / "out")[POOLER[0]].tolist()


def test_a_dry_run_reads_the_texts_and_fits_nothing(far, donor, texts, tmp_path, capsys):
    arguments = [str(far), "-o", str(tmp_path / "out"), "--pooler-from", str(donor), "--calibrate", str(texts)]
    assert main([*arguments, "--calibrate-length", "32", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "calibrated   not yet: would be fitted on 300 texts" in captured.out
    assert "calibrating" not in captured.err
    assert not (tmp_path / "out").exists()


def test_fewer_samples_are_taken_from_all_over_the_file(far, donor, texts, tmp_path):
    report = convert(far, tmp_path / "out", pooler_from=donor, calibrate=texts, calibrate_samples=100, **SHORT)
    assert report.calibration["texts"] == 100


def test_where_nothing_has_moved_the_original_stays_and_the_report_says_so(donor, texts, tmp_path):
    lost = save_lost(tmp_path / "lost", donor, drift=0)
    report = convert(lost, tmp_path / "out", pooler_from=donor, calibrate=texts, **SHORT)
    assert not report.calibration["improved"]
    assert "no better, so the original pooler was kept" in str(report)
    one, other = stored(tmp_path / "out"), stored(donor)
    assert all(torch.equal(one[key], other[key]) for key in POOLER)
    assert "calibration" not in json.loads((tmp_path / "out" / "config.json").read_text())["pooler_source"]


@pytest.mark.parametrize("kind", ["bin", "shards", "old names", "half"])
def test_every_layout_of_checkpoint_and_donor(far, donor, texts, tmp_path, kind):
    folders = []
    for source, name in ((far, "far"), (donor, "donor")):
        folder = shutil.copytree(source, tmp_path / name)
        tensors = stored(folder)
        if kind == "old names":
            tensors = {
                key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
                for key, tensor in tensors.items()
            }
        if kind == "half":
            tensors = {key: tensor.half() for key, tensor in tensors.items()}
        save_weights(folder, tensors, 2 if kind == "shards" else 1, "bin" if kind == "bin" else "safetensors")
        folders.append(folder)
    report = convert(folders[0], tmp_path / "out", pooler_from=folders[1], calibrate=texts, **SHORT)
    assert report.calibration["improved"]
    assert stored(tmp_path / "out")[POOLER[0]].dtype is (torch.float16 if kind == "half" else torch.float32)
    if kind != "half":
        expected = convert(far, tmp_path / "expected", pooler_from=donor, calibrate=texts, **SHORT)
        assert report.grafted == expected.grafted


@pytest.fixture
def trained(donor, texts, tmp_path):
    """Trained with the package's own class from the donor, so that it kept the donor's pooler."""
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pooler" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    folder = tmp_path / "trained"
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def test_a_pooled_checkpoint_that_was_trained_is_calibrated_too(trained, donor, texts, tmp_path):
    assert convert(trained, tmp_path / "out").status == "already pooled"
    report = convert(trained, tmp_path / "out", pooler_from=donor, calibrate=texts, **SHORT)
    assert report.status == "converted"
    assert report.missing == []
    assert report.calibration["improved"]
    assert not torch.equal(stored(tmp_path / "out")[POOLER[0]], stored(donor)[POOLER[0]])


def test_a_calibrated_checkpoint_is_calibrated_anew_from_the_original(far, donor, texts, tmp_path):
    first = convert(far, tmp_path / "first", pooler_from=donor, calibrate=texts, **SHORT)
    again = convert(tmp_path / "first", tmp_path / "again", pooler_from=donor, calibrate=texts, **SHORT)
    assert again.status == "converted"
    assert again.grafted == first.grafted


def test_a_pooler_that_was_trained_is_not_replaced_unasked(trained, donor, texts, tmp_path):
    tensors = stored(trained)
    tensors[POOLER[1]] = tensors[POOLER[1]] + 1
    save_weights(trained, tensors)
    with pytest.raises(
        ConversionError, match=r"its pooler is not that of donor: it has been trained.*--replace-pooler"
    ):
        convert(trained, tmp_path / "out", pooler_from=donor, calibrate=texts, **SHORT)
    report = convert(trained, tmp_path / "out", pooler_from=donor, calibrate=texts, replace_pooler=True, **SHORT)
    assert report.calibration["improved"]


def test_a_grafted_donor_is_no_measure(far, donor, texts, tmp_path):
    """Its pooler was trained for another encoder than its own."""
    convert(far, tmp_path / "grafted", pooler_from=donor, verify=False)
    message = "its own pooler was grafted, from donor, .*: --pooler-from donor$"
    with pytest.raises(ConversionError, match=message):
        convert(far, tmp_path / "out", pooler_from=tmp_path / "grafted", calibrate=texts, **SHORT)
    convert(far, tmp_path / "fitted", pooler_from=donor, calibrate=texts, **SHORT)
    report = convert(far, tmp_path / "out", pooler_from=tmp_path / "fitted", calibrate=texts, **SHORT)
    assert not report.calibration["improved"]


# --- Tokenizers ------------------------------------------------------------------------------------------------------


def test_an_extended_vocabulary_is_read_by_each_in_its_own_way(donor, texts, tmp_path):
    model = BertPooledMLMForMaskedLM.from_pretrained(donor)
    model.resize_token_embeddings(130)
    model.save_pretrained(tmp_path / "longer")
    words = [*(donor / "vocab.txt").read_text().split(), "graft", "scion"]
    (tmp_path / "longer" / "vocab.txt").write_text("\n".join(words) + "\n")
    more = tmp_path / "more.txt"
    more.write_text("\n".join(f"{line} graft" for line in texts.read_text().splitlines()))
    report = convert(tmp_path / "longer", tmp_path / "out", pooler_from=donor, calibrate=more, **SHORT)
    assert "the vocabulary has 2 tokens more and 0 fewer" in str(report)


def without_tokenizer(folder, target):
    shutil.copytree(folder, target)
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (target / name).unlink(missing_ok=True)
    return target


def test_a_missing_tokenizer_is_lent_by_the_other(far, donor, texts, tmp_path):
    bare_far, bare_donor = without_tokenizer(far, tmp_path / "far"), without_tokenizer(donor, tmp_path / "bare")
    expected = convert(far, tmp_path / "one", pooler_from=donor, calibrate=texts, **SHORT)
    for name, checkpoint, source in (("two", bare_far, donor), ("three", far, bare_donor)):
        report = convert(checkpoint, tmp_path / name, pooler_from=source, calibrate=texts, **SHORT)
        assert report.calibration == expected.calibration
    with pytest.raises(ConversionError, match="far: has no tokenizer to read texts with; copy its files"):
        convert(bare_far, tmp_path / "four", pooler_from=bare_donor, calibrate=texts, **SHORT)


def test_nothing_of_the_tokenizers_folder_is_executed(far, donor, texts, tmp_path):
    folder = shutil.copytree(far, tmp_path / "far")
    (folder / "evil.py").write_text("raise SystemExit('executed')\n")
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    assert convert(folder, tmp_path / "out", pooler_from=donor, calibrate=texts, **SHORT).calibration["improved"]


# --- Refusals: one line, exit code 1, nothing written ----------------------------------------------------------------


def refusals(far, donor, texts, tmp_path):
    few, latin = tmp_path / "few.txt", tmp_path / "latin.txt"
    few.write_text("\n".join(texts.read_text().splitlines()[:20]))
    latin.write_bytes(b"sch\xf6n\n" * 100)
    cased = shutil.copytree(donor, tmp_path / "cased")
    (cased / "vocab.txt").write_text("\n".join(reversed((donor / "vocab.txt").read_text().split())) + "\n")
    (cased / "tokenizer.json").unlink(missing_ok=True)
    broken = shutil.copytree(far, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    headless = shutil.copytree(donor, tmp_path / "headless")
    save_weights(headless, {k: v for k, v in stored(donor).items() if "layer.0.output.dense" not in k})
    stranger = save_donor(tmp_path / "stranger", seed=9)
    base = [far, "--pooler-from", donor, "--calibrate", texts, "--calibrate-length", "32"]
    return {
        "few texts": ([*base[:4], few, *base[5:]], r"--calibrate .*few.txt: 20 different texts; at least 100"),
        "not UTF-8": ([*base[:4], latin, *base[5:]], r"--calibrate .*latin.txt: not UTF-8"),
        "no file": ([*base[:4], tmp_path / "no.txt", *base[5:]], r"--calibrate .*no.txt: .*no such file"),
        "too long": ([*base[:6], "65"], r"reads 64 tokens; --calibrate-length is 65"),
        "no device": ([*base, "--device", "cuda:99"], r"--device cuda:99: "),
        "other tokenizer": ([far, "--pooler-from", cased, *base[3:]], r"of the same tokens differently"),
        "broken tokenizer": ([broken, *base[1:]], r"its tokenizer can't be read"),
        "half a donor": ([far, "--pooler-from", headless, *base[3:]], r"has no bert.encoder.*|has no encoder.*"),
        "unrelated": ([far, "--pooler-from", stranger, *base[3:]], r"its encoder is not related"),
    }


CASES = (
    "few texts", "not UTF-8", "no file", "too long", "no device", "other tokenizer", "broken tokenizer",
    "half a donor", "unrelated",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_is_one_line_and_nothing_is_written(case, far, donor, texts, tmp_path, capsys):
    arguments, message = refusals(far, donor, texts, tmp_path)[case]
    before = sorted(tmp_path.iterdir())
    code = main([*map(str, arguments), "-o", str(tmp_path / "out"), "--no-verify"])
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 1
    assert len(error) == 1
    assert re.search(message, error[0]), error
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--calibrate-samples", "10"], "--calibrate-samples needs --calibrate TEXTS"),
        (["--device", "cpu"], "--device needs --calibrate TEXTS"),
        (["--calibrate", "a.txt", "--calibrate-samples", "0"], "expected a positive whole number, found '0'"),
        (["--calibrate", "a.txt", "--calibrate-length", "-3"], "expected a positive whole number, found '-3'"),
    ],
)
def test_usage_errors_exit_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["checkpoint", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_without_torch_it_says_what_is_missing(far, donor, texts, tmp_path):
    code = f"""
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else found(name, *rest)
sys.path.insert(0, {str(ROOT)!r})
import convert
sys.exit(convert.main([{str(far)!r}, "--pooler-from", {str(donor)!r}, "--calibrate", {str(texts)!r}, "--no-verify"]))
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 1
    assert "--calibrate needs torch; install them" in done.stderr


def test_an_interrupted_fit_leaves_nothing(far, donor, texts, tmp_path):
    code = f"""
import sys
from bert_pooled_mlm import calibration, convert as converter
from bert_pooled_mlm.convert import main
def interrupted(*args):
    raise KeyboardInterrupt
calibration._choose_penalty = interrupted
sys.exit(main([{str(far)!r}, "-o", "out", "--pooler-from", {str(donor)!r}, "--calibrate", {str(texts)!r},
               "--calibrate-length", "32"]))
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 130
    assert "interrupted" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"hf-home"}
