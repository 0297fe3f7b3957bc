"""The README is true: every snippet runs as it stands there, and what it says is printed is printed."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from bert_pooled_mlm.convert import parser
from checkpoints import ROOT, answer, run_python, save_lost
from hub_server import HubServer

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, donor):
    """A checkout beside an MLM checkpoint whose model card names a base model that the (loopback) Hub has."""
    folder = tmp_path_factory.mktemp("readme") / "bert-pooled-mlm"
    folder.mkdir()
    for file in ROOT.glob("*.py"):
        shutil.copy(file, folder)
    save_lost(folder / "old_ckpt", donor)
    (folder / "old_ckpt" / "README.md").write_text("---\nbase_model: google-bert/bert-base-uncased\n---\n# Mine\n")
    with HubServer() as hub:
        hub.add_repo("google-bert/bert-base-uncased", donor)
        yield folder, hub.environment(folder)


def test_the_fix_works_as_it_stands_there(workplace):
    folder, environment = workplace
    command = next(block for block in blocks("sh") if "convert.py" in block)
    assert command == "python convert.py old_ckpt\n"
    shell = {**os.environ, **environment, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, env=shell, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "google-bert/bert-base-uncased" in done.stdout
    assert (folder / "old_ckpt-pooled" / "modeling_bert_pooled_mlm.py").is_file()


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_every_python_snippet_runs(workplace, number):
    folder, environment = workplace
    assert (folder / "old_ckpt-pooled").is_dir(), "the fix above has to run first"
    done = run_python(blocks("python")[number], folder, **environment)
    assert done.returncode == 0, done.stderr


def test_the_snippets_give_what_the_text_says(workplace):
    folder, environment = workplace
    first, second = (block for block in blocks("python") if "vectors =" in block)
    code = f"{first}\none = vectors.detach().numpy()\n{second}\nprint(float(abs(one - vectors).max()))"
    # sentence-transformers sorts a batch by length, and a row's last bits depend on its place in the batch
    assert answer(code, folder, **environment) < 1e-6


def test_the_options_stand_there_as_the_help_has_them():
    listed = next(block for block in blocks("text") if "--pooler-from DONOR" in block)
    for action in parser()._actions:
        if action.dest not in ("help", "checkpoints"):
            names = ", ".join(action.option_strings)
            assert re.search(
                rf"^  {re.escape(names)}\b.* {re.escape(action.help.split(';')[0])}", listed, re.MULTILINE
            )
    assert (
        re.findall(r"--[\w-]+", listed)
        == [name for a in parser()._actions for name in a.option_strings if "--" in name][1:]
    )


def test_ci_runs_the_test_command_exactly_as_it_stands_there():
    install, test = (block for block in blocks("sh") if "pip install" in block)
    assert test in (ROOT / ".ci" / "run").read_text()
    program = re.search(r"\S+\.py", install).group()
    assert (ROOT / program).is_file()


def test_all_that_it_links_to_is_there():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_chinese_readme_has_the_same_snippets():
    chinese = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    assert blocks("python", chinese) == blocks("python")
    assert blocks("sh", chinese) == blocks("sh")
    options = [re.findall(r"^  (?:-\w, )?--[\w-]+.*?(?=  )", text, re.MULTILINE) for text in (README, chinese)]
    assert options[0] == options[1] != []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_demonstrations_table_is_the_recorded_one(name):
    recorded = json.loads((ROOT / "docs" / "figures" / "rescue.json").read_text())
    table = next(block for block in blocks("text", (ROOT / name).read_text(encoding="utf-8")) if "chance" in block)
    before, after = recorded["before"]["accuracy"], recorded["after"]["accuracy"]
    assert f"{min(before):.2f} to {max(before):.2f} " in table
    assert table.count(f"{after[0]:.2f}\n") == 1
    assert len(set(after)) == 1
    assert f"the donor's accuracy: {recorded['donor_accuracy']:.2f}" in table


def test_the_report_has_the_lines_that_a_conversion_prints():
    """The one in the README is the demonstration's; its rows are named and ordered as in a run of today."""
    shown = next(block for block in blocks("text") if block.startswith("$ python convert.py"))
    rows = ["status", "checkpoint", "missing", "donor", "found by", "lineage", "grafted", "grafted", "kept", "copied"]
    assert [line[:12].strip() for line in shown.splitlines()[1:13]] == [*rows, "verified", "output"]
