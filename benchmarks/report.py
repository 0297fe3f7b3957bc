# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a run: growth of cost, and tables in Markdown.

All of it is computed from the record, so that documents can be regenerated without a new measurement. Parts that were
not run are omitted.
"""

import math
import statistics

from documents import markdown_table
from measuring import ratio
from rows import fit, gigabytes, several_lines

NAMED = {"length": "forward", "share": "training step, `sparse_prediction`"}
NAMED |= {"conversion": "conversion", "several": "conversion, verified"}
CONVERSION = ("convert", "several", "further", "no_verify", "copy", "flat", "hub", "installed", "help", "import")


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
    if len((part := parts.get("several", {"runs": {}}))["runs"]) > 1:
        lines = several_lines(part)
        ours, usual = (fit(line)[0] for line in lines.values())
        words = f"{ours:.2f} s for each further checkpoint of a call, {usual:.2f} s the usual way"
        found["several"] = {"lines": lines, "slope": words}
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
        if "skipped" in (part := parts.get(key, {})):
            table.append(("vectors, torch as it is", how, part["skipped"]))
        elif part:
            more = f"; {once.replace('_', ' ')}: {part[once]:.0f} s"
            add("vectors, torch as it is", how, part["times"], one, other, more)
    if part := parts.get("throughput"):
        for name, what in (("minilm", "MiniLM (6 layers, 384 wide)"), ("base", f"{result['shape_name']} shape")):
            number = part["texts"][name]
            rate = number / statistics.median(part["times"][name])
            each = f" ({rate / part['threads']:.1f} for each core)" if result["device"]["type"] == "cpu" else ""
            words = f"{rate:.1f} texts a second{each}, of {part['tokens'][name] / number:.0f} tokens on average"
            table.append(("vectors, sorted by length", what, words))
    return table


def cells(found: dict) -> list[str]:
    """The cells of a row: work, against, measured, spread, to reach, reached, note."""
    places, value, unit = 3 if found["target"] == 1.0 else 2, found["measured"], found["unit"]
    middle_half = "-" if found["low"] is None else f"{found['low']:.{places}f} to {found['high']:.{places}f}"
    reached = {True: "yes", False: "**no**", None: "-" if value is not None else "not measured"}[found["reached"]]
    forms = {"times": f"{{:.{places}f}}", "products": "{:+d}"}
    measured = "-" if value is None else forms.get(unit, f"{{:.2f}} {unit}").format(value)
    return [found["work"], found["against"], measured, middle_half, found["to_reach"], reached, found["note"]]


HEADS = ["work", "against", "measured", "spread", "to reach", "reached", "and"]


def described(result: dict) -> str:
    device, versions = result["device"], result["versions"]
    names = {"torch": "PyTorch", "transformers": "transformers", "python": "Python"}
    return f"{device['name']}, {device['threads']} threads; " + ", ".join(
        f"{names[it]} {versions[it]}" for it in names
    )


def blocks(result: dict) -> dict[str, str]:
    """The blocks of the documents that quote a run, in Markdown, by name."""
    minutes = sum(result["seconds"].values()) / 60
    setup = (
        f"{described(result)}; {result['shape_name']} shape, random weights; {minutes:.0f} minutes, of whose CPU time "
    )
    setup += f"other programs took {100 * max(result['others'].values()):.0f} % at most (in one part)."
    for where in dict.fromkeys(result.get("later", {}).values()):
        names = [name for name, other in result["later"].items() if other == where]
        setup += f" Measured later, on {where}: {', '.join(names)}."
    found = {
        name: markdown_table(HEADS, [cells(found) for found in result["rows"] if found["key"].startswith(keys)])
        for name, keys in (("rows", ""), ("conversion", CONVERSION), ("trainer", "trainer_"))
    }
    growth = "\n".join(f"- {NAMED[key]}: {curve['slope']}." for key, curve in curves(result).items())
    found |= {"advice": markdown_table(["against", "with", "measured"], map(list, advice(result)))}
    return {"setup": setup} | found | ({"growth": growth} if growth else {})
