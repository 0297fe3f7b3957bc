"""What is imported is declared, and what is declared can be installed on every supported Python."""

import ast
import configparser
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from checkpoints import ROOT
from packaging.requirements import Requirement

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = SETUP["options.extras_require"]
FOLDERS = {"tests": "test", "benchmarks": "bench", "studies": "bench", "examples": "demo"}
SHIPPED = [*ROOT.glob("*.py"), *ROOT.glob("conversion/*.py")]


def lines(value: str) -> list[str]:
    return value.strip().splitlines()


def name_of(requirement: str) -> str:
    """As packages are compared: PyYAML and pyyaml, hf_xet and hf-xet are one."""
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


REQUIRED = {name_of(entry) for entry in lines(SETUP["options"]["install_requires"])}


@cache
def distributions() -> dict[str, set[str]]:
    return {module: set(map(name_of, names)) for module, names in packages_distributions().items()}


def imported_by(paths: list[Path]) -> set[str]:
    """The packages that files import, wherever in them; the project's own modules and the standard library aside."""
    modules = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.split(".")[0])
    assert {"torch", "transformers"} <= modules, "premise: the files are read"
    beside = [path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py")]
    own = {"bert_pooled_mlm", "conversion", *(path.stem for path in [*SHIPPED, *beside])}
    foreign = modules - own - sys.stdlib_module_names
    unknown = foreign - distributions().keys()
    assert not unknown, "imported, and of no installed package"
    return {name for module in foreign for name in distributions()[module] if name != "bert-pooled-mlm"}


def test_the_package_requires_exactly_what_it_imports():
    asked_for = {"datasets"}  # only texts by a data set's name need it, and are told what to install
    assert imported_by(SHIPPED) == REQUIRED | asked_for


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if (ROOT / folder).is_dir()])
def test_what_a_folder_imports_is_in_its_extra(folder):
    declared = REQUIRED | {name_of(entry) for entry in lines(EXTRAS[FOLDERS[folder]])}
    assert imported_by([*ROOT.glob(f"{folder}/**/*.py")]) <= declared


@pytest.mark.parametrize("python", ["3.10", "3.12", "3.13"])  # 3.11 is what the suite is installed on
def test_the_pins_exist_for_every_supported_python(python, tmp_path):
    """Each pin has a wheel for it; what is not pinned for it is pip's choice."""
    every = [line for line in lines((ROOT / "constraints.txt").read_text(encoding="utf-8")) if line[0] != "#"]
    markers = {line: Requirement(line).marker for line in every}
    # pip reads markers for the Python that it runs on, whatever --python-version says.
    holds = {line: marker is None or marker.evaluate({"python_version": python}) for line, marker in markers.items()}
    kept = [line.partition(";")[0] for line in every if holds[line]]
    assert len(kept) > 60, "premise: most are pinned"
    pins = tmp_path / "pins.txt"
    pins.write_text("\n".join(kept), encoding="utf-8")
    command = f"-m pip install --dry-run -q --no-deps --only-binary=:all: --python-version {python} --target"
    done = subprocess.run([sys.executable, *command.split(), tmp_path, "-r", pins], capture_output=True, text=True)
    if "NewConnectionError" in done.stderr or "NameResolutionError" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
