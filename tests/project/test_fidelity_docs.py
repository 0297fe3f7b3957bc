"""docs/fidelity.md against the records of its study: every table, and every figure in a sentence."""

import importlib.util
import json
import re
import sys

import pytest
from checkpoints import ROOT

PAGE = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
RECORDS = json.loads((ROOT / "studies/results/calibration.json").read_text(encoding="utf-8"))
POINTS = RECORDS["points"]
MORE = RECORDS["more"]


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study_of_calibration", ROOT / "studies/calibration.py")
    module = importlib.util.module_from_spec(spec)
    path = sys.path.copy()
    sys.path.append(str(ROOT / "studies"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


def test_the_tables_are_what_the_records_say(study):
    marks = re.findall(r"<!-- calibration.py: (\w+) -->", PAGE)
    assert sorted(marks) == sorted(study.tables(RECORDS))
    filled = study.documents.filled(PAGE, "calibration.py", study.tables(RECORDS))
    assert filled == PAGE, "run studies/calibration.py measure"


def frozen(point, name, task):
    return POINTS[point]["frozen"][name][task]["accuracy"]


def recovered(point, count):
    row = MORE[point]["pairs"][count] if count == "8000" else POINTS[point]["frozen"][f"calibrated_{count}"]
    return f"{row['nsp']['recovery']:.0%}".replace("%", " %")


FAST, LONG, LONGEST = (f"lr1e-04/step-{step:05}" for step in (100, 300, 1000))


def test_the_sentences_are_what_the_records_say():
    own = RECORDS["donor"]["frozen"]
    labelled, unlabelled = (
        [f"{value['accuracy']:.3f}" for value in values]
        for values in (
            [MORE[point]["labelled_probe"] for point in (FAST, LONG)],
            [MORE[point]["pairs"]["8000"]["nsp"] for point in (FAST, LONG)],
        )
    )
    for sentence in (
        f"grafted it falls to {frozen(FAST, 'grafted', 'topic'):.2f} after 100 steps at 1e-4",
        f"calibrated it is at {frozen(FAST, 'calibrated_2000', 'topic'):.2f} of the donor's "
        f"{own['topic']['accuracy']:.2f}",
        f"{recovered(FAST, '2000')} and {recovered(LONG, '2000')} with 2,000 texts",
        f"{recovered(FAST, '8000')} and {recovered(LONG, '8000')} with 8,000",
        f"gets {labelled[0]} after 100 steps at 1e-4, where calibration on the same pairs without labels gets "
        f"{unlabelled[0]}, and {labelled[1]} against {unlabelled[1]} after 300",
        f"After 1,000 steps a probe with 2,000 labelled pairs is at "
        f"{POINTS[LONGEST]['fresh']['cls']['nsp']['accuracy']:.2f}, and calibration at "
        f"{frozen(LONGEST, 'calibrated_2000', 'nsp'):.2f}",
        f"({POINTS[LONGEST]['fresh']['cls']['topic']['accuracy']:.2f} against {own['topic']['accuracy']:.2f})",
        f"after 30 steps at 5e-5 the grafted pooler still gives {frozen('lr5e-05/step-00030', 'grafted', 'nsp'):.2f}",
        f"{RECORDS['options']['nsp_steps']} steps of {RECORDS['options']['batch_size']}, at 1e-4",
        f"judged on {RECORDS['texts']['nsp']['count']:,} held-out pairs",
        f"cross-validation on {RECORDS['texts']['topic']['count']:,} held-out paragraphs",
        f"which of {len(RECORDS['texts']['topic']['classes'])} packages, modules or topics",
    ):
        assert sentence in PAGE, sentence


def test_the_claims_are_what_the_records_say():
    """What the page says without figures."""
    adapted = {name: point for name, point in POINTS.items() if not name.endswith("00000")}
    assert len(adapted) == 8
    for name, point in adapted.items():
        for task in ("nsp", "topic"):
            assert frozen(name, "calibrated_2000", task) > frozen(name, "grafted", task), name
        assert max(row["topic"]["accuracy"] for row in point["random"]) < 0.2
        new = {kind: row["topic"]["accuracy"] for kind, row in point["fresh"].items()}
        assert new["cls"] == max(new.values())
        assert new["cls"] > frozen(name, "calibrated_2000", "topic")
        assert new["cls"] > RECORDS["donor"]["frozen"]["topic"]["accuracy"]
        nsp = [row["nsp"]["accuracy"] for row in point["fresh"].values()]
        assert max(nsp) - min(nsp) < 0.03
    for point in (FAST, LONG):
        assert MORE[point]["pairs"]["50"]["penalty"] == pytest.approx(10)
        assert MORE[point]["pairs"]["8000"]["penalty"] < 1e-3
        assert MORE[point]["pairs"]["50"]["nsp"]["accuracy"] < frozen(point, "grafted", "nsp")
        pairs, others = MORE[point]["pairs"]["2000"], MORE[point]["others"]
        single, halves = others["2,000 single paragraphs"], others["1,000 of each"]
        for task, right, wrong in (("nsp", pairs, single), ("topic", single, pairs)):
            gain = right[task]["accuracy"] - frozen(point, "grafted", task)
            assert 1 / 6 < (right[task]["accuracy"] - wrong[task]["accuracy"]) / gain < 0.6
            assert halves[task]["accuracy"] > right[task]["accuracy"] - 0.025
