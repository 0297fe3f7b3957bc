"""The package: what the wheel holds, that it imports once installed, and that `help` explains it."""

import importlib.metadata
import importlib.util
import inspect
import json
import os
import pydoc
import re
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


def pip(*arguments) -> None:
    """Builds with the setuptools that is here, if it is new enough; else pip fetches one."""
    here = importlib.util.find_spec("setuptools") and Version(importlib.metadata.version("setuptools"))
    isolation = ["--no-build-isolation"] if here and here >= Version("77") else []
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", *isolation], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the checkout, in the folder that `git clone` makes: building leaves its traces there."""
    source, out = tmp_path_factory.mktemp("source") / "bert-pooled-mlm", tmp_path_factory.mktemp("dist")
    for folder in ("conversion", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    pip("wheel", source, "--wheel-dir", out)
    (built,) = out.iterdir()
    return built


def test_the_wheel_holds_the_package_with_its_licence_and_nothing_else(wheel):
    assert wheel.name == f"bert_pooled_mlm-{bert_pooled_mlm.__version__}-py3-none-any.whl"
    archive = zipfile.ZipFile(wheel)
    package = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert package == {f"bert_pooled_mlm/{name}" for name in CODE}
    for name in CODE:
        assert archive.read(f"bert_pooled_mlm/{name}") == (ROOT / name).read_bytes()
    (licence,) = (name for name in archive.namelist() if name.endswith("LICENSE"))
    assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_installed_it_imports_registers_and_brings_its_command(wheel, tmp_path):
    # A bare environment, so that the package that the tests run on is not found; torch is, by its path.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env/bin/python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n", encoding="utf-8")
    pip("--python", python, "install", "--ignore-installed", wheel)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHONPATH")}
    done = subprocess.run(
        [python, CHILDREN / "package_imported.py"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert Path(seen["file"]).parent == site / "bert_pooled_mlm"
    assert seen["installed"] == seen["version"] == bert_pooled_mlm.__version__
    assert seen["names"] == []
    assert seen["model"] == "bert_pooled_mlm.modeling_bert_pooled_mlm"
    assert (tmp_path / "env/bin/bert-pooled-mlm-convert").is_file()


@pytest.mark.parametrize("name", ["convert", "BertPooledMLMForMaskedLM", "BertPooledMLMConfig"])
def test_help_explains_every_parameter(name):
    """Those aside that transformers explains."""
    thing = getattr(bert_pooled_mlm, name)
    called = {"BertPooledMLMForMaskedLM": "from_pretrained", "BertPooledMLMConfig": "__init__"}.get(name)
    known = {"self", "cls", "kwargs", "pretrained_model_name_or_path", "model_args", "output_loading_info"}
    text = pydoc.plain(pydoc.render_doc(thing))
    parameters = inspect.signature(getattr(thing, called) if called else thing).parameters.keys() - known
    assert parameters
    assert [it for it in parameters if not re.search(rf"^[ |]+{it}: \S", text, re.MULTILINE)] == []
