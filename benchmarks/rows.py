# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of the benchmark's table, computed from its record. Parts that were not run are omitted."""

import statistics

from measuring import ratio

USUAL = "load both models, copy the pooler, `save_pretrained`"
WAYS = ("convert", "usual")
STOCK = "stock `BertForMaskedLM`"
FIELDS = {"seconds": ("time", "s", 1), "cpu": ("CPU time", "s", 1)}
FIELDS |= {"peak": ("memory of its largest process", "MB", 1e6)}
NAMES = {"encoder": "the encoder alone", "dense": "ours as it comes", "loss": "ours without logits"}


def row(key: str, work: str, against: str, one: list = (), other: list = (), target: float | None = None, **found):
    """A row of the table.

    Args:
        one, other: Seconds by round, whose ratio is measured; else `measured` is given.
        target: What `measured` should be at most.
        found: `measured`, its `unit`, a `note`, or the words for what `to_reach`.
    """
    if one:
        found |= zip(("measured", "low", "high"), ratio(one, other), strict=True)
    empty = {"measured": None, "low": None, "high": None, "unit": "times", "note": ""}
    empty["to_reach"] = f"at most {target}" if target else "-"
    made = {"key": key, "work": work, "against": against, "target": target} | empty | found
    return {"reached": made["measured"] <= target if target and made["measured"] is not None else None} | made


def equal(key: str, work: str, against: str, times: dict) -> dict:
    """A ratio that should be 1.00: its quartiles have to overlap with, or be below, those of stock against itself."""
    itself, least, most = ratio(times["again"], times["stock"])
    note = f"stock against itself: {itself:.3f} ({least:.3f} to {most:.3f})"
    made = row(key, work, against, times["ours"], times["stock"], to_reach="1.00 within the spread", note=note)
    return made | {"target": 1.0, "reached": made["low"] <= max(most, 1.0)}


def arithmetic(part: dict, one: str, other: str, digits: int = 2) -> str:
    flops = part["arithmetic"][one]["flops"] / part["arithmetic"][other]["flops"]
    return f"{flops:.{digits}f} times the arithmetic"


def forward_rows(setting: str, part: dict) -> list[dict]:
    times = part["times"]
    ours, stock = (part["arithmetic"][name]["products"] for name in ("ours", "stock"))
    more = {"measured": ours - stock, "unit": "products", "to_reach": "one more"}
    more["note"] = f"{ours} against {stock}; {arithmetic(part, 'ours', 'stock', 4)}"
    twice, loss = (arithmetic(part, *names) for names in (("ours", "twice"), ("loss", "stock")))
    against, alone = "the class with two encoder passes", "the loss alone, `return_logits=False`"
    return [
        equal("forward", f"forward with all four outputs ({setting})", STOCK, times),
        row("products", "the same, matrix products", "the same", **more) | {"target": 1, "reached": ours == stock + 1},
        row("twice", "the same", against, times["ours"], times["twice"], 0.55, note=twice),
        row("loss", alone, STOCK, times["loss"], times["stock"], note=loss),
    ]


def vectors_rows(setting: str, part: dict) -> list[dict]:
    times, note = part["times"], arithmetic(part, "ours", "with_logits")
    return [
        equal("vectors", f"vectors only ({setting})", "stock `BertModel`", times),
        row("without_logits", "the same", "ours with logits", times["ours"], times["with_logits"], 0.78, note=note),
    ]


def training_rows(setting: str, part: dict) -> list[dict]:
    times, adamw = part["times"], statistics.median(part["adamw"])
    whole = ratio(*([seconds + adamw for seconds in times[name]] for name in ("ours", "stock")))[0]
    pairs = (("ours", "stock"), ("ours", "encoder"), ("dense", "stock"))
    note, limit, dense = (arithmetic(part, *names) for names in pairs)
    note += f"; {whole:.2f} with AdamW's step"
    work, against = f"training step, `sparse_prediction` ({setting})", "the encoder alone, forward and backward"
    return [
        row("training", work, STOCK, times["ours"], times["stock"], 0.77, note=note),
        row("limit", "the same", against, times["ours"], times["encoder"], 1.15, note=limit),
        row("dense", "training step as it comes", STOCK, times["dense"], times["stock"], note=dense),
    ]


