"""README and documents are true: every snippet runs as it stands there, what is said to be printed is printed."""

import inspect
import json
import os
import pydoc
import re
import shutil
import subprocess
import sys
import textwrap

import bert_pooled_mlm
import pytest
import transformers
from bert_pooled_mlm import BertPooledMLMForMaskedLM
from bert_pooled_mlm.convert import parser
from checkpoints import ROOT, clone, edit_json, save_lost
from hub_server import HubServer
from programs import answer, run_python

PATH = sys.path.copy()
sys.path.append(str(ROOT / "benchmarks"))
try:
    import demonstration
    import documents
    from measuring import IDLE
finally:
    sys.path[:] = PATH

READMES = ("README.md", "README.zh-CN.md")
DOCUMENTS = (*READMES, *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


README = text_of("README.md")
DEMONSTRATION = json.loads(text_of("docs/figures/rescue.json"))


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


SNIPPETS = [
    *blocks("python"),
    *blocks("python", text_of("docs/loading.md")),
    *blocks("python", text_of("docs/converter.md")),
]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, donor):
    """A checkout beside an MLM checkpoint whose model card names a base model that the (loopback) Hub has."""
    folder = clone(tmp_path_factory.mktemp("readme"))
    save_lost(folder / "old_ckpt", donor)
    edit_json(
        folder / "old_ckpt" / "config.json", "_name_or_path"
    )  # transformers 4.41 and 4.48 note the donor's folder
    (folder / "old_ckpt" / "README.md").write_text("---\nbase_model: google-bert/bert-base-uncased\n---\n# Mine\n")
    with HubServer() as hub:
        hub.add_repo("google-bert/bert-base-uncased", donor)
        yield folder, hub.environment(folder, hub.TOKEN), hub


