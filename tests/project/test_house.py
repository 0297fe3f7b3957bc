"""The house: one list of rooms, imports downwards only, and rooms that can be read."""

import ast
import re

import pytest
from checkpoints import ROOT

ROOMS = {path.stem: path for path in (ROOT / "conversion").glob("*.py") if path.stem != "__init__"}
LISTED = re.findall(
    r"^    (\w+) {2,}\S", (ROOT / "conversion" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
)


def imported(room: str) -> set[str]:
    """The rooms that a room imports from, anywhere in it."""
    relative = [it for it in ast.walk(ast.parse(ROOMS[room].read_text("utf-8"))) if isinstance(it, ast.ImportFrom)]
    relative = [it for it in relative if it.level]
    return {it.module for it in relative if it.module} | {n.name for it in relative if not it.module for n in it.names}


def test_every_room_is_listed_once():
    assert sorted(LISTED) == sorted(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_those_above_it(room):
    assert imported(room) <= {*LISTED[: LISTED.index(room)]}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_short_and_says_its_task_in_its_first_line(room):
    text = ROOMS[room].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    longest = max((it.end_lineno - it.lineno for it in ast.walk(tree) if isinstance(it, ast.FunctionDef)), default=0)
    assert longest < 60


def test_no_model_file_knows_of_the_converter():
    for name in ("configuration_bert_pooled_mlm.py", "modeling_bert_pooled_mlm.py"):
        assert not re.search(r"import.*conver", (ROOT / name).read_text(encoding="utf-8"))
