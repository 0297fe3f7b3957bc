# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of the benchmark's table on conversions."""

import statistics

from measuring import ratio
from rows import row, spread, within

USUAL = "load both models, copy the pooler, `save_pretrained`"
FIELDS = {
    "seconds": ("time", "s", 1),
    "cpu": ("CPU time", "s", 1),
    "peak": ("memory of its largest process", "MB", 1e6),
}
CONVERSION = (
    "convert", "convert_cpu", "convert_peak", "several_2", "several_4", "several_8", "several_8_cpu", "several_16",
    "further", "several_peak", "no_verify", "no_verify_cpu", "no_verify_peak", "copy", "flat", "hub",
    "installed", "installed_cpu", "installed_peak", "help", "import",
)  # fmt: skip


def compared(key: str, work: str, against: str, ours: dict, theirs: dict, field: str, target: float | None) -> dict:
    """A row for one field of two records of `measuring.in_fresh_process`, pair by pair."""
    what, unit, scale = FIELDS[field]
    found = spread(ours[field], theirs[field])
    found = within(target, **found) if target else found
    medians = (statistics.median(way[field]) / scale for way in (ours, theirs))
    found["note"] = " against ".join(f"{value:.4g} {unit}" for value in medians)
    return row(key, f"{work}: {what}", against, f"at most {target}" if target else "-", **found)


def several_lines(part: dict) -> dict[str, list[tuple[float, float]]]:
    """Seconds over the number of checkpoints."""
    return {
        way: [(int(count), statistics.median(runs[way]["seconds"])) for count, runs in part["runs"].items()]
        for way in ("convert", "usual")
    }


def several_rows(part: dict | None) -> list[dict]:
    """One checkpoint and several in one call, verified, against the usual way for as many in one process."""
    if not part:
        return []
    table, runs = [], part["runs"]
    one = f"convert, verified, {part['bytes'] / 1e6:.0f} MB"
    for field, target in (("seconds", 0.65), ("cpu", 0.75), ("peak", None)):
        key = "convert" if field == "seconds" else f"convert_{field}"
        table.append(compared(key, one, USUAL, runs["1"]["convert"], runs["1"]["usual"], field, target))
    against = "the usual way for as many, in one process, the donor loaded once"
    for count, ways in runs.items():
        for field, target in {"1": {}, "8": {"seconds": 0.9, "cpu": None}}.get(count, {"seconds": None}).items():
            key = f"several_{count}" if field == "seconds" else f"several_{count}_{field}"
            work = f"convert, verified, {count} checkpoints in one call"
            table.append(compared(key, work, against, ways["convert"], ways["usual"], field, target))
    if len(runs) > 1:
        ours, usual = (fit(line)[0] for line in several_lines(part).values())
        note = f"{ours:.2f} s against {usual:.2f} s"
        table.append(
            row("further", "the same, each further checkpoint: time", against, "-", measured=ours / usual, note=note)
        )
        peaks = {count: statistics.median(ways["convert"]["peak"]) / 1e6 for count, ways in runs.items()}
        found = within(50, peaks["8"] - peaks["1"], unit="MB")
        found["note"] = ", ".join(f"{count}: {peak:.0f} MB" for count, peak in peaks.items())
        work = "the same, memory of its largest process: 8 checkpoints"
        table.append(row("several_peak", work, "1 checkpoint", "at most 50 MB more", **found))
    return table


def conversion_rows(part: dict) -> list[dict]:
    table = []
    if "compared" in part:
        runs, size = part["compared"]["runs"], f"{part['compared']['bytes'] / 1e6:.0f} MB"
        usual, copy, cp = (runs[name] for name in ("usual", "copy", "cp"))
        for field, target in (("seconds", 0.4), ("cpu", None), ("peak", 0.2)):
            key = "no_verify" if field == "seconds" else f"no_verify_{field}"
            work = f"convert, `--no-verify`, {size}"
            table.append(compared(key, work, USUAL, runs["no_verify"], usual, field, target))
        found = within(1.3, **spread(copy["copy"], cp["copy"]))
        whole = ratio(*([a + b for a, b in zip(way["copy"], way["fsync"], strict=True)] for way in (copy, cp)))[0]
        ours, theirs = (statistics.median(way["copy"]) for way in (copy, cp))
        found["note"] = f"{ours:.2f} s against {theirs:.2f} s; {whole:.2f} with `fsync`"
        table.append(row("copy", "convert, the copy alone", "`cp`, same cache state", "at most 1.3", **found))
    if "growth" in part:
        peaks = [size["peak"] for size in part["growth"]]
        found = within(20, (max(peaks) - min(peaks)) / 1e6, unit="MB")
        found["note"] = ", ".join(f"{size['peak'] / 1e6:.1f} MB" for size in part["growth"])
        sizes = [gigabytes(size["bytes"]) for size in part["growth"]]
        work = "convert, peak memory: largest difference"
        table.append(row("flat", work, " against ".join(sizes), "flat within 20 MB", **found))
    if "hub" in part:
        sent, size = part["hub"]["sent"], part["hub"]["bytes"]
        found = within(1.4, 100 * sent / size, unit="%")
        found["note"] = f"{sent / 1e6:.2f} MB of {size / 1e6:.0f} MB"
        table.append(row("hub", "Hub donor, bytes", "the whole model", "at most 1.4 %", **found))
    return table


def start_rows(part: dict | None) -> list[dict]:
    """What the installed package costs, against the checkout and against transformers."""
    if not part:
        return []
    work = f"installed command, `--no-verify`, {part['bytes'] / 1e6:.0f} MB"
    checkout, runs, table = "`python convert.py` of the checkout", part["runs"], []
    for field in FIELDS:
        key = "installed" if field == "seconds" else f"installed_{field}"
        table.append(compared(key, work, checkout, runs["installed"], runs["checkout"], field, 1.2))
    help_runs = runs["installed_help"], runs["checkout_help"]
    table.append(compared("help", "installed command, `--help`", checkout, *help_runs, "seconds", 1.2))
    imports = runs["import"], runs["import_transformers"]
    work = "`import bert_pooled_mlm`"
    return [*table, compared("import", work, "`import transformers`", *imports, "seconds", 1.2)]


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of the line of least squares."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return slope, intercept