def shell(command: str, folder, environment) -> str:
    """What a command of the README prints, with `python` being this one."""
    variables = {**os.environ, **environment, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_fix_works_as_it_stands_there(workplace):
    folder, environment, _ = workplace
    command = next(block for block in blocks("sh") if "convert.py" in block)
    assert command == "python convert.py old_ckpt\n"
    assert "google-bert/bert-base-uncased" in shell(command, folder, environment)
    assert (folder / "old_ckpt-pooled" / "modeling_bert_pooled_mlm.py").is_file()


def test_the_calibration_works_as_it_stands_there(workplace):
    folder, environment, _ = workplace
    (command,) = (block for block in blocks("sh") if "--calibrate" in block)
    (folder / "texts.txt").write_text(
        "\n".join(f"word{n % 120} word{n * 7 % 110} word{n * n % 90}" for n in range(300))
    )
    # The tiny model reads 64 tokens, fewer than the default.
    printed = shell(f"{command.strip()} --calibrate-length 32", folder, environment)
    assert "calibrated   on 300 texts" in printed
    assert (folder / "old_ckpt-calibrated" / "config.json").is_file()


@pytest.mark.parametrize("name", READMES)
def test_what_calibration_brings_back_is_the_recorded_figure(name):
    table = text_of("docs/fidelity.md").partition("<!-- calibration.py: topic -->")[2]
    (row,) = (line for line in table.partition("<!-- end -->")[0].splitlines() if line.startswith("| 1e-04 | 100 |"))
    grafted, calibrated = (f"{float(row.split(' | ')[at]):.2f}" for at in (3, 5))
    text = text_of(name)
    assert re.search(rf"0\.75.*{re.escape(grafted)}.*{re.escape(calibrated)}", text, re.DOTALL)


@pytest.fixture(scope="module")
def ran(workplace):
    """Each snippet's traceback, and how far the two ways to get vectors are apart.

    In two fresh processes: those that need transformers alone, in the order of the documents (what one writes, a later
    one reads), then those that import the package, which registers its classes.
    """
    folder, environment, _ = workplace
    assert (folder / "old_ckpt-pooled").is_dir(), "the fix has to run first"
    snippets = {str(number): block for number, block in enumerate(SNIPPETS)}
    with_package = {
        number: block
        for number, block in snippets.items()
        if "import bert_pooled_mlm" in block or "from bert_pooled_mlm" in block
    }
    alone = {number: block for number, block in snippets.items() if number not in with_package}
    first, installed, difference = answer("readme_snippets", folder, json.dumps(alone), **environment)
    assert installed is False
    second, installed, _ = answer("readme_snippets", folder, json.dumps(with_package), **environment)
    assert installed is True
    return first | second, difference


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_every_python_snippet_runs(number, ran):
    assert ran[0][str(number)] == ""


def test_the_snippets_give_what_the_text_says(ran):
    # sentence-transformers sorts a batch by length, and a row's last bits depend on its place in the batch
    assert ran[1] < 1e-6


def test_what_the_snippets_push_loads_by_id_where_transformers_is_all_there_is(workplace, ran, tmp_path):
    folder, _, hub = workplace
    files = hub.files("user/my-bert-pooled")
    assert files["modeling_bert_pooled_mlm.py"] == (ROOT / "modeling_bert_pooled_mlm.py").read_bytes()
    assert files["model.safetensors"] == (folder / "my-bert-pooled" / "model.safetensors").read_bytes()
    assert b"[More Information Needed]" in files["README.md"], "transformers' own template"
    assert files.keys() >= {"modules.json", "2_Dense/model.safetensors"}, "what sentence-transformers opens it by"
    load = next(block for block in blocks("python") if "return_logits=False" in block)
    code = load.replace("old_ckpt-pooled", "user/my-bert-pooled") + "print(list(vectors.shape))"
    assert answer(code, tmp_path, **hub.environment(tmp_path)) == [2, 32]


def test_the_push_command_adds_one_commit_with_a_card(workplace, ran):
    folder, environment, hub = workplace
    (command,) = (block for block in blocks("sh") if "--push-to-hub" in block)
    before = len(hub.commits("user/my-bert-pooled"))
    printed = shell(command, folder, environment)
    assert len(hub.commits("user/my-bert-pooled")) == before + 1
    assert hub.commits("user/my-bert-pooled")[-1].sha in printed
    files = hub.files("user/my-bert-pooled")
    assert files.keys() >= {"modules.json", "2_Dense/model.safetensors"}
    assert b"## The pooler" in files["README.md"]


def test_the_options_stand_there_as_the_help_has_them():
    (listed,) = (block for block in blocks("text", text_of("docs/converter.md")) if "--pooler-from DONOR" in block)
    lines = []
    for action in parser()._actions:
        if action.dest not in ("help", "checkpoints"):
            names = ", ".join(action.option_strings)
            if action.nargs != 0:
                names += " " + parser()._get_formatter()._metavar_formatter(action, action.dest.upper())(1)[0]
            lines += textwrap.wrap(action.help, 119, initial_indent=f"  {names:<32}", subsequent_indent=" " * 34)
    assert listed.split("\n\n")[1].splitlines() == lines
    assert " ".join(listed.split("\n\n")[2].split()) == " ".join(parser().epilog.split())


@pytest.mark.parametrize(
    "thing",
    [bert_pooled_mlm.convert, BertPooledMLMForMaskedLM.from_pretrained, bert_pooled_mlm.BertPooledMLMConfig.__init__],
    ids=["convert", "from_pretrained", "config"],
)
def test_help_explains_every_parameter(thing):
    """`help(convert)` and `help(BertPooledMLMForMaskedLM)`; those that transformers explains are said to be its."""
    owner = bert_pooled_mlm.BertPooledMLMConfig if thing.__name__ == "__init__" else thing
    known = {"self", "cls", "kwargs", "pretrained_model_name_or_path", "model_args", "output_loading_info"}
    text = pydoc.plain(pydoc.render_doc(owner))
    parameters = inspect.signature(thing).parameters.keys() - known
    assert parameters
    assert [name for name in parameters if not re.search(rf"^[ |]+{name}: \S", text, re.MULTILINE)] == []


def test_help_shows_how_the_model_and_the_converter_are_used():
    model = pydoc.plain(pydoc.render_doc(BertPooledMLMForMaskedLM))
    shown = {"from_pretrained", "save_pretrained", "trust_remote_code=True", "BertPooledMLMOutput", "requires_grad_"}
    assert {word for word in shown if word in model.split("Method resolution order")[0]} == shown
    assert "allow_missing_pooler: " in model
    assert "return_logits: " in model
    assert 'report = convert("old_ckpt")' in pydoc.plain(pydoc.render_doc(bert_pooled_mlm.convert))


def test_ci_runs_the_test_command_exactly_as_it_stands_there():
    install, test = (block for block in blocks("sh") if "pip install" in block)
    assert test in (ROOT / ".ci" / "run").read_text()
    program = re.search(r"\S+\.py", install).group()
    assert (ROOT / program).is_file()


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    headings = re.findall("^#+ (.*)", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line).replace(" ", "-").lower() for line in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_all_that_it_links_to_is_there(name):
    text, folder = text_of(name), (ROOT / name).parent
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", without_code(text)) if "://" not in target]
    assert targets or name not in READMES
    for target in targets:
        file, _, anchor = target.partition("#")
        assert (folder / file).exists(), target
        if anchor:
            assert anchor in anchors((folder / file).read_text(encoding="utf-8") if file else text), target


def test_the_chinese_readme_is_in_step():
    """Snippets, what programs print, the levels of the headings, each section's figures and links to documents."""
    chinese = text_of("README.zh-CN.md")
    for language in ("python", "sh", "text"):
        assert blocks(language, chinese) == blocks(language)
    ours, theirs = (re.split(r"^(#+) ", without_code(text), flags=re.MULTILINE) for text in (README, chinese))
    assert theirs[1::2] == ours[1::2]
    for english, translated in zip(ours[2::2], theirs[2::2], strict=True):
        assert {*re.findall(r"\d\.\d+", english)} <= {*re.findall(r"\d\.\d+", translated)}
        assert {*re.findall(r"\]\((docs/[^)#]+)", english)} == {*re.findall(r"\]\((docs/[^)#]+)", translated)}


@pytest.mark.parametrize("name", READMES)
def test_what_the_demonstration_shows_is_the_recorded_run(name):
    """`python benchmarks/demonstration.py` writes record, figure and these blocks."""
    text = text_of(name)
    assert re.findall(r"<!-- demonstration.py: (\w+) -->", text) == ["report", "tables"]
    assert documents.filled(text, "demonstration.py", demonstration.blocks(DEMONSTRATION)) == text


def test_the_recorded_demonstration_shows_what_it_claims():
    before, after = DEMONSTRATION["before"], DEMONSTRATION["after"]
    assert before["distinct"] == DEMONSTRATION["loads"] > after["distinct"] == 1
    assert before["distinct_states"] == after["distinct_states"] == 1, "below the pooler the loads are the same"
    plain, anchored = (DEMONSTRATION[way]["accuracy"] for way in ("plain", "anchored"))
    assert plain < anchored, "anchoring keeps more of what the pooler means"
    assert DEMONSTRATION["donor_accuracy"] > 0.65


def test_the_demonstration_takes_as_long_as_is_said():
    machine = DEMONSTRATION["machine"]
    assert machine["cores"] == 2
    assert machine["others"] < IDLE, "run `python benchmarks/demonstration.py` on two idle cores"
    assert DEMONSTRATION["seconds"] < 180
    assert "under three minutes on two idle cores" in " ".join(README.split())


def test_the_report_has_the_lines_that_a_conversion_prints():
    """The one in the README is the demonstration's; its rows are named and ordered as in a run of today."""
    shown = next(block for block in blocks("text") if block.startswith("$ python convert.py"))
    rows = ["status", "checkpoint", "missing", "donor", "found by", "lineage", "grafted", "grafted", "kept", "copied"]
    assert [line[:12].strip() for line in shown.splitlines()[1:14]] == [*rows, "tokenizer", "verified", "output"]


def squeezed(text: str) -> str:
    """Without spaces and colours; transformers 5.0 and 5.23 set the notes differently."""
    return re.sub(r"\s|\x1b\[\d*m", "", text)


@pytest.mark.versions
def test_the_warnings_are_quoted_as_transformers_words_them(lost, donor, tmp_path):
    """So that whoever searches for one finds the answer. On 4.x and 5.x, each in its own words."""
    shutil.copytree(lost, tmp_path / "old_ckpt")
    shutil.copytree(donor, tmp_path / "google-bert" / "bert-base-uncased")
    edit_json(tmp_path / "google-bert" / "bert-base-uncased" / "config.json", architectures=["BertForMaskedLM"])
    done = run_python("stock_warnings", tmp_path)
    assert done.returncode == 0, done.stderr
    began, ended = (squeezed(part) for part in done.stderr.split("--then--"))
    (left,) = (b for b in blocks("text", text_of("docs/loading.md")) if b.startswith("Some weights of the model"))
    for name in READMES:
        quoted = blocks("text", text_of(name))
        (random,) = (block for block in quoted if block.startswith("Some weights of BertModel"))
        (report,) = (block for block in quoted if block.startswith("BertModel LOAD REPORT"))
        if transformers.__version__.startswith("4."):
            if "'pooler.dense.bias'" in ended:  # 4.57
                random = random.replace("'bert.pooler", "'pooler")
            assert squeezed(random) in ended
            assert squeezed(left) in began
        else:
            assert report.count("| MISSING") == 2
            assert [line for line in report.splitlines() if squeezed(line) not in ended] == []
            assert squeezed("bert.pooler.dense.weight | UNEXPECTED") in began
