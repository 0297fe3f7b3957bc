# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/fidelity.md that index_fidelity.py makes from its record."""

import itertools
import statistics
from collections.abc import Callable

from documents import markdown_table
from measuring import ratio

CORPORA = ("python", "reference", "packages")
STEPS = ("100", "300", "1000")
NAMES = {"sentence": "sentence", "nsp": "next-sentence"}
METHODS = {  # runs by their settings, as the record names them; "variance 0.3" is the package's loss
    "plain": "plain",
    "length² 0.1": "anchors=4",
    "variance 0.3": "anchors=4 weight=0.3 unit=variance",
    "variance 0.3, states 0.1": "anchors=4 weight=0.3 unit=variance tokens=0.1",
    "variance 0.3, states 0.1, search 0.3": "anchors=4 weight=0.3 unit=variance search=0.3 tokens=0.1",
}
FITS = {
    "ridge": "one penalty (the package's)",
    "by direction": "a penalty for each direction",
    "after tanh": "distances after the tanh",
    "search": "distances after the tanh, and search",
}
AIMS = [  # donor, steps, measure, its key, the aim
    ("sentence", "1000", "own document", "own", 0.98),
    ("sentence", "1000", "neighbours kept", "kept", 0.85),
    ("sentence", "1000", "loss above plain", "loss", 0.04),
    ("nsp", "1000", "next-sentence head, kept", "nsp", 0.99),
    ("nsp", "100", "neighbours kept", "kept", 0.75),
]
HEADS = {"topic": "classifier, kept", "nsp": "next-sentence head, kept"}
HEADS_OF = {"sentence": ["topic"], "nsp": ["topic", "nsp"]}
Row = dict[str, float]  # the figures of one pooler on one model


percent, tenths, two_digits = "{:.0%}".format, "{:.1%}".format, "{:.2f}".format


def signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"


def figures(point: dict, plain: dict, how: str) -> Row:
    """Of a point of the record, with the pooler of `how`; quality relative to the donor's own."""
    scores = point[how]
    found, centred, donor = scores["cosine"], scores["centred"], scores["cosine"]["donor"]
    row = {key: found[key] for key in ("vectors", "kept", "false_positives", "accepted_kept")}
    row |= {"centred": centred["vectors"], "centred_kept": centred["kept"]}
    row |= {"own": found["own"] / donor["own"], "mrr": found["mrr"] / donor["mrr"]}
    row |= {f"{key}_own": found[key]["own"] / donor["own"] for key in ("reembedded", "half")}
    row |= {"true_positives": found["true_positives"] / found["true_positives_donor"]}
    row |= {head: scores[head]["kept"] for head in HEADS if head in scores}
    return row | {"loss": point["held_out"] - plain["held_out"]}


def rows(record: dict, start: str, settings: str, step: str, seeds=(1, 2)) -> dict[str, list[Row]]:
    """Grafted, calibrated on 1,000 texts and (at the last step) on all, one row for each seed that the record has."""
    found = {"grafted": [], "calibrated": [], "all": []}
    for seed in seeds:
        run, plain = (record["runs"].get(f"{start} {it} seed={seed}") for it in (settings, "plain"))
        if run and step in run["points"]:
            point, reference = run["points"][step], plain["points"][step]
            names = ("grafted", f"ridge {record['options']['calibration']}", [it for it in point if "ridge" in it][-1])
            for how, name in zip(found, names, strict=True):
                found[how].append(figures(point, reference, name))
    return found


