# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""A row of the benchmark's table."""

from measuring import ratio


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