MEMORY = {
    "checkpointing": ("peak memory of that step ({}, gradient checkpointing, no attention dropout)", "ours", 0.6),
    "plain": ("peak memory of that step ({})", "ours", 0.6),
    "evaluation": ("peak memory of an evaluation ({})", "dense", None),
}


def memory_rows(way: str, part: dict) -> list[dict]:
    """One mode: ours against stock and, where both were measured, also without `sparse_prediction`."""
    peak, (template, ours, target), against = part.get("peak", {}), MEMORY[way], "stock, the same"
    key, work = f"memory_{way}", template.format(f"{part['rows']} x {part['length']}")
    if "skipped" in part or None in peak.values():
        note = part.get("skipped", "the device's memory is too small")
        return [row(key, work, against, target=target, note=note)]
    note = "; ".join(f"{NAMES.get(name, name)} {peak[name] / 1e9:.2f} GB" for name in peak)
    table = [row(key, work, against, target=target, measured=peak[ours] / peak["stock"], note=note)]
    if "dense" in peak and ours != "dense":
        measured = peak["dense"] / peak["stock"]
        table.append(row(f"{key}_dense", "the same, as it comes", against, measured=measured))
    return table


SETTINGS = {
    "sparse": ("`sparse_prediction`", None),
    "grouped": ("batches of like length", None),
    "both": ("both", 0.52),
    "bfloat16": ("both, and bfloat16", 0.4),
}


def trainer_rows(part: dict) -> list[dict]:
    """The time of each training setting relative to stock with Trainer's defaults, and its final loss."""
    times, losses, table = part["times"], part["losses"], []
    for name, (setting, target) in SETTINGS.items():
        if name in times:
            note = f"held-out loss {losses[name]:.2f}, stock's {losses['stock']:.2f}"
            work = f"training with `Trainer`, texts of any length: {setting}"
            against = "stock, Trainer's defaults"
            table.append(row(f"trainer_{name}", work, against, times[name], times["stock"], target, note=note))
    return table


def compared(key: str, work: str, against: str, ours: dict, theirs: dict, targets: dict) -> list[dict]:
    """A row for each field (with its target) of two records of `measuring.in_fresh_process`, pair by pair."""
    table = []
    for field, target in targets.items():
        what, unit, scale = FIELDS[field]
        note = " against ".join(f"{statistics.median(way[field]) / scale:.4g} {unit}" for way in (ours, theirs))
        name = key if field == "seconds" else f"{key}_{field}"
        table.append(row(name, f"{work}: {what}", against, ours[field], theirs[field], target, note=note))
    return table


def several_rows(part: dict) -> list[dict]:
    """One checkpoint and several in one call, verified, against the usual way for as many in one process."""
    runs, one = part["runs"], f"convert, verified, {part['bytes'] / 1e6:.0f} MB"
    targets = {"seconds": 0.65, "cpu": 0.75, "peak": None}
    table = compared("convert", one, USUAL, runs["1"]["convert"], runs["1"]["usual"], targets)
    against = "the usual way for as many, in one process, the donor loaded once"
    for count, ways in runs.items():
        targets = {"1": {}, "8": {"seconds": 0.9, "cpu": None}}.get(count, {"seconds": None})
        work = f"convert, verified, {count} checkpoints in one call"
        table += compared(f"several_{count}", work, against, ways["convert"], ways["usual"], targets)
    if len(runs) > 1:
        ours, usual = (fit(line)[0] for line in several_lines(part).values())
        note = f"{ours:.2f} s against {usual:.2f} s"
        work = "the same, each further checkpoint: time"
        table.append(row("further", work, against, measured=ours / usual, note=note))
        peaks = {count: statistics.median(ways["convert"]["peak"]) / 1e6 for count, ways in runs.items()}
        note = ", ".join(f"{count}: {peak:.0f} MB" for count, peak in peaks.items())
        found = {"unit": "MB", "to_reach": "at most 50 MB more", "note": note, "measured": peaks["8"] - peaks["1"]}
        work = "the same, memory of its largest process: 8 checkpoints"
        table.append(row("several_peak", work, "1 checkpoint", target=50, **found))
    return table