def mean(rows: list[Row], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def both(found: dict[str, list[Row]], key: str, show: Callable[[float], str], hows: int = 2) -> str:
    return " → ".join(show(mean(rows, key)) for rows in list(found.values())[:hows])


def kept_table(record: dict, donor: str, corpora: tuple[str, ...], steps: tuple[str, ...]) -> str:
    """Cosines, neighbours, retrieval and heads, grafted → calibrated on 1,000 texts."""
    heads, lines, several = HEADS_OF[donor], [], ["corpus"] if len(corpora) > 1 else []
    for corpus, step, title in itertools.product(corpora, steps, METHODS):
        found = rows(record, f"{corpus} {donor}", METHODS[title], step)
        if found["grafted"]:
            line = [corpus for _ in several] + [title, f"{int(step):,}", str(len(found["grafted"]))]
            line += [both(found, key, two_digits) for key in ("vectors", "centred", "kept", "centred_kept")]
            line += [both(found, key, percent) for key in ("own", "mrr", *heads)]
            lines.append([*line, signed(mean(found["grafted"], "loss"))])
    names = [*several, "", "steps", "seeds", "cosine", "centred cosine", "neighbours kept", "by centred cosine"]
    names += ["own document", "MRR", *(HEADS[head] for head in heads), "loss above plain"]
    return markdown_table(names, lines)


def use_table(record: dict) -> str:
    """After the last step: what becomes of an index that is kept, re-embedded or half-migrated, and of a threshold."""
    lines = []
    for donor, title in itertools.product(NAMES, METHODS):
        found = rows(record, f"python {donor}", METHODS[title], STEPS[-1])
        if found["grafted"]:
            line = [NAMES[donor], title, *(both(found, key, percent) for key in ("own", "half_own", "reembedded_own"))]
            line.append(both(found, "false_positives", tenths))
            lines.append([*line, *(both(found, key, percent) for key in ("true_positives", "accepted_kept"))])
    names = ["donor", "", "donor's index", "half-migrated", "re-embedded"]
    return markdown_table([*names, "false positives", "true positives / donor", "accepted pairs kept"], lines)


def variants_table(record: dict, donor: str) -> str:
    """Every loss after the last step, with the first seed: grafted → calibrated on 1,000 → on all texts."""
    heads, lines = HEADS_OF[donor], []
    for variant in variants(record, donor):
        found = rows(record, f"python {donor}", variant["run"], STEPS[-1], (1,))
        line = [variant["title"], both(found, "kept", two_digits, 3), both(found, "own", percent, 3)]
        line += [both(found, head, percent) for head in heads] + [signed(mean(found["grafted"], "loss"))]
        seconds = [it for it in record.get("time", {}).values() if variant["timed"] in it]
        times = [ratio(it[variant["timed"]], it["plain"])[0] for it in seconds]
        lines.append([*line, " / ".join(map(two_digits, times))])
    names = ["", "neighbours kept", "own document", *(HEADS[head] for head in heads)]
    return markdown_table([*names, "loss above plain", "step / plain's"], lines)


def variants(record: dict, donor: str) -> list[dict]:
    runs = {it["run"]: rows(record, f"python {donor}", it["run"], STEPS[-1], (1,)) for it in record["variants"]}
    return [it for it in record["variants"] if runs[it["run"]]["grafted"]]


def fits_table(record: dict) -> str:
    """Other fits of the pooler on the sentence donor, calibrated on 1,000 → on all texts."""
    lines = []
    for title, fit in itertools.product(("plain", "length² 0.1", "variance 0.3"), FITS):
        run = record["runs"].get(f"python sentence {METHODS[title]} seed=1", {"points": {}})
        point = run["points"].get(STEPS[-1], {})
        if found := [figures(point, point, name) for name in point if name.startswith(f"{fit} ")]:
            shown = {"kept": two_digits, "own": percent, "topic": percent}
            cells = [" → ".join(show(it[key]) for it in found) for key, show in shown.items()]
            lines.append([title, FITS[fit], *cells])
    return markdown_table(["", "fit", "neighbours kept", "own document", "classifier, kept"], lines)


def aims_table(record: dict) -> str:
    """The aims by method, calibrated on 1,000 → on all texts; in bold what was missed."""
    lines, anchored = [], [title for title in METHODS if title != "plain"]
    for corpus, (donor, step, name, key, aim) in itertools.product(CORPORA, AIMS):
        show = {"kept": two_digits, "loss": signed}.get(key, tenths)
        bound = f"{'at most' if key == 'loss' else 'at least'} {show(aim)}"
        line = [corpus, NAMES[donor], f"{int(step):,}", name, bound]
        for title in anchored:
            found = rows(record, f"{corpus} {donor}", METHODS[title], step)
            hows = ["calibrated", "all"] if step == STEPS[-1] and key != "loss" else ["calibrated"]
            values = [mean(found[how], key) for how in hows if found[how]]
            missed = [value > aim if key == "loss" else value < aim for value in values]
            shown = [f"**{show(it)}**" if bad else show(it) for it, bad in zip(values, missed, strict=True)]
            line.append(" → ".join(shown))
        lines.append(line)
    return markdown_table(["corpus", "donor", "steps", "", "aim", *anchored], lines)


def donors_table(record: dict) -> str:
    """What the donors themselves find."""
    lines = []
    for corpus, donor in itertools.product(CORPORA, NAMES):
        if run := record["runs"].get(f"{corpus} {donor} plain seed=1"):
            scores = list(run["points"].values())[-1]["grafted"]
            values = [scores["cosine"]["donor"][key] for key in ("own", "mrr")]
            values += [scores["cosine"]["true_positives_donor"], *(scores[h]["donor"] for h in HEADS if h in scores)]
            cells = [f"{value:.3f}" for value in values]
            lines.append([corpus, NAMES[donor], *cells, *[""] * (5 - len(cells))])
    names = ["corpus", "donor", "own document among ten", "MRR", "true positives", "classifier", "next-sentence head"]
    return markdown_table(names, lines)


def time_table(record: dict) -> str:
    lines = [
        [blocks, name, *map(two_digits, ratio(each, seconds["plain"]))]
        for blocks, seconds in record.get("time", {}).items()
        for name, each in seconds.items()
        if name != "plain"
    ]
    return markdown_table(["blocks in a batch", "added to 16 blocks", "time per step / plain", "from", "to"], lines)


def tables(record: dict) -> dict[str, str]:
    return {
        "donors": donors_table(record),
        "sentence": kept_table(record, "sentence", ("python",), STEPS),
        "nsp": kept_table(record, "nsp", ("python",), STEPS),
        "use": use_table(record),
        "corpora": kept_table(record, "sentence", ("reference", "packages"), STEPS[-1:]),
        "corpora_nsp": kept_table(record, "nsp", ("reference", "packages"), STEPS[-1:]),
        "aims": aims_table(record),
        "variants": variants_table(record, "sentence"),
        "variants_nsp": variants_table(record, "nsp"),
        "fits": fits_table(record),
        "time": time_table(record),
    }
