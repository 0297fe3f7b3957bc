# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Where a pooler came from: the only reader and writer of the config's `pooler_source`.

The input's own statement comes through here as well, and goes on into report and model card. So its values are of
bounded size and of a limited alphabet, and what only the input states is marked as only stated.
"""

from __future__ import annotations

import dataclasses
import re

from . import __version__
from .bert import POOLER

NAME = r"[\w.@+,~=() -]+(?:/[\w.@+-]+)?"  # a repo's id, or a folder's last part: no character of Markdown or HTML
HEX = r"[0-9a-f]{7,64}"
REASON_LIMIT, REASONS_LIMIT = 500, 8  # characters of one, and how many there are


def _is(value: object, pattern: str) -> bool:
    return isinstance(value, str) and len(value) <= 200 and re.fullmatch(pattern, value) is not None


def _are_digests(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == set(POOLER) and all(_is(it, HEX) for it in value.values())


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a fit did to the pooler.

    What was measured is a mean over the held-out fold, with the donor's pooler and with the fitted one. The neighbours
    tell how much of a search in an index of the donor's vectors is kept. A cosine does not where all vectors share a
    direction, which is what the centred one leaves out.
    """

    texts: int  # all of them
    held_out: int  # those in the held-out fold
    sha256: str  # of the texts
    penalty: float
    cosine_before: float  # to the donor's pooler_output
    cosine_after: float
    # Not in records of earlier versions, nor where too few texts were held out.
    centred_cosine_before: float | None = None  # the same after subtracting the mean of the donor's vectors
    centred_cosine_after: float | None = None
    neighbours_kept_before: float | None = None  # fraction of the donor's ten nearest of the held-out texts
    neighbours_kept_after: float | None = None

    @classmethod
    def from_config(cls, value: object) -> Fit | None:
        fields = dataclasses.fields(cls)
        names, required = {it.name for it in fields}, {it.name for it in fields if it.default is dataclasses.MISSING}
        if not isinstance(value, dict) or value.keys() not in (names, required) or not _is(value["sha256"], HEX):
            return None
        numbers = [(value[name], int if name in ("texts", "held_out") else float) for name in {*value} - {"sha256"}]
        plausible = all(type(number) is kind and 0 <= abs(number) < 1 << 48 for number, kind in numbers)  # no NaN
        return cls(**value) if plausible else None

    def to_config(self) -> dict:
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


def on_an_index(fit: dict) -> list[str]:
    """What a fit means for an index of the donor's vectors; nothing where it was not measured."""
    if fit["neighbours_kept_after"] is None:
        return []
    kept = f"{fit['neighbours_kept_before']:.0%} -> {fit['neighbours_kept_after']:.0%}"
    cosines = f"{fit['centred_cosine_before']:.4f} -> {fit['centred_cosine_after']:.4f}"
    return [
        f"an index of the donor's vectors finds {kept} of the ten nearest texts that it found for the donor (centred "
        f"cosine {cosines}): if these are too few, compute it anew"
    ]


@dataclasses.dataclass(frozen=True)
class PoolerSource:
    """The origin of the pooler that a checkpoint holds.

    Args:
        donor: The repo's id, or the folder's last part.
        revision: The donor's commit on the Hub.
        sha256: Of the two tensors as they are stored in this checkpoint.
        lineage_cosine: Between the last layers of donor and checkpoint.
        forced: The checks that failed and that `--force-donor` overrode.
        calibration: The fit, if the pooler was refitted after the graft.
        donor_sha256: Of the donor's two tensors, where a fit has changed them.
        stated: Whether only the checkpoint states this, and nothing but the hashes was checked.
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
        """What the field holds, if it is in the form that this program writes."""
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
        """A source's label in the alphabet of `donor`."""
        return label if _is(label, NAME) else re.sub(r"[^\w.@+,~=() -]", "_", label)[:200]

    def to_config(self) -> dict:
        """The field as config.json holds it; `version` is that of this package."""
        optional = {
            "forced": list(self.forced),
            "calibration": self.calibration and self.calibration.to_config(),
            "donor_sha256": self.donor_sha256,
        }
        return {
            "donor": self.donor,
            "revision": self.revision,
            "sha256": self.sha256,
            "lineage_cosine": self.lineage_cosine,
            "version": __version__,
            **{name: value for name, value in optional.items() if value},
        }

    def card_lines(self) -> list[str]:
        """The list in the model card."""
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
                *(f"- {line}" for line in on_an_index(dataclasses.asdict(fit))),
                *(f"- sha256 of the donor's `{key}`: `{it}`" for key, it in (self.donor_sha256 or {}).items()),
            ]
        return lines


def donor_name(value: object) -> str | None:
    """The donor that a config's `pooler_source` names, also where the rest of it is not in this program's form."""
    name = value.get("donor") if isinstance(value, dict) else None
    return name if isinstance(name, str) else None


def escaped(text: str) -> str:
    """`text` without a meaning in Markdown or HTML; addresses and names (`@`) in it do not become links."""
    return re.sub(r"([\\`*_{}\[\]<>#|&!@~$]|:(?=//)|(?<=www)\.)", r"\\\1", text)
