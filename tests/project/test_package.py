"""The wheel: what it holds, and that it imports, registers and brings its command."""

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import bert_pooled_mlm
import pytest
from checkpoints import CODE_FILES, ROOT
from packaging.version import Version
from programs import CHILDREN, environment

CONVERTER = ("convert.py", *sorted(f"conversion/{path.name}" for path in ROOT.glob("conversion/*.py")))
CODE = (
    "__init__.py", "registration.py", "anchoring.py", *CODE_FILES, *CONVERTER, "conversion/card_template.md",
    "py.typed",
)  # fmt: skip


def pip(*arguments) -> None:
    """Builds with the setuptools that is here, if it is new enough; else pip fetches one."""
    here = importlib.util.find_spec("setuptools") and Version(importlib.metadata.version("setuptools"))
    isolation = ["--no-build-isolation"] if here and here >= Version("77") else []
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", *isolation]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the checkout, in the folder that `git clone` makes: building leaves its traces there."""
    source = tmp_path_factory.mktemp("source") / "bert-pooled-mlm"
    for name in ("conversion", "tests", "benchmarks", "studies", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    out = tmp_path_factory.mktemp("dist")
    pip("wheel", source, "--wheel-dir", out)
    (built,) = out.iterdir()
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    assert wheel.name == f"bert_pooled_mlm-{bert_pooled_mlm.__version__}-py3-none-any.whl"
    archive = zipfile.ZipFile(wheel)
    package = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert package == {f"bert_pooled_mlm/{name}": (ROOT / name).read_bytes() for name in CODE}
    (licence,) = (name for name in archive.namelist() if name.endswith("LICENSE"))
    assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_the_metadata_state_licence_requirements_and_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    metadata = importlib.metadata.PathDistribution(zipfile.Path(archive, f"{folder}/"))
    # setuptools writes the older field for what a setup.cfg says.
    assert "Apache-2.0" in (metadata.metadata["License-Expression"], metadata.metadata["License"])
    assert metadata.metadata["Requires-Python"] == ">=3.10"
    required = {entry for entry in metadata.requires if "extra ==" not in entry}
    lowest = {"transformers>=4.41", "torch>=2.2", "huggingface_hub>=0.23"}
    assert required == lowest | {"Jinja2", "numpy", "PyYAML", "safetensors", "tqdm"}
    (command,) = metadata.entry_points
    assert (command.name, command.value) == ("bert-pooled-mlm-convert", "bert_pooled_mlm.convert:main")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel and without the package that the tests run on; torch comes by its path."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n", encoding="utf-8")
    pip("--python", folder / "bin" / "python", "install", "--ignore-installed", wheel)
    return folder


def run(*command, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_installed_it_imports_and_registers(installed, tmp_path):
    found = json.loads(run(installed / "bin/python", CHILDREN / "package_imported.py", cwd=tmp_path))
    assert Path(found["file"]).is_relative_to(installed)
    assert found["versions"] == [bert_pooled_mlm.__version__] * 2
    assert found["model"] == "bert_pooled_mlm.modeling_bert_pooled_mlm"


HEAVY = """
import runpy, sys
try:
    {}
except SystemExit as end:
    assert not end.code
assert not {{"torch", "transformers"}} & sys.modules.keys()
"""


def test_the_installed_command_converts_and_imports_neither_torch_nor_transformers(installed, lost, donor, tmp_path):
    arguments = [lost, "-o", tmp_path / "out", "--pooler-from", donor, "--no-verify", "-q"]
    assert run(installed / "bin/bert-pooled-mlm-convert", *arguments, cwd=tmp_path) == ""
    assert (tmp_path / "out" / "README.md").is_file()
    python = [installed / "bin/python", "-W", "error"]
    assert "--pooler-from" in run(*python, "-m", "bert_pooled_mlm.convert", "--help", cwd=tmp_path)
    for line in (
        "runpy.run_module('bert_pooled_mlm.convert', run_name='__main__', alter_sys=True)",
        "from bert_pooled_mlm.convert import main; main()",
    ):
        run(*python, "-c", HEAVY.format(line), *arguments, "--dry-run", "--overwrite", cwd=tmp_path)
