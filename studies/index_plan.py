# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The runs of index_fidelity.py."""

from index_runs import Run

CORPORA = ("python", "reference", "packages")
DONORS = ("sentence", "nsp")
LENGTH = {"anchors": 4}
VARIANCE = {"anchors": 4, "unit": "variance"}
THIRD = VARIANCE | {"weight": 0.3}  # the package's loss, with its default weight
MASKED_ROWS = {"masked": 16, "unit": "variance"}
METHODS = {
    "plain": {},
    "length² 0.1": LENGTH,
    "variance 0.3": THIRD,
    "variance 0.3, states 0.1": THIRD | {"tokens": 0.1},
    "variance 0.3, states 0.1, search 0.3": THIRD | {"tokens": 0.1, "search": 0.3},
}
VARIANTS = {
    "plain": {},
    "length² 0.1": LENGTH,
    "variance 0.03": VARIANCE | {"weight": 0.03},
    "variance 0.1": VARIANCE,
    "variance 0.3 (the package's)": THIRD,
    "variance 1": VARIANCE | {"weight": 1.0},
    "variance by dimension 0.1": VARIANCE | {"unit": "dimension"},
    "variance by dimension 0.3": VARIANCE | {"unit": "dimension", "weight": 0.3},
    "search 0.1 alone": VARIANCE | {"weight": 0.0, "search": 0.1},
    "variance 0.1, search 0.1": VARIANCE | {"search": 0.1},
    "variance 0.1, search 0.3": VARIANCE | {"search": 0.3},
    "variance 0.3, search 0.3": THIRD | {"search": 0.3},
    "variance 0.1, relational 0.1": VARIANCE | {"relational": 0.1},
    "variance 0.1, relational 1": VARIANCE | {"relational": 1.0},
    "variance 0.1, states 0.1": VARIANCE | {"tokens": 0.1},
    "variance 0.3, states 0.1": METHODS["variance 0.3, states 0.1"],
    "variance 0.3, states 0.3": THIRD | {"tokens": 0.3},
    "variance 0.3, states 0.1, search 0.3": METHODS["variance 0.3, states 0.1, search 0.3"],
    "variance 0.3, pulled back": THIRD | {"towards_start": 1e-4},
    "variance 0.3, 10,000 different anchors": THIRD | {"pool": 10000},
    "variance 0.3, anchors drawn by drift": THIRD | {"drift": True},
    "variance 0.3, rising weight": THIRD | {"schedule": "rising"},
    "variance 0.3, late weight": THIRD | {"schedule": "late"},
    "variance 0.3, 2 anchors": THIRD | {"anchors": 2},
    "variance 0.3, 8 anchors": THIRD | {"anchors": 8},
    "masked rows, variance 0.1": MASKED_ROWS,
    "masked rows, variance 0.3": MASKED_ROWS | {"weight": 0.3},
    "masked rows, variance 1": MASKED_ROWS | {"weight": 1.0},
    "masked rows, variance 0.1, search 0.1": MASKED_ROWS | {"search": 0.1},
    "masked rows and 2 anchors, variance 0.3": MASKED_ROWS | {"weight": 0.3, "anchors": 2},
}
SEARCH = [VARIANTS["variance 0.1, search 0.1"], VARIANTS["variance 0.1, search 0.3"]]
COMMON = [{}, LENGTH, THIRD, *SEARCH, VARIANTS["masked rows, variance 0.3"]]
NEXT_SENTENCE = (
    "plain",
    "length² 0.1",
    "variance 0.1",
    "variance 0.3 (the package's)",
    "variance 1",
    "search 0.1 alone",
    "variance 0.1, search 0.1",
    "variance 0.3, search 0.3",
    "variance 0.3, states 0.1",
    "masked rows, variance 0.1",
    "masked rows, variance 0.3",
)
REFITTED = {Run(donor=donor, **it) for donor in DONORS for it in COMMON}  # with all fits of a pooler


def plan() -> list[Run]:
    """All runs, those of the main tables first."""
    best = [*METHODS.values()][3:]
    runs = [Run(donor=donor, seed=seed, **it) for seed in (1, 2) for donor in DONORS for it in [{}, LENGTH, THIRD]]
    runs += [Run(seed=seed, **it) for seed in (1, 2) for it in [*COMMON, *best]]
    runs += [Run(corpus="packages", donor=donor, **it) for donor in DONORS for it in [{}, LENGTH, THIRD]]
    runs += [Run(corpus="packages", **it) for it in [*best, COMMON[-1]]]
    runs += [Run(corpus="reference", donor=donor, **it) for donor in DONORS for it in COMMON]
    runs += [Run(donor="nsp", **VARIANTS[title]) for title in NEXT_SENTENCE]
    runs += [Run(**it) for it in VARIANTS.values()]
    runs.append(Run(eager=True))  # is a replayed graph the same training?
    return list(dict.fromkeys(runs))
