"""docs/fidelity.md against the records of its studies: every table, and every figure in a sentence."""

import json
import math
import re
import sys

import pytest
from checkpoints import ROOT

PATH = sys.path.copy()
sys.path += [str(ROOT / name) for name in ("studies", "benchmarks")]
try:
    import calibration
    import documents
    import fidelity
    from measuring import ratio
finally:
    sys.path[:] = PATH

PAGE = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
RECORDS = json.loads((ROOT / "studies/results/calibration.json").read_text(encoding="utf-8"))
POINTS = RECORDS["points"]
MORE = RECORDS["more"]
ANCHORING = json.loads((ROOT / "studies/results/fidelity.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "tables"),
    [("calibration.py", calibration.tables(RECORDS)), ("fidelity.py", fidelity.tables(ANCHORING))],
)
def test_the_tables_are_what_the_records_say(name, tables):
    assert sorted(re.findall(rf"<!-- {name}: (\w+) -->", PAGE)) == sorted(tables)
    assert documents.filled(PAGE, name, tables) == PAGE, f"run studies/{name} measure"


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


# Anchored training.


def of(run, at, seed=1):
    """What the record has of a run after so many steps."""
    return fidelity.points_of(ANCHORING, run, at)[seed]


def means(run, at, reference=None):
    points = fidelity.points_of(ANCHORING, run, at)
    plain = fidelity.points_of(ANCHORING, reference or fidelity.PLAIN, at)
    return fidelity.figures([*points.values()], [plain[seed] for seed in points])


def percent(value, digits=0):
    return f"{value:.{digits}%}".replace("%", " %")


def test_the_sentences_on_anchoring_are_what_the_records_say():
    plain, anchored, half = fidelity.PLAIN, fidelity.ANCHORED, fidelity.Run(lr=5e-5)
    lora, both = fidelity.Run(lora=True, lr=5e-4), fidelity.Run(texts=4, lr=5e-5)
    kept = {(run, at): percent(means(run, at)["nsp", "recovery"]) for run in (plain, anchored) for at in (300, 1000)}
    options, own = ANCHORING["options"], ANCHORING["donor_heads"]
    probes = {name.partition("-")[0]: found for name, found in ANCHORING["new_probe"].items()}
    new = {run: means(run, 1000)["probe"] for run in (plain, anchored)}
    others = (anchored, fidelity.Run(texts=4, weight=0.03), fidelity.Run(texts=2))
    long = [means(run, 1000)["perplexity"] for run in others]
    heavy = means(fidelity.Run(texts=4, weight=1.0), 300)
    averaged = fidelity.figures([ANCHORING["averaged"]["1000"]], [of(plain, 1000)])
    slower = {texts: f"{ratio(times, ANCHORING['time']['seconds']['0'])[0]:.2f}" for texts, times in TIMES.items()}
    seeds = math.exp(of(plain, 300)["held_out"] - of(plain, 300, seed=2)["held_out"])
    against = [math.exp(of(anchored, 300, seed)["held_out"] - of(plain, 300, seed)["held_out"]) for seed in (1, 2)]
    at_half, with_anchors = means(half, 1000), means(both, 1000, half)
    for sentence in (
        f"the donor learnt next sentences for {options['nsp_steps']} steps",
        f"a head that was trained for {options['head_steps']} steps",
        f"{ANCHORING['texts']['nsp']['count']:,} held-out pairs (donor {own['nsp']['accuracy']:.3f}, standard error "
        f"{own['nsp']['se']:.3f}) and {ANCHORING['texts']['topic']['count']:,} held-out paragraphs "
        f"({own['topic']['accuracy']:.3f}, {own['topic']['se']:.3f})",
        f"Anchors are {options['anchors']:,} texts",
        f"calibrated on {options['calibration_texts']:,} other texts",
        f"After 300 steps its next-sentence head has kept {kept[anchored, 300]} of its height (plain "
        f"{kept[plain, 300]}), after 1,000 steps {kept[anchored, 1000]} (plain {kept[plain, 1000]})",
        f"Even without calibration it is at {means(anchored, 1000)['nsp', 'grafted']:.3f} then, where the plain run "
        f"has left {means(plain, 1000)['nsp', 'grafted']:.3f} of it",
        f"it gets {new[anchored]:.3f} after 1,000 anchored steps and {new[plain]:.3f} after as many plain ones "
        f"(standard error {probes['plain']['cls']['se']:.3f}; the donor {probes['donor']['cls']['accuracy']:.3f}), on "
        "the mean of the tokens "
        f"{probes['anchors']['mean']['accuracy']:.3f} and {probes['plain']['mean']['accuracy']:.3f}",
        f"half the rate keeps {percent(at_half['nsp', 'recovery'])} of the next-sentence head at "
        f"{at_half['perplexity']:.3f} times the perplexity",
        f"all linear layers) {percent(means(lora, 1000)['nsp', 'recovery'])} at "
        f"{means(lora, 1000)['perplexity']:.3f} times",
        f"keeps {percent(averaged['nsp', 'recovery'])}, and gives up most of the adaptation: "
        f"{averaged['perplexity']:.3f} times",
        f"after 100 steps at half the rate it keeps {percent(means(half, 100)['nsp', 'recovery'])} without any anchor",
        f"[{slower['4']} and {slower['2']}](#what-it-costs)",
        f"differ in their seed alone are {seeds:.3f} times apart after 300 steps, and the two anchored ones "
        f"{against[0]:.3f} and {against[1]:.3f} times their plain runs",
        f"all anchored runs are at {min(long):.3f} to {max(long):.3f}",
        f"Ten times the weight keeps no more ({percent(heavy['nsp', 'recovery'])} after 300 steps) at "
        f"{heavy['perplexity']:.3f} times the perplexity",
        f"plain training flips {percent(means(plain, 1000)['topic', 'flips'], 1)}",
        f"at half the rate every aim is reached: after 1,000 steps {percent(with_anchors['nsp', 'recovery'])} and "
        f"{percent(with_anchors['topic', 'recovery'])} are kept, {percent(with_anchors['nsp', 'flips'], 1)} and "
        f"{percent(with_anchors['topic', 'flips'], 1)} flip, at {with_anchors['perplexity']:.3f} times the perplexity "
        "of plain training at that rate",
        f"({ANCHORING['time']['cpu'].replace(' (', ', ')}, in turns, {len(ANCHORING['time']['seconds']['0'])} of each",
    ):
        assert sentence in PAGE, sentence


TIMES = {texts: ANCHORING["time"]["seconds"][texts] for texts in ("2", "4")}


def test_the_claims_on_anchoring_are_what_the_records_say():
    """What the page says without figures."""
    plain, anchored, singles = fidelity.PLAIN, fidelity.ANCHORED, fidelity.Run(texts=4, kind="singles")
    new, new_anchored = fidelity.Run(head="new"), fidelity.Run(texts=4, head="new")
    points = [point for run in ANCHORING["runs"].values() for point in run["points"].values()]
    probes = [found["cls"]["accuracy"] for name, found in ANCHORING["new_probe"].items() if name != "donor"]
    assert min(probes) > max(point["calibrated"]["topic"]["accuracy"] for point in points)
    for at, aims in fidelity.AIMS.items():
        at_half = means(fidelity.Run(texts=4, lr=5e-5), at, fidelity.Run(lr=5e-5))
        for key, aim in aims.values():
            assert at_half[key] >= aim if "recovery" in key else at_half[key] <= aim, (at, key)
    assert means(anchored, 1000)["topic", "accuracy"] >= ANCHORING["donor_heads"]["topic"]["accuracy"]
    alone = percent(means(singles, 300)["nsp", "recovery"])
    assert f"the next-sentence head keeps {alone} after 300 steps, what it keeps without any anchor" in PAGE
    assert abs(means(singles, 300)["nsp", "recovery"] - means(plain, 300)["nsp", "recovery"]) < 0.02
    pairs = means(fidelity.Run(texts=4, kind="pairs"), 300)
    assert min(pairs["nsp", "recovery"], pairs["topic", "recovery"]) > 0.98
    for at in (100, 300):
        assert means(new_anchored, at, new)["nsp", "recovery"] > 0.97
        assert means(new_anchored, at, new)["topic", "grafted"] > means(new, at, new)["topic", "grafted"] + 0.1
        assert means(new_anchored, at, new)["perplexity"] > means(anchored, at)["perplexity"]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "docs/training.md"])
def test_what_others_quote_of_it_is_what_the_records_say(name):
    text = re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8")).replace(" %", "%")
    plain, anchored = (means(run, 1000) for run in (fidelity.PLAIN, fidelity.ANCHORED))
    quoted = [f"{it['nsp', 'recovery']:.0%}" for it in (plain, anchored)]
    quoted += [f"{ratio(TIMES['4'], ANCHORING['time']['seconds']['0'])[0]:.2f}", f"{anchored['perplexity']:.3f}"]
    if name == "docs/training.md":
        quoted += [f"the head has kept {means(fidelity.Run(texts=2), 1000)['nsp', 'recovery']:.0%}"]
    else:
        own = ANCHORING["donor_heads"]["nsp"]["accuracy"]
        quoted += [f"{(plain['nsp', 'grafted'] - 0.5) / (own - 0.5):.0%}"]
        quoted += [f"{it['probe']:.3f}" for it in (plain, anchored)]
    part = text[text.index("1,000") :][:600]
    assert not [figure for figure in quoted if figure not in part]
