# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a run: rows with their targets, growth of cost, and tables in Markdown.

All of it is computed from the record, so that documents can be regenerated without a new measurement. Parts that were
not run are omitted.
"""

import math
import statistics

from documents import markdown_table
from measuring import ratio

NAMES = {"encoder": "the encoder alone", "dense": "ours as it comes", "loss": "ours without logits"}


def row(key: str, work: str, against: str, to_reach: str, **found) -> dict:
    """A row of the table; `measured`, `low` and `high` are in its `unit`.

    `reached` is None if the row was not measured or has no `target`.
    """
    empty = {"measured": None, "low": None, "high": None, "target": None, "reached": None, "unit": "times", "note": ""}
    return {"key": key, "work": work, "against": against, "to_reach": to_reach} | empty | found


def within(target: float, measured: float, **found) -> dict:
    return {"measured": measured, "target": target, "reached": measured <= target} | found


def spread(one: list[float], other: list[float]) -> dict:
    return dict(zip(("measured", "low", "high"), ratio(one, other), strict=True))


def of_times(times: dict, one: str, other: str, target: float | None = None) -> dict:
    """A ratio of times with its quartiles; reached if its median is at most `target`.

    Without a target the ratio should be 1.00: it is reached if its interquartile range overlaps, or is below, that of
    the reference measured against itself.
    """
    found = spread(times[one], times[other])
    if target:
        return within(target, **found)
    itself, least, most = ratio(times["again"], times[other])
    note = f"stock against itself: {itself:.3f} ({least:.3f} to {most:.3f})"
    return found | {"target": 1.0, "reached": found["low"] <= max(most, 1.0), "note": note}


def flops(part: dict, one: str, other: str) -> float:
    return part["arithmetic"][one]["flops"] / part["arithmetic"][other]["flops"]


def rows(result: dict) -> list[dict]:
    """The rows of the table, for each number format that was measured."""
    parts, table = result["parts"], []

    def beyond(key: str, work: str, against: str, part: dict, subject: str) -> None:
        """A row without a target: `subject` against stock."""
        note = f"{flops(part, subject, 'stock'):.2f} times the arithmetic"
        table.append(row(key, work, against, "-", note=note, **spread(part["times"][subject], part["times"]["stock"])))

    for setting, part in parts.get("forward", {}).items():
        work = f"forward with all four outputs ({setting})"
        found = of_times(part["times"], "ours", "stock")
        table.append(row("forward", work, "stock `BertForMaskedLM`", "1.00 within the spread", **found))
        ours, stock = (part["arithmetic"][name]["products"] for name in ("ours", "stock"))
        more = {"measured": ours - stock, "target": 1, "reached": ours == stock + 1, "unit": "products"}
        more["note"] = f"{ours} against {stock}; {flops(part, 'ours', 'stock'):.4f} times the arithmetic"
        table.append(row("products", "the same, matrix products", "the same", "one more", **more))
        found = of_times(part["times"], "ours", "twice", 0.55)
        found["note"] = f"{flops(part, 'ours', 'twice'):.2f} times the arithmetic"
        table.append(row("twice", "the same", "the class with two encoder passes", "at most 0.55", **found))
        beyond("loss", "the loss alone, `return_logits=False`", "stock `BertForMaskedLM`", part, "loss")
    for setting, part in parts.get("vectors", {}).items():
        work = f"vectors only ({setting})"
        found = of_times(part["times"], "ours", "stock")
        table.append(row("vectors", work, "stock `BertModel`", "1.00 within the spread", **found))
        found = of_times(part["times"], "ours", "with_logits", 0.78)
        found["note"] = f"{flops(part, 'ours', 'with_logits'):.2f} times the arithmetic"
        table.append(row("without_logits", "the same", "ours with logits", "at most 0.78", **found))
    for setting, part in parts.get("training", {}).items():
        work, times = f"training step, `sparse_prediction` ({setting})", part["times"]
        found = of_times(times, "ours", "stock", 0.77)
        adamw = statistics.median(part["adamw"])
        whole = ratio(*([seconds + adamw for seconds in times[name]] for name in ("ours", "stock")))[0]
        found["note"] = f"{flops(part, 'ours', 'stock'):.2f} times the arithmetic; {whole:.2f} with AdamW's step"
        table.append(row("training", work, "stock `BertForMaskedLM`", "at most 0.77", **found))
        found = of_times(times, "ours", "encoder", 1.15)
        found["note"] = f"{flops(part, 'ours', 'encoder'):.2f} times the arithmetic"
        against = "the encoder alone, forward and backward"
        table.append(row("limit", "the same", against, "at most 1.15", **found))
        beyond("dense", "training step as it comes", "stock `BertForMaskedLM`", part, "dense")
    for part in parts.get("memory", {}).values():
        table += memory_rows(part)
    if part := parts.get("loading"):
        found = of_times(part["times"], "ours", "stock")
        work = f"load from disk, {part['bytes'] / 1e6:.0f} MB"
        table.append(row("loading", work, "stock, the same file", "1.00 within the spread", **found))
    return table + trainer_rows(parts.get("trainer")) + conversion_rows(parts.get("conversion", {}))


SETTINGS = {
    "sparse": ("`sparse_prediction`", None),
    "grouped": ("batches of like length", None),
    "both": ("both", 0.52),
    "bfloat16": ("both, and bfloat16", 0.40),
}


def trainer_rows(part: dict | None) -> list[dict]:
    """The time of each training setting relative to stock with Trainer's defaults, and its final loss."""
    table = []
    for name, (setting, target) in SETTINGS.items():
        if part and name in part["times"]:
            found = spread(part["times"][name], part["times"]["stock"])
            found = within(target, **found) if target else found
            note = f"held-out loss {part['losses'][name]:.2f}, stock's {part['losses']['stock']:.2f}"
            work = f"training with `Trainer`, texts of any length: {setting}"
            to_reach = f"at most {target:.2f}" if target else "-"
            table.append(row(f"trainer_{name}", work, "stock, Trainer's defaults", to_reach, note=note, **found))
    return table


