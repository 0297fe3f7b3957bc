# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""What the figures of benchmarks and studies share."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Okabe and Ito's colours, which colour-blind readers tell apart; the markers do in print.
BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"


def panels(rows: int, columns: int, size: tuple[float, float], **more):
    """A figure and its panels, `(rows, columns)`, without upper and right frames."""
    figure, found = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **more)
    for axes in found.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, found


def over_steps(axes, steps: list[int]) -> None:
    """A logarithmic axis with a mark at each step; it has no 0."""
    axes.set(xscale="log")
    axes.set_xticks([max(step, 10) for step in steps], [f"{step:,}" for step in steps])
    axes.minorticks_off()


def save(figure, path: Path, title: str = "") -> None:
    """Writes the figure, with the legend of its first panel below it if there is a title."""
    if title:
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
        figure.suptitle(title, fontweight="bold")
    figure.savefig(path, dpi=110)
    plt.close(figure)
