# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The two figures of the benchmark: ratios with their targets, and the growth of cost."""

import textwrap
from pathlib import Path

import drawing
from drawing import BLUE, GREEN, RED
from report import curves


def draw_ratios(path: Path, result: dict) -> None:
    """A bar for each ratio with its interquartile range, and a mark at its target."""
    rows = [row for row in result["rows"] if row["unit"] == "times" and row["measured"] is not None]
    figure, ((axes,),) = drawing.panels(1, 1, (10, 0.8 + 0.42 * max(1, len(rows))))
    for number, row in enumerate(rows):
        value, target = row["measured"], row["target"]
        axes.barh(number, value, 0.6, color={True: BLUE, False: RED, None: GREEN}[row["reached"]])
        right = value
        if row["low"] is not None:
            errors = [[value - row["low"]], [row["high"] - value]]
            axes.errorbar(value, number, xerr=errors, color="black", capsize=3, linewidth=1)
            right = row["high"]
        if target:
            axes.plot([target] * 2, [number - 0.42, number + 0.42], color="black", linewidth=2.5)
        axes.annotate(f"{value:.2f}", (max(right, target or 0), number), (6, -3), textcoords="offset points", size=8)
    names = [f"{row['work']}\nagainst {row['against']}".replace("`", "") for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    title = (
        "Ratios (black line: to reach; thin line: middle half of the rounds; orange: not reached; green: no target)"
    )
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")  # aligned with the figure, since it is wider than the axes
    drawing.save(figure, path)


OURS, STOCK = ("o-", BLUE), ("s--", RED)
LABELS = {  # of the axes of each curve
    "length": ("tokens in a text", "seconds of a forward pass"),
    "share": ("tokens that have a label, %", "time of a training step, stock = 1"),
    "conversion": ("checkpoint, GB", "seconds of a conversion"),
    "several": ("checkpoints of a call", "seconds"),
}
LINES = {  # style, colour and label of each line
    "length": {"stock": (*STOCK, "stock BertForMaskedLM"), "ours": (*OURS, "ours, with pooler_output")},
    "share": {"ours": (*OURS, "ours, sparse_prediction")},
    "conversion": {"seconds": (*OURS, "seconds")},
    "several": {"usual": (*STOCK, "the usual way, in one process"), "convert": (*OURS, "convert.py, verified")},
}


def draw_growth(path: Path, result: dict) -> None:
    """Forward over length, training over the fraction of labels, conversion over size and number of checkpoints."""
    found = curves(result)
    figure, (panels,) = drawing.panels(1, max(1, len(found)), (5 * max(1, len(found)), 4))
    for axes, (key, curve) in zip(panels, found.items(), strict=False):
        for name, (style, colour, label) in LINES[key].items():
            axes.plot(*zip(*curve["lines"][name], strict=True), style, color=colour, label=label)
        axes.set(**dict(zip(("xlabel", "ylabel"), LABELS[key], strict=True)))
        if key == "length":
            axes.set(xscale="log", yscale="log")
            lengths = [length for length, _ in curve["lines"]["ours"]]
            axes.set_xticks(lengths, map(str, lengths))
            axes.minorticks_off()
        if key == "share":
            axes.axhline(1, color=RED, linestyle="--", label="stock BertForMaskedLM")
        if key != "length":
            axes.set_ylim(0, None)
        if key == "conversion":
            memory = axes.twinx()
            axes.plot([], [], "s--", color=GREEN, label="peak memory")  # for the legend
            memory.plot(*zip(*curve["lines"]["memory"], strict=True), "s--", color=GREEN)
            memory.set(ylabel="peak memory, MB", ylim=(0, None))
            memory.spines["top"].set_visible(False)
        axes.legend(frameon=False, loc="best" if key == "length" else "lower right")
        axes.set_title(textwrap.fill(curve["slope"], 62), fontsize=8, loc="left")
    drawing.save(figure, path)