MEMORY = {
    "checkpointing": ("peak memory of that step ({}, gradient checkpointing, no attention dropout)", "ours"),
    "plain": ("peak memory of that step ({})", "ours"),
    "evaluation": ("peak memory of an evaluation ({})", "dense"),
}


def memory_rows(part: dict) -> list[dict]:
    """One mode: ours against stock and, where both were measured, also without `sparse_prediction`."""
    way, peak = part["way"], part.get("peak", {})
    template, ours = MEMORY[way]
    work = template.format(f"{part['rows']} x {part['length']}")
    target = 0.6 if ours == "ours" else None
    to_reach = f"at most {target}" if target else "-"
    if "skipped" in part or None in peak.values():
        note = part.get("skipped", "the device's memory is too small")
        return [row(f"memory_{way}", work, "stock, the same", to_reach, note=note)]
    note = "; ".join(f"{NAMES.get(name, name)} {peak[name] / 1e9:.2f} GB" for name in peak)
    measured = peak[ours] / peak["stock"]
    found = {"measured": measured, "target": target, "reached": measured <= target if target else None, "note": note}
    table = [row(f"memory_{way}", work, "stock, the same", to_reach, **found)]
    if "dense" in peak and ours != "dense":
        measured = peak["dense"] / peak["stock"]
        table.append(row(f"memory_{way}_dense", "the same, as it comes", "stock, the same", "-", measured=measured))
    return table


