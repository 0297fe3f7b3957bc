"""What a report holds, and what it prints."""

import hashlib
import json
import shutil
import textwrap
from pathlib import Path

import pytest
from bert_pooled_mlm import ConversionError, convert
from bert_pooled_mlm.conversion.report import NO_MODULES, PLANNED
from bert_pooled_mlm.convert import main
from checkpoints import FORMATS, POOLER, bits, contents, save_weights, state, stored, todays
from grafting import graft, tied_copies
from programs import answer
from safetensors.torch import load_file, save_file

ROWS = [
    "status", "checkpoint", "missing", "donor", "found by", "lineage", "grafted", "grafted", "cast", "kept", "dropped",
    "dropped", "copied", "left behind", "tokenizer", "output",
]  # fmt: skip


@pytest.mark.parametrize("dry_run", [False, True], ids=["converted", "planned"])
def test_the_report_lists_what_was_kept_grafted_and_dropped_and_a_plan_what_would_be(dry_run, checkpoint, donor, out):
    tensors = {name: it.half() for name, it in todays(checkpoint).items()}
    save_weights(checkpoint, tensors | tied_copies(tensors))
    (checkpoint / "optimizer.pt").write_bytes(b"")
    before = state(checkpoint), state(donor)
    report = graft(checkpoint, donor, dry_run=dry_run)
    assert report.status == ("planned" if dry_run else "converted")
    assert report.kept_tensors == len(tensors)
    assert report.kept_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert (report.left_behind, report.output) == (["optimizer.pt"], str(out))
    rows = [row[:12].strip() for row in str(report).partition("\n\nLoad it:\n")[0].splitlines()]
    assert rows == [PLANNED.get(name, name) if dry_run else name for name in ROWS]
    assert out.exists() != dry_run
    assert (state(checkpoint), state(donor)) == before


