"""The package: what the wheel holds, and that it imports however it was installed."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import bert_pooled_mlm
import pytest
from checkpoints import CODE_FILES, ROOT
from packaging.version import Version
from programs import CHILDREN

CONVERTER = ("convert.py", *sorted(f"conversion/{path.name}" for path in ROOT.glob("conversion/*.py")))
CODE = ("__init__.py", "anchoring.py", *CODE_FILES, *CONVERTER, "py.typed")
BUILD_FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", *CODE)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the checkout, in the folder that `git clone` makes: building leaves its traces there."""
    folder = tmp_path_factory.mktemp("source") / "bert-pooled-mlm"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache")
    for name in ("conversion", "tests", "benchmarks", "studies", "examples", ".ci"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    assert all((folder / name).is_file() for name in BUILD_FILES)
    return folder


def pip(*arguments) -> None:
    """Builds with the setuptools that is here, if it is new enough; else pip fetches one."""
    here = importlib.util.find_spec("setuptools") and Version(importlib.metadata.version("setuptools"))
    isolation = ["--no-build-isolation"] if here and here >= Version("77") else []
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", *isolation], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    pip("wheel", source, "--wheel-dir", out)
    (built,) = out.iterdir()
    return built


def test_the_wheel_holds_the_package_its_metadata_and_nothing_else(wheel):
    assert wheel.name == f"bert_pooled_mlm-{bert_pooled_mlm.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if ".dist-info/" not in name}
    assert package == {f"bert_pooled_mlm/{name}" for name in CODE}


def test_the_wheel_holds_the_files_of_the_checkout_and_its_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    for name in CODE:
        assert archive.read(f"bert_pooled_mlm/{name}") == (ROOT / name).read_bytes()
    (licence,) = (name for name in archive.namelist() if name.endswith("LICENSE"))
    assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in archive.read(licence)


def test_the_metadata_state_licence_requirements_and_the_command(wheel):
    archive = zipfile.ZipFile(wheel)
    (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    metadata = importlib.metadata.PathDistribution(zipfile.Path(archive, f"{folder}/"))
    # setuptools writes the older field for what a setup.cfg says.
    assert "Apache-2.0" in (metadata.metadata["License-Expression"], metadata.metadata["License"])
    assert metadata.metadata["Requires-Python"] == ">=3.10"
    required = {entry for entry in metadata.requires if "extra ==" not in entry}
    lowest = {"transformers>=4.41", "torch>=2.2", "huggingface_hub>=0.23"}
    assert required == lowest | {"numpy", "PyYAML", "safetensors", "tqdm"}
    (command,) = metadata.entry_points
    assert (command.name, command.value) == ("bert-pooled-mlm-convert", "bert_pooled_mlm.convert:main")


@pytest.mark.parametrize("how", ["wheel", "folder", "editable"])
def test_installed_it_imports_registers_and_brings_its_command(how, source, wheel, tmp_path):
    # A bare environment, so that the package that the tests run on cannot stand in; torch comes by its path.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env/bin/python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n", encoding="utf-8")
    what = {"wheel": [wheel], "folder": [source], "editable": ["-e", source]}[how]
    pip("--python", python, "install", "--ignore-installed", *what)

    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHONPATH")}
    done = subprocess.run(
        [python, CHILDREN / "package_imported.py"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert Path(seen["file"]).parent == (source if how == "editable" else site / "bert_pooled_mlm")
    assert seen["installed"] == seen["version"] == bert_pooled_mlm.__version__
    assert seen["names"] == []
    assert seen["model"] == "bert_pooled_mlm.modeling_bert_pooled_mlm"
    assert (tmp_path / "env/bin/bert-pooled-mlm-convert").is_file()


def test_the_model_file_can_be_read_in_one_sitting():
    assert len((ROOT / "modeling_bert_pooled_mlm.py").read_text(encoding="utf-8").splitlines()) < 405


def imported_by(name: str) -> set[str]:
    """Every module that a file of the package names in an import, relative ones with their dot."""
    modules = set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add("." * node.level + (node.module or "") if node.level else node.module.split(".")[0])
    return modules - sys.stdlib_module_names


def test_the_configuration_knows_transformers_and_the_model_file_torch_too():
    assert imported_by("configuration_bert_pooled_mlm.py") == {"transformers"}
    assert imported_by("modeling_bert_pooled_mlm.py") == {
        "safetensors", "torch", "transformers", ".configuration_bert_pooled_mlm"
    }  # fmt: skip


def test_the_converter_knows_neither_of_the_files_that_it_copies():
    modules = set().union(*map(imported_by, CONVERTER))
    assert {"torch", "numpy"} <= modules, "premise: they import something"
    assert not {module for module in modules if "bert_pooled_mlm" in module}


@pytest.mark.parametrize("name", CODE_FILES)
def test_a_file_that_travels_says_whose_it_is_what_it_is_and_what_it_offers(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    copyright_line, licence_line = text.splitlines()[:2]
    assert copyright_line.startswith("# Copyright 20")
    assert licence_line == "# SPDX-License-Identifier: Apache-2.0"
    module = ast.parse(text)
    assert ast.get_docstring(module)
    assert any(isinstance(node, ast.Assign) and node.targets[0].id == "__all__" for node in module.body)
