"""What is imported is declared, and what is declared can be installed on every supported Python."""

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path

import pytest
from checkpoints import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = SETUP["options.extras_require"]
FOLDERS = {"tests": "test", "checks": "test", "benchmarks": "bench", "studies": "bench", "examples": "demo"}
SHIPPED = [*ROOT.glob("*.py"), *ROOT.glob("conversion/*.py")]


def lines(value: str) -> list[str]:
    return value.strip().splitlines()


def name_of(requirement: str) -> str:
    """As packages are compared: PyYAML and pyyaml, hf_xet and hf-xet are one."""
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


PYTHONS = [entry.rpartition(" ")[2] for entry in lines(SETUP["metadata"]["classifiers"]) if " :: 3." in entry]
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
    others = [path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py")]
    own = {"bert_pooled_mlm", "conversion", *(path.stem for path in [*SHIPPED, *others])}
    foreign = modules - own - sys.stdlib_module_names
    unknown = foreign - distributions().keys()
    assert not unknown, "imported, and of no installed package"
    return {name for module in foreign for name in distributions()[module] if name != "bert-pooled-mlm"}


def test_the_package_requires_exactly_what_it_imports():
    asked_for = {"datasets"}  # only texts in a dataset need it, and the message says what to install
    assert imported_by(SHIPPED) == REQUIRED | asked_for


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if (ROOT / folder).is_dir()])
def test_what_a_folder_imports_is_in_its_extra(folder):
    """Programs aside that a study runs in environments of their own: it says what each of those needs."""
    declared = REQUIRED | {name_of(entry) for entry in lines(EXTRAS[FOLDERS[folder]])}
    paths = [path for path in ROOT.glob(f"{folder}/**/*.py") if not path.match("studies/clients/programs/*.py")]
    assert imported_by([path for path in paths if path.name != "family_and_stock.py"]) <= declared


PINS = [Requirement(line) for line in lines((ROOT / "constraints.txt").read_text(encoding="utf-8")) if line[0] != "#"]


def installed_pins(python: str) -> list[tuple[Requirement, Distribution]]:
    """The pins that hold for a Python, with what is installed here of them."""
    installed = {name_of(found.name): found for found in reversed([*importlib.metadata.distributions()])}
    # pip itself reads markers for the Python that it runs on, whatever --python-version says.
    holding = [pin for pin in PINS if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    pairs = [(pin, installed[name_of(pin.name)]) for pin in holding if name_of(pin.name) in installed]
    assert len(pairs) > 50, "premise: most are pinned, and installed"
    assert all(found.version.partition("+")[0] in pin.specifier for pin, found in pairs), "premise: as pinned"
    return pairs


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_allows_each_supported_python(python):
    allowed = {str(pin): found.metadata["Requires-Python"] or "" for pin, found in installed_pins(python)}
    assert [pin for pin, spec in allowed.items() if not SpecifierSet(spec).contains(f"{python}.9")] == []


@pytest.mark.parametrize("python", [PYTHONS[0], PYTHONS[-1]])
def test_every_compiled_pin_has_a_wheel_for_a_supported_python(python, tmp_path):
    # torch is left out for its size.
    compiled = [
        f"{pin.name}{pin.specifier}"
        for pin, found in installed_pins(python)
        if pin.name != "torch" and "Root-Is-Purelib: false" in found.read_text("WHEEL")
    ]
    assert len(compiled) > 10, "premise: some are compiled"
    command = f"-m pip install --dry-run -q --no-deps --only-binary=:all: --python-version {python} --target"
    done = subprocess.run([sys.executable, *command.split(), tmp_path, *compiled], capture_output=True, text=True)
    if any(word in done.stderr for word in ("NewConnectionError", "NameResolutionError")):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