def conversion_rows(part: dict) -> list[dict]:
    table = []
    if "compared" in part:
        runs, size = part["compared"]["runs"], f"{part['compared']['bytes'] / 1e6:.0f} MB"
        usual, copy, cp = (runs[name] for name in ("usual", "copy", "cp"))
        usual_way = "load both models, copy the pooler, `save_pretrained`"
        for name, label, field, target, unit, scale, what in (
            ("convert", "verified", "seconds", 1.0, "s", 1, "time"),
            ("convert", "verified", "cpu", None, "s", 1, "CPU time"),
            ("convert", "verified", "peak", None, "MB", 1e6, "memory of its largest process"),
            ("no_verify", "`--no-verify`", "seconds", 0.4, "s", 1, "time"),
            ("no_verify", "`--no-verify`", "cpu", None, "s", 1, "CPU time"),
            ("no_verify", "`--no-verify`", "peak", 0.2, "MB", 1e6, "peak memory"),
        ):
            found = spread(runs[name][field], usual[field])
            found = within(target, **found) if target else found
            ours, theirs = (statistics.median(way[field]) / scale for way in (runs[name], usual))
            found["note"] = f"{ours:.4g} {unit} against {theirs:.4g} {unit}"
            key = name if field == "seconds" else f"{name}_{field}"
            to_reach = f"at most {target}" if target else "-"
            table.append(row(key, f"convert, {label}, {size}: {what}", usual_way, to_reach, **found))
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


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of the line of least squares."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return slope, intercept


def curves(result: dict) -> dict[str, dict]:
    """The growth of cost: the points of each curve, and its slope in words."""
    parts, found = result["parts"], {}
    if part := parts.get("length"):
        lines = {
            name: [(int(length), statistics.median(times[name])) for length, times in part["times"].items()]
            for name in ("stock", "ours")
        }
        exponent = fit([(math.log(x), math.log(y)) for x, y in lines["ours"]])[0]
        low, high = (choose(lines["ours"])[0] for choose in (min, max))
        words = f"time grows as length to the power of {exponent:.2f} (fitted from {low} to {high} tokens)"
        found["length"] = {"lines": lines, "slope": words, "rows": part["rows"]}
    if part := parts.get("share"):
        stock = part["times"]["stock"]
        shares = [share for share in part["times"] if share != "stock"]
        line = [(100 * float(share), ratio(part["times"][share], stock)[0]) for share in shares]
        slope, start = fit(line)
        words = f"{start:.2f} of stock's step, and {10 * slope:.3f} for each 10 % of the tokens that have a label"
        found["share"] = {"lines": {"ours": line}, "slope": words, "rows": part["rows"]}
    if sizes := parts.get("conversion", {}).get("growth"):
        seconds = [(size["bytes"] / 1e9, size["seconds"]) for size in sizes]
        memory = [(size["bytes"] / 1e9, size["peak"] / 1e6) for size in sizes]
        largest = sizes[-1]["bytes"]
        # One line through all would hide that large files are written at the speed of the disk, not of the cache.
        words = f"{fit(seconds[:-1])[0]:.2f} s for each GB up to {gigabytes(sizes[-2]['bytes'])}, "
        words += f"{fit(seconds[-2:])[0]:.2f} s from there to {gigabytes(largest)}; "
        words += f"memory {fit(memory)[0]:+.1f} MB for each GB"
        found["conversion"] = {"lines": {"seconds": seconds, "memory": memory}, "slope": words}
    return found


