# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Where a pooler came from: the only reader and writer of the config's `pooler_source`, and who tells of it.

The input's own statement comes through here as well, and goes on into report and model card: its alphabet is bounded,
and what only the input says is said to be only stated.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from .bert import POOLER

NAME = r"[\w.@+,~=() -]+(?:/[\w.@+-]+)?"  # a repo's id, or a folder's last part: nothing of Markdown or HTML
HEX = r"[0-9a-f]{7,64}"
REASON_LIMIT, REASONS_LIMIT = 500, 8  # characters of one, and how many there are


def _constant(file: str, name: str) -> str:
    """Read from the text of a file whose import needs torch."""
    text = (Path(__file__).resolve().parents[1] / file).read_text(encoding="utf-8")
    return re.search(rf'^{name} = "(.*)"', text, re.MULTILINE)[1]


VERSION = _constant("__init__.py", "__version__")
PROJECT_URL = _constant("modeling_bert_pooled_mlm.py", "PROJECT_URL")


def _is(value: object, pattern: str) -> bool:
    return isinstance(value, str) and len(value) <= 200 and re.fullmatch(pattern, value) is not None


@dataclasses.dataclass(frozen=True)
class Fit:
    """What `--calibrate` did to the pooler; the fields are `Calibration`'s, without its notes."""

    texts: int  # all of them
    held_out: int  # those of them that judged
    sha256: str  # of the texts
    penalty: float
    cosine_before: float  # to the donor's pooler_output on the held-out texts
    cosine_after: float

    @classmethod
    def from_config(cls, value: object) -> Fit | None:
        match value:
            case {
                "texts": int(),
                "held_out": int(),
                "sha256": str(digest),
                "penalty": float(),
                "cosine_before": float(),
                "cosine_after": float(),
            } if len(value) == 6 and _is(digest, HEX):
                numbers = [number for name, number in value.items() if name != "sha256"]
                if all(0 <= abs(number) < 1 << 48 for number in numbers):  # which no NaN is
                    return cls(**value)
        return None


@dataclasses.dataclass(frozen=True)
class PoolerSource:
    """The origin of the pooler that a checkpoint holds.

    Args:
        donor: The repo's id, or the folder's last part.
        revision: The donor's commit on the Hub.
        sha256: Of the two tensors as they are stored in this checkpoint.
        lineage_cosine: Between the last layers of donor and checkpoint.
        forced: The objections that `--force-donor` went past.
        calibration: The fit, if the pooler was refitted after the graft.
        donor_sha256: Of the donor's two tensors, where a fit has changed them.
        stated: Whether only the checkpoint says so, and nothing but the hashes was checked.
    """

    donor: str
    revision: str | None
    sha256: dict[str, str]
    lineage_cosine: float
    forced: tuple[str, ...] = ()
    calibration: Fit | None = None
    donor_sha256: dict[str, str] | None = None
    stated: bool = dataclasses.field(default=False, compare=False)

    @classmethod
    def from_config(cls, value: object) -> PoolerSource | None:
        """What the field holds, if it is what this program writes."""
        match value:
            case {
                "donor": str(donor),
                "revision": str() | None as revision,
                "sha256": dict(digests),
                "lineage_cosine": float() | int() as cosine,
            }:
                forced, fit = value.get("forced", []), value.get("calibration")
                original, calibration = value.get("donor_sha256"), Fit.from_config(fit)
                if (
                    _is(donor, NAME)
                    and (revision is None or _is(revision, HEX))
                    and _are_digests(digests)
                    and -1 <= cosine <= 1
                    and isinstance(forced, list)
                    and len(forced) <= REASONS_LIMIT
                    and all(isinstance(it, str) and it.isprintable() and len(it) <= REASON_LIMIT for it in forced)
                    and (fit is None or calibration is not None)
                    and (original is None or _are_digests(original))
                ):
                    return cls(donor, revision, digests, cosine, tuple(forced), calibration, original, stated=True)
        return None

    @staticmethod
    def name_of(label: str) -> str:
        """A source's label as `donor` holds it."""
        return label if _is(label, NAME) else re.sub(r"[^\w.@+,~=() -]", "_", label)[:200]

    def to_config(self) -> dict:
        """The field as config.json holds it; `version` is that of this package, which writes it."""
        optional = {
            "forced": list(self.forced),
            "calibration": self.calibration and dataclasses.asdict(self.calibration),
            "donor_sha256": self.donor_sha256,
        }
        return {
            "donor": self.donor,
            "revision": self.revision,
            "sha256": self.sha256,
            "lineage_cosine": self.lineage_cosine,
            "version": VERSION,
            **{name: value for name, value in optional.items() if value},
        }

    def card_lines(self) -> list[str]:
        """The model card's list."""
        revision = f" at commit `{self.revision}`" if self.revision else ""
        lines = [
            f"- donor: `{self.donor}`{revision}",
            *(f"- sha256 of `{key}`: `{self.sha256[key]}`" for key in POOLER),
            f"- lineage: cosine {self.lineage_cosine} between the last layers of donor and checkpoint",
            *(f"- taken by --force-donor although {escaped(reason)}" for reason in self.forced),
        ]
        if (fit := self.calibration) is not None:
            lines += [
                f"- calibrated: refitted to this encoder by ridge regression (penalty {fit.penalty:.2g}) on",
                f"  {fit.texts} unlabelled texts (sha256 `{fit.sha256}`); cosine to the donor's `pooler_output` on",
                f"  the {fit.held_out} of them that were held out: {fit.cosine_before:.4f} before, "
                f"{fit.cosine_after:.4f} after",
                *(f"- sha256 of the donor's `{key}`: `{it}`" for key, it in (self.donor_sha256 or {}).items()),
            ]
        return lines


def _are_digests(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == set(POOLER) and all(_is(it, HEX) for it in value.values())


def escaped(text: str) -> str:
    """`text` without a meaning in Markdown or HTML; its addresses and names (`@`) are no links."""
    return re.sub(r"([\\`*_{}\[\]<>#|&!@~$]|:(?=//)|(?<=www)\.)", r"\\\1", text)
