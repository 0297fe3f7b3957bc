"""The layout of the repository: modules that can be read, imports downwards only, code files that stand alone."""

import ast
import re
import sys

import pytest
from checkpoints import CODE_FILES, ROOT

MODULES = {path.stem: path for path in (ROOT / "conversion").glob("*.py") if path.stem != "__init__"}
LISTED = re.findall(
    r"^    (\w+) {2,}\S", (ROOT / "conversion" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
)
SHIPPED = {path.relative_to(ROOT).as_posix(): path for path in [*ROOT.glob("*.py"), *MODULES.values()]}
PROGRAMS = [
    path.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "checks", "examples", "studies", "tests", ".ci")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent.name != "programs"  # a few lines for each client of studies/clients
]
LINES = {"modeling_bert_pooled_mlm.py": 340}  # all others: 300
FUNCTION_LINES = 60  # the docstring aside


def tree_of(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def imported(name: str) -> set[str]:
    """The modules that a file imports from, anywhere in it; those of the package with a dot."""
    found = set()
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found |= {f".{node.module}"} if node.module else {f".{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found - sys.stdlib_module_names


def length(function: ast.FunctionDef) -> int:
    docstring = function.body[0] if ast.get_docstring(function) else None
    lines = function.end_lineno - function.lineno + 1
    return lines - (docstring.end_lineno - docstring.lineno + 1 if docstring else 0)


@pytest.mark.parametrize("name", [*SHIPPED, *PROGRAMS])
def test_a_module_states_its_task_and_its_functions_are_short(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= LINES.get(name, 300)
    assert ast.get_docstring(tree_of(name))
    functions = [node for node in ast.walk(tree_of(name)) if isinstance(node, ast.FunctionDef)]
    assert {it.name: length(it) for it in functions if length(it) > FUNCTION_LINES} == {}


def test_every_module_of_the_converter_is_listed_once():
    assert sorted(LISTED) == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_converter_imports_only_from_those_listed_above_it(module):
    own = {name[1:] for name in imported(f"conversion/{module}.py") if name.startswith(".")} - {"__version__"}
    assert own <= {*LISTED[: LISTED.index(module)]}


def test_the_code_files_import_nothing_that_a_checkpoint_does_not_bring():
    configuration, modeling = CODE_FILES
    brought = {"safetensors", "torch", "transformers"}
    assert imported(configuration) <= brought
    assert imported(modeling) <= {*brought, f".{configuration.removesuffix('.py')}"}


def test_the_converter_does_not_import_the_code_files_that_it_copies():
    found = set().union(*(imported(name) for name in SHIPPED if name.startswith("conver")))
    assert {"torch", "numpy"} <= found, "premise: they import something"
    assert not [name for name in found if "bert_pooled_mlm" in name]


@pytest.mark.parametrize("name", CODE_FILES)
def test_a_code_file_names_its_licence_and_what_it_exports(name):
    copyright_line, licence_line = SHIPPED[name].read_text(encoding="utf-8").splitlines()[:2]
    assert copyright_line.startswith("# Copyright 20")
    assert licence_line == "# SPDX-License-Identifier: Apache-2.0"
    assert any(isinstance(node, ast.Assign) and node.targets[0].id == "__all__" for node in tree_of(name).body)
