"""What a report says."""

import json

import torch
from bert_pooled_mlm.convert import main
from checkpoints import POOLER, save_weights, todays
from grafting import graft, tied_copies


def test_the_report_says_what_was_kept_grafted_dropped_and_how_to_load_it(checkpoint, donor, out):
    save_weights(checkpoint, todays(checkpoint) | tied_copies(todays(checkpoint)))
    (checkpoint / "optimizer.pt").write_bytes(b"")
    report = graft(checkpoint, donor)
    kept = todays(out)
    assert report.kept_tensors == len(kept) - 2
    assert report.kept_bytes == sum(tensor.nbytes for name, tensor in kept.items() if name not in POOLER)
    table, _, lines = str(report).partition("\n\nLoad it:\n")
    assert [row.split()[0] for row in table.splitlines() if not row.startswith(("found by", "left behind"))] == [
        "status", "checkpoint", "missing", "donor", "lineage", "grafted", "grafted", "kept", "dropped", "dropped",
        "copied", "tokenizer", "output",
    ]  # fmt: skip
    assert f"output       {out}" in table
    assert "left behind  optimizer.pt" in table
    namespace = {}
    exec("\n".join(line.strip() for line in lines.splitlines()), namespace)  # the three lines to paste
    assert torch.equal(namespace["model"].bert.pooler.dense.weight, todays(donor)[POOLER[0]])


def test_json_prints_the_report_as_one_object(lost, donor, tmp_path, capsys):
    arguments = [str(lost), "--pooler-from", str(donor), "--no-verify", "--json", "-o"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    printed = json.loads(capsys.readouterr().out)
    report = graft(lost, donor, tmp_path / "two").to_dict()
    assert printed.pop("output") == str(tmp_path / "one")
    assert report.pop("output") == str(tmp_path / "two")
    assert printed == report
    assert printed["status"] == "converted"
