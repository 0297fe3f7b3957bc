# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/fidelity.md that index_fidelity.py makes from its record."""

import statistics
from collections.abc import Callable

from documents import markdown_table
from index_plan import CORPORA, DONORS, METHODS, NEXT_SENTENCE, VARIANTS
from index_runs import Run
from measuring import ratio

STEPS = ("100", "300", "1000")
NAMES = {"sentence": "sentence", "nsp": "next-sentence"}
Row = dict[str, float]  # the figures of one pooler on one model


def all_texts(point: dict) -> str:
    """The name of the calibration on the most texts."""
    return [name for name in point if name.startswith("ridge")][-1]


def figures(point: dict, plain: dict, how: str) -> Row:
    """Of a point of the record, with the pooler of `how`; quality relative to the donor's own."""
    scores = point[how]
    found, centred, donor = scores["cosine"], scores["centred"], scores["cosine"]["donor"]
    row = {key: found[key] for key in ("vectors", "kept", "false_positives", "accepted_kept")}
    row |= {
        "centred": centred["vectors"],
        "centred_kept": centred["kept"],
        "loss": point["held_out"] - plain["held_out"],
    }
    row |= {"own": found["own"] / donor["own"], "mrr": found["mrr"] / donor["mrr"], "donor": donor["own"]}
    row |= {f"{key}_own": found[key]["own"] / donor["own"] for key in ("reembedded", "half")}
    row["of_reembedded"] = found["own"] / found["reembedded"]["own"]
    row["true_positives"] = found["true_positives"] / found["true_positives_donor"]
    for head in ("topic", "nsp"):
        if head in scores:
            row |= {head: scores[head]["kept"], f"{head}_flips": scores[head]["flips"]}
    return row


def rows(record: dict, fields: dict, step: str, seeds: tuple[int, ...] = (1, 2), **start: str) -> dict[str, list[Row]]:
    """Grafted, calibrated on 1,000 texts and (at the last step) on all, one row for each seed that the record has."""
    found = {"grafted": [], "calibrated": [], "all": []}
    for seed in seeds:
        run, plain = (record["runs"].get(Run(seed=seed, **start, **it).name) for it in (fields, {}))
        if run:
            point, reference = run["points"][step], plain["points"][step]
            names = {"grafted": "grafted", "calibrated": f"ridge {record['options']['calibration']}"}
            for how, name in (names | {"all": all_texts(point)}).items():
                found[how].append(figures(point, reference, name))
    return found


def mean(rows: list[Row], key: str) -> float:
    return statistics.mean(row[key] for row in rows)


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def both(found: dict[str, list[Row]], key: str, show: Callable[[float], str], last: bool = False) -> str:
    shown = ["grafted", "calibrated", "all"] if last else ["grafted", "calibrated"]
    return " → ".join(show(mean(found[how], key)) for how in shown)


def two_digits(value: float) -> str:
    return f"{value:.2f}"


def signed(value: float) -> str:
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"


HEADS = {"topic": "classifier, kept", "nsp": "next-sentence head, kept"}


def kept_table(record: dict, donor: str, corpora: tuple[str, ...], steps: tuple[str, ...]) -> str:
    """Cosines, neighbours, retrieval and heads, grafted → calibrated on 1,000 texts."""
    heads = ["topic", "nsp"] if donor == "nsp" else ["topic"]
    lines = []
    for corpus in corpora:
        for step in steps:
            for title, fields in METHODS.items():
                found = rows(record, fields, step, corpus=corpus, donor=donor)
                if not found["grafted"]:
                    continue
                line = [corpus] if len(corpora) > 1 else []
                line += [title, f"{int(step):,}", str(len(found["grafted"]))]
                line += [both(found, key, two_digits) for key in ("vectors", "centred", "kept", "centred_kept")]
                line += [both(found, key, percent) for key in ("own", "mrr", *heads)]
                lines.append([*line, signed(mean(found["grafted"], "loss"))])
    names = ["corpus"] if len(corpora) > 1 else []
    names += [
        "",
        "steps",
        "seeds",
        "cosine",
        "centred cosine",
        "neighbours kept",
        "by centred cosine",
        "own document",
        "MRR",
    ]
    return markdown_table([*names, *(HEADS[head] for head in heads), "loss above plain"], lines)


def use_table(record: dict) -> str:
    """After the last step: what becomes of an index that is kept, re-embedded or half-migrated, and of a threshold."""
    lines = []
    for donor in DONORS:
        for title, fields in METHODS.items():
            found = rows(record, fields, STEPS[-1], donor=donor)
            if found["grafted"]:
                line = [NAMES[donor], title]
                line += [both(found, key, percent) for key in ("own", "half_own", "reembedded_own")]
                line.append(both(found, "false_positives", lambda value: f"{100 * value:.1f}%"))
                lines.append([*line, *(both(found, key, percent) for key in ("true_positives", "accepted_kept"))])
    names = ["donor", "", "donor's index", "half-migrated", "re-embedded"]
    return markdown_table([*names, "false positives", "true positives / donor", "accepted pairs kept"], lines)


def timed(fields: dict) -> str | None:
    """The name of the timed step that costs what a step of a run costs, if one does."""
    if fields.keys() & {"tokens", "relational", "drift", "towards_start"}:
        return None
    rows = {"anchors": f"{fields.get('anchors')} anchors", "masked": f"{fields.get('masked')} masked"}
    names = [name for key, name in rows.items() if key in fields]
    return (names[0] if len(names) == 1 else " and ".join(names)) + (", search" if "search" in fields else "")