def advice(result: dict) -> list[tuple[str, str, str]]:
    """Other measurements: what is compared, with what, and the result in words."""
    parts, table = result["parts"], []

    def add(what: str, how: str, times: dict, one: str, other: str, more: str = "") -> None:
        median, low, high = ratio(times[one], times[other])
        table.append((what, how, f"{median:.2f} times ({low:.2f} to {high:.2f}){more}"))

    if part := parts.get("lengths"):
        for name, how in (
            ("fixed", "padded to 256 tokens each"),
            ("sorted", "sorted by length"),
            ("sorted_8", "sorted, padded to multiples of 8"),
            ("sorted_64", "sorted, padded to multiples of 64"),
        ):
            tokens = part["padded"]
            more = f"; {tokens[name] / tokens['as_they_come']:.2f} times the tokens"
            add("mixed lengths: batches as they come", how, part["times"], name, "as_they_come", more)
    if part := parts.get("bfloat16"):
        size = f"; {part['rows']} x {part['length']}"
        for name, how in (("autocast", "bfloat16 by autocast"), ("weights", "weights in bfloat16")):
            cosine = math.floor(1e4 * part["cosines"][name]) / 1e4
            more = f"{size}; cosine to float32's at least {cosine:.4f}"
            add("vectors in float32", how, part["times"], name, "float32", more)
        if "train_autocast" in part["times"]:
            how = "bfloat16 by autocast"
            add("sparse training step in float32", how, part["times"], "train_autocast", "train_float32", size)
    for key, one, other, how, once in (
        ("compile", "compiled", "eager", "torch.compile", "first_call"),
        ("onnx", "onnx", "torch", "ONNX Runtime, float32", "export"),
    ):
        if part := parts.get(key):
            if "skipped" in part:
                table.append(("vectors, torch as it is", how, part["skipped"]))
                continue
            more = f"; {once.replace('_', ' ')}: {part[once]:.0f} s"
            add("vectors, torch as it is", how, part["times"], one, other, more)
    if part := parts.get("throughput"):
        for name, what in (("minilm", "MiniLM (6 layers, 384 wide)"), ("base", f"{result['shape_name']} shape")):
            seconds, number = statistics.median(part["times"][name]), part["texts"][name]
            rate = number / seconds
            each = f" ({rate / part['threads']:.1f} for each core)" if result["device"]["type"] == "cpu" else ""
            length = part["tokens"][name] / number
            words = f"{rate:.1f} texts a second{each}, of {length:.0f} tokens on average"
            table.append(("vectors, sorted by length", what, words))
    return table


def number(value: float | None, unit: str, places: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{places}f}" if unit == "times" else f"{value:+d}" if unit == "products" else f"{value:.2f} {unit}"


def cells(found: dict) -> list[str]:
    """The cells of a row: work, against, measured, spread, to reach, reached, note."""
    places = 3 if found["target"] == 1.0 else 2
    middle_half = "-" if found["low"] is None else f"{found['low']:.{places}f} to {found['high']:.{places}f}"
    reached = {True: "yes", False: "**no**", None: "-" if found["measured"] is not None else "not measured"}
    figures = [number(found["measured"], found["unit"], places), middle_half]
    return [found["work"], found["against"], *figures, found["to_reach"], reached[found["reached"]], found["note"]]


WAYS = ("convert", "no_verify")
CONVERSION = (*WAYS, *(f"{way}_{what}" for way in WAYS for what in ("cpu", "peak")), "copy", "flat", "hub")
TRAINER = tuple(f"trainer_{name}" for name in SETTINGS)
HEADS = ["work", "against", "measured", "spread", "to reach", "reached", "and"]


def blocks(result: dict) -> dict[str, str]:
    """The blocks of the documents that quote a run, in Markdown, by name."""
    device, versions = result["device"], result["versions"]
    minutes = sum(result["seconds"].values()) / 60
    setup = (
        f"{device['name']}, {device['threads']} threads; PyTorch {versions['torch']}, transformers "
        f"{versions['transformers']}, Python {versions['python']}; {result['shape_name']} shape, random weights; "
        f"{minutes:.0f} minutes, of whose CPU time other programs took {100 * max(result['others'].values()):.0f} % "
        "at most (in one part)."
    )
    conversion, training = (
        markdown_table(HEADS, [cells(found) for found in result["rows"] if found["key"] in keys])
        for keys in (CONVERSION, TRAINER)
    )
    named = {"length": "forward", "share": "training step, `sparse_prediction`", "conversion": "conversion"}
    found = {
        "setup": setup,
        "rows": markdown_table(HEADS, [cells(found) for found in result["rows"]]),
        "conversion": conversion,
        "trainer": training,
        "growth": "\n".join(f"- {named[key]}: {curve['slope']}." for key, curve in curves(result).items()),
        "advice": markdown_table(["against", "with", "measured"], [list(line) for line in advice(result)]),
    }
    return {name: text for name, text in found.items() if text}