def conversion_rows(part: dict) -> list[dict]:
    runs, size = part["compared"]["runs"], f"{part['compared']['bytes'] / 1e6:.0f} MB"
    targets = {"seconds": 0.4, "cpu": None, "peak": 0.2}
    table = compared("no_verify", f"convert, `--no-verify`, {size}", USUAL, runs["no_verify"], runs["usual"], targets)
    copy, cp = runs["copy"], runs["cp"]
    whole = ratio(*([a + b for a, b in zip(way["copy"], way["fsync"], strict=True)] for way in (copy, cp)))[0]
    ours, theirs = (statistics.median(way["copy"]) for way in (copy, cp))
    note = f"{ours:.2f} s against {theirs:.2f} s; {whole:.2f} with `fsync`"
    against = "`cp`, same cache state"
    table.append(row("copy", "convert, the copy alone", against, copy["copy"], cp["copy"], 1.3, note=note))
    peaks = [size["peak"] for size in part["growth"]]
    found = {"unit": "MB", "to_reach": "flat within 20 MB", "measured": (max(peaks) - min(peaks)) / 1e6}
    found["note"] = ", ".join(f"{peak / 1e6:.1f} MB" for peak in peaks)
    sizes = " against ".join(gigabytes(size["bytes"]) for size in part["growth"])
    table.append(row("flat", "convert, peak memory: largest difference", sizes, target=20, **found))
    sent, size = part["hub"]["sent"], part["hub"]["bytes"]
    found = {"unit": "%", "to_reach": "at most 1.4 %", "measured": 100 * sent / size}
    found["note"] = f"{sent / 1e6:.2f} MB of {size / 1e6:.0f} MB"
    return [*table, row("hub", "Hub donor, bytes", "the whole model", target=1.4, **found)]


def start_rows(part: dict) -> list[dict]:
    """What the installed package costs, against the checkout and against transformers."""
    checkout, runs, short = "`python convert.py` of the checkout", part["runs"], {"seconds": 1.2}
    work, limits = f"installed command, `--no-verify`, {part['bytes'] / 1e6:.0f} MB", dict.fromkeys(FIELDS, 1.2)
    table = compared("installed", work, checkout, runs["installed"], runs["checkout"], limits)
    helped = runs["installed_help"], runs["checkout_help"]
    table += compared("help", "installed command, `--help`", checkout, *helped, short)
    works = "`import bert_pooled_mlm`", "`import transformers`"
    return table + compared("import", *works, runs["import"], runs["import_transformers"], short)


def rows(result: dict) -> list[dict]:
    parts, table = result["parts"], []
    for name, of in (("forward", forward_rows), ("vectors", vectors_rows), ("training", training_rows)):
        for setting, part in parts.get(name, {}).items():  # the number formats that were measured
            table += of(setting, part)
    for way, part in parts.get("memory", {}).items():
        table += memory_rows(way, part)
    if part := parts.get("loading"):
        work = f"load from disk, {part['bytes'] / 1e6:.0f} MB"
        table.append(equal("loading", work, "stock, the same file", part["times"]))
    others = {"trainer": trainer_rows, "several": several_rows, "conversion": conversion_rows, "start": start_rows}
    return table + [row for name, of in others.items() if name in parts for row in of(parts[name])]


def several_lines(part: dict) -> dict[str, list[tuple[float, float]]]:
    """Seconds over the number of checkpoints."""
    medians = {way: [statistics.median(runs[way]["seconds"]) for runs in part["runs"].values()] for way in WAYS}
    return {way: list(zip(map(int, part["runs"]), seconds, strict=True)) for way, seconds in medians.items()}


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of the line of least squares."""
    return statistics.linear_regression(*zip(*points, strict=True))