def variants_table(record: dict, donor: str, titles) -> str:
    """Every loss after the last step, with the first seed: grafted → calibrated on 1,000 → on all texts."""
    lines = []
    for title in titles:
        found = rows(record, VARIANTS[title], STEPS[-1], (1,), donor=donor)
        line = [title, both(found, "kept", two_digits, True), both(found, "own", percent, True)]
        line += [both(found, head, percent) for head in (["topic", "nsp"] if donor == "nsp" else ["topic"])]
        line.append(signed(mean(found["grafted"], "loss")))
        name = timed(VARIANTS[title])
        seconds = [it for it in record["time"].values() if name in it]
        lines.append([*line, " / ".join(two_digits(ratio(it[name], it["plain"])[0]) for it in seconds)])
    heads = [HEADS[head] for head in (["topic", "nsp"] if donor == "nsp" else ["topic"])]
    return markdown_table(["", "neighbours kept", "own document", *heads, "loss above plain", "step / plain's"], lines)


FITS = {
    "ridge": "one penalty (the package's)",
    "by direction": "a penalty for each direction",
    "after tanh": "distances after the tanh",
    "search": "distances after the tanh, and search",
}


def fits_table(record: dict) -> str:
    """Poolers that were fitted differently to the same models, after the last step."""
    lines = []
    for title in ("plain", "length² 0.1", "variance 0.3"):
        run = record["runs"][Run(**METHODS[title]).name]
        point = run["points"][STEPS[-1]]
        for fit, named in FITS.items():
            counts = [name for name in point if name.startswith(f"{fit} ")]
            found = [figures(point, point, name) for name in counts]
            line = [
                " → ".join(show(it[key]) for it in found) for key, show in (("kept", two_digits), ("own", percent))
            ]
            lines.append([title, named, *line, " → ".join(percent(it["topic"]) for it in found)])
    return markdown_table(["", "fit", "neighbours kept", "own document", "classifier, kept"], lines)


def time_table(record: dict) -> str:
    lines = []
    for blocks, seconds in record["time"].items():
        for name, each in seconds.items():
            if name != "plain":
                lines.append([blocks, name, *map(two_digits, ratio(each, seconds["plain"]))])
    return markdown_table(["blocks in a batch", "added to 16 blocks", "time per step / plain", "from", "to"], lines)


# --- Aims ------------------------------------------------------------------------------------------------------------

AIMS = [  # donor, steps, measure, its key, the aim
    ("sentence", "1000", "own document", "own", 0.98),
    ("sentence", "1000", "neighbours kept", "kept", 0.85),
    ("sentence", "1000", "loss above plain", "loss", 0.04),
    ("nsp", "1000", "next-sentence head, kept", "nsp", 0.99),
    ("nsp", "100", "neighbours kept", "kept", 0.75),
]


def aims_table(record: dict) -> str:
    """The aims by method, calibrated on 1,000 → on all texts; in bold what was missed."""
    lines, anchored = [], list(METHODS.values())[1:]
    for corpus in CORPORA:
        for donor, step, name, key, aim in AIMS:
            show = {"kept": two_digits, "loss": signed}.get(key, lambda value: f"{100 * value:.1f}%")
            line = [
                corpus,
                NAMES[donor],
                f"{int(step):,}",
                name,
                f"{'at most' if key == 'loss' else 'at least'} {show(aim)}",
            ]
            for fields in anchored:
                found = rows(record, fields, step, corpus=corpus, donor=donor)
                hows = ["calibrated", "all"] if step == STEPS[-1] and key != "loss" else ["calibrated"]
                values = [mean(found[how], key) for how in hows if found[how]]
                missed = [value > aim if key == "loss" else value < aim for value in values]
                line.append(
                    " → ".join(f"**{show(it)}**" if bad else show(it) for it, bad in zip(values, missed, strict=True))
                )
            lines.append(line)
    return markdown_table(["corpus", "donor", "steps", "", "aim", *list(METHODS)[1:]], lines)


def donors_table(record: dict) -> str:
    """What the donors themselves find."""
    lines = []
    for corpus in CORPORA:
        for donor in DONORS:
            scores = record["runs"][Run(corpus=corpus, donor=donor).name]["points"][STEPS[-1]]["grafted"]
            donor_scores, accepted = scores["cosine"]["donor"], scores["cosine"]["true_positives_donor"]
            line = [
                corpus,
                NAMES[donor],
                f"{donor_scores['own']:.3f}",
                f"{donor_scores['mrr']:.3f}",
                f"{accepted:.3f}",
            ]
            heads = [f"{scores[head]['donor']:.3f}" if head in scores else "" for head in ("topic", "nsp")]
            lines.append([*line, *heads])
    names = ["corpus", "donor", "own document among ten", "MRR", "true positives", "classifier", "next-sentence head"]
    return markdown_table(names, lines)


def tables(record: dict) -> dict[str, str]:
    return {
        "donors": donors_table(record),
        "sentence": kept_table(record, "sentence", ("python",), STEPS),
        "nsp": kept_table(record, "nsp", ("python",), STEPS),
        "use": use_table(record),
        "corpora": kept_table(record, "sentence", ("reference", "packages"), STEPS[-1:]),
        "corpora_nsp": kept_table(record, "nsp", ("reference", "packages"), STEPS[-1:]),
        "aims": aims_table(record),
        "variants": variants_table(record, "sentence", VARIANTS),
        "variants_nsp": variants_table(record, "nsp", NEXT_SENTENCE),
        "fits": fits_table(record),
        "time": time_table(record),
    }
