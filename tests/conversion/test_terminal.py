"""The terminal: a report is printed on whatever stdout is, and what is printed can be pasted, whatever the path."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bert_pooled_mlm import conversion
from bert_pooled_mlm.convert import main
from checkpoints import ROOT, save_weights, stored
from grafting import graft

quoted, shell_quoted = conversion.terminal.quoted, conversion.terminal.shell_quoted


def in_shell(place: Path, redirection: str, *argv, **env: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf"), **env}
    words = [sys.executable, ROOT / "convert.py", "checkpoint", "--pooler-from", "donor", "--no-verify", *argv]
    command = f"{shlex.join(map(str, words))} {redirection}"
    return subprocess.run(["bash", "-c", command], cwd=place, env=variables, capture_output=True)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
def test_an_output_of_any_name_is_reported_in_any_encoding(encoding, place):
    name = "模型 ü €"
    done = in_shell(place, "", "-o", name, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = name.encode(encoding, "backslashreplace")
    assert b"output       " + expected in done.stdout
    line = done.stdout.decode(encoding).splitlines()[-1]
    assert ast.literal_eval(re.search(r'from_pretrained\((".*"),', line)[1]) == name, "still valid Python"


def test_a_pipe_that_is_closed_early_is_silent(place):
    done = in_shell(place, "| head -c 5", "-o", "out")
    assert (done.stdout, done.stderr) == (b"statu", b"")


@pytest.mark.parametrize("options", [(), ("-q", "--no-verify"), ("--json", "--no-verify")], ids=str)
def test_what_takes_its_time_is_told_on_a_terminal(options, place):
    """Silence looks like a program that hangs; in a log (the test above) those lines would tell nothing."""
    master, slave = os.openpty()
    words = [sys.executable, ROOT / "convert.py", "checkpoint", "--pooler-from", "donor", "-o", "out", *options]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hf")}
    subprocess.run(words, cwd=place, env=env, stdout=subprocess.PIPE, stderr=slave, check=True)
    os.write(slave, b"end\n")
    os.close(slave)
    printed = b""
    while not printed.endswith(b"end\r\n"):
        printed += os.read(master, 4096)
    lines = printed.decode().splitlines()
    assert lines == [*(() if options else ("looking for a donor of checkpoint ...", "verifying out ...")), "end"]
    os.close(master)


# --- Names of any kind -----------------------------------------------------------------------------------------------

NAMES = (
    "plain", "a b", "it's", 'say "x"', "back\\slash", "C:\\models\\bert", "new\nline", "tab\t", "esc\x1b[2J", "-o",
    "$(touch evil)", "`touch evil`", "\u202egnp.exe", "bell\x07", "a;b&c|d", "*", "#x", "\udcff", "\x9b31m", "模型",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_what_is_printed_is_valid_for_every_path(name, tmp_path):
    text = quoted(name)
    assert ast.literal_eval(text) == name
    assert text.isprintable()
    assert "`" not in text, "Markdown's code spans end there"
    word = shell_quoted(name)
    assert word.isprintable()
    assert conversion.errors.printable(word) == word, "an error's line leaves it as it is"
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], cwd=tmp_path, capture_output=True, check=True)
    assert os.path.normpath(os.fsdecode(printed.stdout)) == name
    assert not printed.stdout.startswith(b"-"), "no option"
    assert list(tmp_path.iterdir()) == [], "nothing is run"


def test_on_windows_the_shell_has_other_quotes(monkeypatch):
    monkeypatch.setattr(conversion.terminal.os, "name", "nt")
    assert shell_quoted("C:\\my models\\bert") == '"C:\\my models\\bert"'


@pytest.mark.parametrize(
    "name", ['say "x"', "back\\slash", "new\nline", "esc\x1b[2J", "`touch evil`", "\udcff", "模型"], ids=ascii
)
def test_report_and_card_hold_valid_python_for_every_path(name, place):
    report = graft(place / "checkpoint", place / "donor", place / name)
    table, _, python = str(report).partition("\n\nLoad it:\n")
    assert all(line.isprintable() for line in table.splitlines())
    assert len(table.splitlines()) == len(set(table.splitlines()))
    assert paths_in(python) == [str(place / name)] * 2
    card = (place / name / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert {it.replace("?", "\udcff") for block in blocks for it in paths_in(block)} == {name.replace("?", "\udcff")}
    assert card.count("```") == 2 * len(blocks) > 0
    heading = re.search(r"^# (.*)$", card, re.MULTILINE)[1]
    assert not set(heading) & set("`*[]<>\x1b\u202e\\$#"), heading


def paths_in(python: str) -> list[str]:
    """What its calls of `from_pretrained` are given."""
    tree = ast.parse("\n".join(line.strip() for line in python.splitlines()))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [it.args[0].value for it in calls if getattr(it.func, "attr", "") == "from_pretrained"]


ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b1A\u202e\r\nverified     all of it"


@pytest.mark.parametrize("where", ["checkpoint's name", "file", "tensor", "donor", "pooler_source", "dtype"])
def test_no_escape_sequence_and_no_line_of_its_own_reaches_the_terminal(where, place, capfd):
    checkpoint, donor = place / "checkpoint", place / "donor"
    odd = ESCAPES.replace("/", "")
    if where == "checkpoint's name":
        checkpoint = checkpoint.rename(place / odd)
    elif where == "file":
        (checkpoint / odd).write_text("x")
    elif where == "tensor":
        save_weights(checkpoint, stored(checkpoint) | {odd: stored(checkpoint)["cls.predictions.bias"].clone()})
    elif where == "donor":
        donor = donor.rename(place / odd)
    else:
        value = {"donor": odd} if where == "pooler_source" else odd
        config = json.loads((checkpoint / "config.json").read_text()) | {where: value, odd: odd}
        (checkpoint / "config.json").write_text(json.dumps(config))
    for options in ([], ["--json"], ["--dry-run"]):
        shutil.rmtree(place / "out", ignore_errors=True)
        argv = [str(checkpoint), "--pooler-from", str(donor), "--no-verify", "-o", str(place / "out"), *options]
        assert main(argv) == (1 if where == "tensor" else 0)
        out, err = capfd.readouterr()
        assert all(line.isprintable() for line in (out + err).split("\n"))
        assert not [line for line in out.split("\n") if line.startswith("verified")]


# --- A file's name is no option --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--overwrite", "--pooler-from=stranger"])
def test_a_file_in_the_folder_is_not_an_option_of_a_wildcards(option, place, monkeypatch, capsys):
    """`convert.py *`, where somebody else has named the files."""
    monkeypatch.chdir(place)
    Path(option).mkdir()
    with pytest.raises(SystemExit) as exit:
        main([*sorted(os.listdir()), "--dry-run"])
    assert exit.value.code == 2
    assert f"{option}: is it an option, or the file of that name here? Write ./* instead of *" in (
        capsys.readouterr().err
    )


def test_names_that_begin_with_a_dash_go_after_two_dashes(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    Path("checkpoint").rename("--overwrite")
    assert main(["--pooler-from", "donor", "--no-verify", "--", "--overwrite"]) == 0
    assert Path("--overwrite-pooled").is_dir()
    assert paths_in(capsys.readouterr().out.partition("Load it:\n")[2]) == ["--overwrite-pooled"] * 2