def test_json_prints_the_report_as_one_object(lost, donor, tmp_path, capsys):
    arguments = [str(lost), "--pooler-from", str(donor), "--no-verify", "--json", "-o"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    printed = json.loads(capsys.readouterr().out)
    report = graft(lost, donor, tmp_path / "two").to_dict()
    assert printed.pop("output") == str(tmp_path / "one")
    assert report.pop("output") == str(tmp_path / "two")
    assert printed == report
    assert printed["status"] == "converted"


def test_after_a_fit_the_report_has_the_hashes_of_both_poolers(fitted, donor):
    """Of the tensors as they are stored, and of the donor's, as they were before the fit."""

    def digests(folder) -> dict[str, str]:
        return {name: hashlib.sha256(todays(folder)[name].numpy().tobytes()).hexdigest() for name in POOLER}

    ours, original = digests(Path(fitted.output)), digests(donor)
    assert not set(ours.values()) & set(original.values()), "premise: the fit was better"
    assert (fitted.to_dict()["grafted"], fitted.to_dict()["donor_sha256"]) == (ours, original)
    for name in POOLER:
        row = f"grafted      {name}, sha256 {ours[name][:16]}; the donor's, before the fit: {original[name][:16]}"
        assert row in str(fitted).splitlines()


# --- Load it ---------------------------------------------------------------------------------------------------------


def printed(report) -> str:
    """The lines that a report prints to be pasted."""
    return textwrap.dedent(str(report).partition("\n\nLoad it:\n")[2])


USED = """
import json, torch
ids = torch.tensor([[2, 6, 7, 3]])
with torch.no_grad():
    output = model(ids)
    found = {"last": torch.equal(output[-1], output.pooler_output)}
    inner = getattr(model, "bert", model)
    found |= {"inner": hasattr(inner, "pooler") and hasattr(inner, "encoder")}
    found |= {"own": hasattr(model, "pooler") and hasattr(model, "encoder")}
found["tokenizer"] = "tokenizer" in vars() and tokenizer("word1")["input_ids"] == [2, 6, 3]
print(json.dumps(found))
"""


@pytest.mark.versions
def test_the_printed_lines_do_what_the_comment_among_them_says_in_a_fresh_process(rescued, report, tmp_path):
    """What `[-1]` is, and where the encoder and the pooler are."""
    lines, pooled = printed(report), rescued.name == "pooled"
    expected = {"last": not pooled, "inner": True, "own": not pooled, "tokenizer": True}
    assert answer(lines + USED, tmp_path) == expected
    assert ("# return_logits=False: vectors only" in lines) == pooled
    if pooled:
        lines = f"{lines.rstrip().removesuffix(')')}, return_logits=False)"
        assert answer(lines + USED, tmp_path) == expected | {"last": True}


# --- Pooled already --------------------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize("source", [*FORMATS, "saved by our class"])
def test_a_pooled_folder_is_left_alone_and_the_report_loads_it(source, pooled, rescues, donor, out, tmp_path):
    folder, format = (rescues[source].output, source) if source in FORMATS else (pooled, "pooled")
    before = state(Path(folder))
    for output in (None, out):
        report = convert(folder, output, format=format, pooler_from=donor)
        assert (report.status, report.output) == ("already pooled", None)
        assert [str(out) in remark for remark in report.remarks] == ([] if output is None else [True])
        assert not out.exists()
    assert state(Path(folder)) == before
    expected = {"last": source == "bert", "inner": True, "own": source == "bert", "tokenizer": True}
    assert answer(printed(report) + USED, tmp_path) == expected


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("gone", ["all", "the folders"])
@pytest.mark.parametrize("format", [*FORMATS, "encoder"])
def test_a_pooled_folder_that_lacks_modules_is_completed_with_o(gone, format, lost, donor, tmp_path):
    """As `cp folder/*` leaves it, which takes no folders. Its pooler is its own: no donor is looked for."""
    whole = Path(graft(lost, donor, tmp_path / "whole", format=format).output)
    part = Path(shutil.copytree(whole, tmp_path / "part"))
    for name in ("1_Pooling", "2_Dense"):
        shutil.rmtree(part / name)
    if gone == "all":
        for name in ("modules.json", "sentence_bert_config.json"):
            (part / name).unlink()
    before = state(part)
    alone = convert(part, format=format)
    assert alone.status == "already pooled"
    assert [f"{NO_MODULES}: -o DIR" in remark for remark in alone.remarks] == [True]
    assert not (tmp_path / "part-pooled").exists()
    planned = convert(part, tmp_path / "out", format=format, dry_run=True)
    assert (planned.status, planned.donor, (tmp_path / "out").exists()) == ("planned", None, False)
    report = convert(part, tmp_path / "out", format=format, verify=format == "pooled")
    assert (report.status, report.donor, report.grafted) == ("converted", None, {})
    assert [NO_MODULES in remark for remark in report.remarks] == [True]
    written, complete = contents(tmp_path / "out"), contents(whole)
    anew = {"README.md", "model.safetensors"}  # the card marks what is only stated; the header has its hash
    assert {it: written[it] for it in {*written} - anew} == {it: complete[it] for it in {*complete} - anew}
    assert bits(stored(tmp_path / "out")) == bits(stored(whole))
    assert state(part) == before


def test_a_dense_that_was_trained_is_neither_overwritten_nor_kept_silently(pooled, out, tmp_path):
    """In sentence-transformers, which leaves the model's own pooler as it was."""
    folder = Path(shutil.copytree(pooled, tmp_path / "trained"))
    dense = load_file(folder / "2_Dense" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in dense.items()}, folder / "2_Dense" / "model.safetensors")
    report = convert(folder, out)
    assert report.status == "already pooled"
    differs = "2_Dense/model.safetensors differs from bert.pooler.dense"
    assert [differs in remark for remark in report.remarks] == [False, True]
    (folder / "modules.json").unlink()
    with pytest.raises(ConversionError, match=differs):
        convert(folder, out)
    assert not out.exists()
