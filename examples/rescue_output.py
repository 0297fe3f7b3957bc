# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What rescue_minilm.py shows: its steps, the messages of transformers, two tables and a figure."""

import logging
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch
import transformers

COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # transformers 5.x colours its report even if stdout is not a terminal


def print_step(number: int, title: str, text: str) -> None:
    print(f"\n{number}. {title}\n" + textwrap.indent(textwrap.fill(text, 100), "   "))


class Indented(logging.Formatter):
    """Marks messages of transformers by a `|` at the start of each line."""

    def format(self, record):
        return textwrap.indent(COLOUR.sub("", super().format(record)).strip(), "   | ", lambda line: True)


def redirect_transformers() -> None:
    """Sends the messages of transformers to stdout, and hides its progress bars."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Indented())
    transformers.logging.disable_default_handler()
    transformers.logging.add_handler(handler)
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def show_tables(result: dict) -> None:
    sides, line = (result["before"], result["after"]), "   " + "-" * 70

    def show(*cells: object, widths: tuple[int, ...] = (28, 22, 0)) -> None:
        print("   " + "".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True)))

    def span(values: list[float]) -> str:
        low, high = f"{min(values):.2f}", f"{max(values):.2f}"
        return low if min(values) == max(values) else f"{low} to {high}"

    show(f"{result['loads']} loads, one sentence", "before (BertModel)", "after (convert.py)")
    print(line)
    show("distinct [CLS] states", *(side["distinct_states"] for side in sides))
    show("distinct pooler_outputs", *(side["distinct"] for side in sides))
    show("cosines between loads", *(span(side["cosines"]) for side in sides))
    show("pooler of the donor", *("bit for bit" if side["pooler_equal"] else "no" for side in sides))
    show("next-sentence accuracy", *(span(side["accuracy"]) for side in sides))
    widths = (28, 14, 20, 0)
    print()
    show("held-out pairs and texts", "accuracy", "cosine with donor", "MLM loss", widths=widths)
    print(line)
    show("donor", f"{result['donor_accuracy']:.2f}", "1.00", "-", widths=widths)
    for name, key in (("MLM, then grafted", "plain"), ("anchored MLM", "anchored")):
        figures = (f"{result[key][figure]:.2f}" for figure in ("accuracy", "cosine", "mlm_loss"))
        show(name, *figures, widths=widths)
    print("   (accuracy of the donor's next-sentence head, chance: 0.50; cosine of the pooler_outputs)")


def draw(path: Path, before: torch.Tensor, after: torch.Tensor, result: dict) -> None:
    """Draws the cosines between the loads, before and after, and the accuracy of the next-sentence head."""
    import matplotlib  # from the extra [demo]; prepare() checks that it is installed

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    loads = result["loads"]
    figure, (*squares, bars) = plt.subplots(1, 3, figsize=(12, 4.4), width_ratios=(1, 1, 1.7), layout="constrained")
    for axes, matrix, title in zip(squares, (before, after), ("before", "after convert.py"), strict=True):
        image = axes.imshow(matrix.numpy(), cmap="RdBu", vmin=-1, vmax=1)
        axes.set(title=title, xlabel="load", ylabel="load")
        axes.set_xticks(range(loads), range(1, loads + 1))
        axes.set_yticks(range(loads), range(1, loads + 1))
        for (row, column), value in np.ndenumerate(matrix.numpy().round(2) + 0.0):  # + 0.0: no -0.00
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    label = "cosine between the pooler_outputs of one sentence"
    figure.colorbar(image, ax=squares, location="bottom", shrink=0.6, ticks=(-1, 0, 1), label=label)

    # The Okabe-Ito palette is safe for colour-blind readers; the hatching helps in print.
    groups = (
        ("donor", [result["donor_accuracy"]], {"color": "#999999"}),
        (f"before: {loads} loads", result["before"]["accuracy"], {"color": "#E69F00", "hatch": "//"}),
        (f"after: {loads} loads", result["after"]["accuracy"], {"color": "#0072B2"}),
        ("anchored", [result["anchored"]["accuracy"]], {"color": "#009E73", "hatch": ".."}),
    )
    left, middles = 0.0, []
    for _, heights, style in groups:
        drawn = bars.bar(left + np.arange(len(heights)), heights, 0.85, edgecolor="white", **style)
        bars.bar_label(drawn, fmt="%.2f", fontsize=8, padding=2)
        middles.append(left + (len(heights) - 1) / 2)
        left += len(heights) + 0.8
    chance = bars.axhline(0.5, color="black", linestyle="--", linewidth=1)
    bars.legend([chance], ["chance"], loc="upper right", frameon=False)
    bars.set_xticks(middles, [name for name, *_ in groups])
    bars.set(ylim=(0, 1), ylabel="held-out accuracy", title="the donor's next-sentence head on top")
    bars.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"One BERT checkpoint, loaded {loads} times: is its pooler_output the same?", fontweight="bold")
    figure.savefig(path, dpi=110)
    plt.close(figure)
