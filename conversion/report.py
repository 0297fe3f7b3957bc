# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a conversion, derived from its plan: a table for people, an object for programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .bert import POOLER
from .checkpoint import Checkpoint
from .errors import printable
from .formats import DENSE, FORMATS
from .other_kinds import is_splade
from .plan import Plan
from .provenance import on_an_index
from .sources import local_path
from .tensors import FLOATS, same_pooler
from .terminal import quoted
from .verify import Proof

# The rows of a dry run, in which nothing has been done yet.
PLANNED = {
    "grafted": "would graft", "cast": "would cast", "calibrated": "would fit", "kept": "would keep",
    "dropped": "would drop", "copied": "would copy", "left behind": "would leave", "output": "would write",
}  # fmt: skip
NO_MODULES = "it lacks the modules by which SentenceTransformer opens it with its pooler"
HINT = "# return_logits=False: vectors only, [-1] is pooler_output; .encoder, .pooler: of model.bert, or --format bert"


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """What was done, or would be (`--dry-run`); `--json` prints these fields."""

    status: str  # "converted", "planned" (--dry-run) or "already pooled"
    checkpoint: str
    checkpoint_commit: str | None
    shape: str
    dtype: str
    format: str
    missing: list[str]  # tensors that a load of the input would initialise randomly
    donor: str | None = None
    donor_commit: str | None = None
    found_by: str | None = None
    lineage_cosine: float | None = None
    forced: list[str] = dataclasses.field(default_factory=list)
    grafted: dict[str, str] = dataclasses.field(default_factory=dict)  # tensor -> sha256 as it is stored
    donor_sha256: dict[str, str] = dataclasses.field(default_factory=dict)  # the same before a fit changed it
    cast: str | None = None
    calibration: dict | None = None  # the fields of Calibration; for a dry run, those known beforehand
    kept_tensors: int = 0
    kept_bytes: int = 0
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)  # tensor -> reason
    copied: list[str] = dataclasses.field(default_factory=list)
    left_behind: list[str] = dataclasses.field(default_factory=list)
    tokenizer: str | None = None
    tokenizer_loads: bool = True  # whether `AutoTokenizer` finds one in the output, as far as that was tried
    notes: list[str] = dataclasses.field(default_factory=list)  # on donors that were not taken
    remarks: list[str] = dataclasses.field(default_factory=list)  # on what was taken, and may not be what was meant
    verified: str | None = None
    output: str | None = None
    pushed: str | None = None  # the commit's URL, or the pull request's
    push_notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def _of_checkpoint(cls, status: str, name: str, checkpoint: Checkpoint, format: str, **more) -> ConversionReport:
        """The fields that depend on the input alone."""
        config = checkpoint.config
        return cls(
            status=status,
            checkpoint=name,
            checkpoint_commit=checkpoint.source.commit,
            shape=f"{config['num_hidden_layers']} layers, hidden size {config['hidden_size']}, "
            f"vocabulary {config['vocab_size']}",
            dtype=FLOATS[checkpoint.dtype],
            format=format,
            missing=[key for key in POOLER if key not in checkpoint.tensors],
            **more,
        )

    @classmethod
    def already_pooled(cls, name: str, checkpoint: Checkpoint, output: Path | None) -> ConversionReport:
        """For a checkpoint that is left as it is; `output` is where it was to be written."""
        remarks = []
        if checkpoint.lacks_modules:
            remarks.append(f"{NO_MODULES}: -o DIR writes it with them")
        elif output is not None:
            remarks.append(f"it lacks nothing, so nothing was written to {output}")
        if checkpoint.tokenizer.source is None:
            remarks.append(f"tokenizer: none: {checkpoint.tokenizer.reason}")
        if not same_pooler(checkpoint.dense or checkpoint.pooler, checkpoint.pooler):
            remarks.append(
                f"{DENSE} differs from bert.pooler.dense: SentenceTransformer uses the former, AutoModel the latter; "
                "docs/loading.md says how to make them equal"
            )
        more = {"tokenizer_loads": checkpoint.tokenizer.source is not None, "remarks": remarks}
        return cls._of_checkpoint("already pooled", name, checkpoint, checkpoint.format.name, **more)

    @classmethod
    def of(cls, status: str, name: str, plan: Plan, proof: Proof | None = None, **more) -> ConversionReport:
        """For a plan, and what came of it."""
        graft, kept = plan.graft, list(plan.tensors.values())
        if graft.donor is not None:
            more |= _of_donor(plan)
            kept = [tensor for tensor in kept if all(tensor is not it for it in graft.pooler.values())]
        return cls._of_checkpoint(
            status,
            name,
            plan.checkpoint,
            plan.format.name,
            kept_tensors=len(kept),
            kept_bytes=sum(tensor.nbytes for tensor in kept),
            dropped=plan.dropped,
            copied=plan.copied,
            left_behind=plan.left_behind,
            tokenizer="; ".join(filter(None, (str(plan.tokenizer), proof.tokens if proof else ""))),
            tokenizer_loads=plan.tokenizer.source is not None and (proof is None or proof.tokenizer_loads),
            verified=proof.text if proof else None,
            notes=list(graft.notes),
            remarks=_remarks(plan),
            output=str(plan.output),
            **more,
        )

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """A table, and the lines that load the result."""
        rows = [("status", self.status), ("checkpoint", f"{self.checkpoint} ({self.shape}, {self.dtype})")]
        if self.missing:
            rows.append(("missing", f"{', '.join(self.missing)}: random at each load of the input"))
        if self.donor:
            rows.append(("donor", f"{self.donor}{f' @ {self.donor_commit[:7]}' if self.donor_commit else ''}"))
            rows += [("found by", self.found_by), ("lineage", f"cosine {self.lineage_cosine:.6f} of the last layer")]
            rows += [("forced", reason) for reason in self.forced]
        for key, digest in self.grafted.items():
            original = f"; the donor's, before the fit: {self.donor_sha256[key][:16]}" if self.donor_sha256 else ""
            rows.append(("grafted", f"{key}, sha256 {digest[:16]}{original}"))
        rows += [("cast", self.cast)] if self.cast else []
        rows += [("calibrated", line) for line in _fit_lines(self.calibration)]
        if self.kept_tensors:
            rows.append(("kept", f"{self.kept_tensors} tensors, {self.kept_bytes / 1e6:.1f} MB, bit for bit"))
        rows += [("dropped", f"{key}: {reason}") for key, reason in self.dropped.items()]
        rows += [
            (name, ", ".join(it)) for name, it in (("copied", self.copied), ("left behind", self.left_behind)) if it
        ]
        rows += [("tokenizer", self.tokenizer)] if self.tokenizer else []
        rows += [("not taken", note) for note in self.notes] + [("note", remark) for remark in self.remarks]
        last = (("verified", self.verified), ("output", self.output), ("pushed", self.pushed))
        rows += [(name, value) for name, value in last if value] + [("", note) for note in self.push_notes]
        names = PLANNED if self.status == "planned" else {}
        text = "\n".join(printable(f"{names.get(name, name):<12} {value}") for name, value in rows)
        return text if self.status == "planned" else f"{text}\n\n{self.how_to_load()}"

    def how_to_load(self) -> str:
        """Python that loads the result, or the checkpoint that was left as it is."""
        where, trust = self.output or str(local_path(self.checkpoint)), FORMATS[self.format].trust
        commit = f", revision={quoted(self.checkpoint_commit)}" if self.checkpoint_commit and not self.output else ""
        from_there = f".from_pretrained({quoted(where)}{commit}{trust})"
        lines = ["from transformers import AutoModel", f"model = AutoModel{from_there}"]
        if trust:
            lines.insert(1, HINT)
        if self.tokenizer_loads:
            lines[0] += ", AutoTokenizer"
            lines.insert(1, f"tokenizer = AutoTokenizer{from_there}")
        return "\n    ".join(("Load it:", *lines))


def _of_donor(plan: Plan) -> dict:
    """The fields that depend on the donor."""
    donor, source = plan.graft.donor, plan.pooler_source
    stored = donor.checkpoint.tensors[POOLER[0]].dtype
    return {
        "donor": donor.checkpoint.source.label,
        "donor_commit": donor.checkpoint.source.commit,
        "found_by": donor.found_by.value,
        "lineage_cosine": round(donor.cosine, 6),
        "forced": list(donor.objections),
        "grafted": source.sha256,
        "donor_sha256": source.donor_sha256 or {},
        "cast": None
        if stored == donor.dtype
        else f"the pooler from {FLOATS[stored]} to the checkpoint's {FLOATS[donor.dtype]}",
    }


def _remarks(plan: Plan) -> list[str]:
    remarks, size = list(plan.graft.donor.remarks) if plan.graft.donor else [], plan.config["vocab_size"]
    if (plan.tokenizer.tokens or 0) > size:
        remarks.append(
            f"the tokenizer has {plan.tokenizer.tokens} tokens, the model {size} embeddings: a larger id is an error; "
            "model.resize_token_embeddings(len(tokenizer)) adds embeddings, for training"
        )
    if plan.checkpoint.simcse and plan.graft.donor is None:
        remarks.append("its pooler is mlp.dense, as SimCSE names it, trained in this model: kept as bert.pooler.dense")
    elif plan.graft.donor is None and plan.format is plan.checkpoint.format:
        repaired = plan.checkpoint.cannot_load or (NO_MODULES if plan.checkpoint.lacks_modules else "no tokenizer")
        remarks.append(f"the checkpoint has its pooler already; repaired in the output: {repaired}")
    if is_splade(plan.checkpoint.source):
        remarks.append(
            "the input is a SPLADE model; in the output, sentence-transformers' modules give pooler_output: for "
            "SparseEncoder, keep the input (docs/clients.md)"
        )
    return remarks


def _fit_lines(fit: dict | None) -> list[str]:
    if fit is None:
        return []
    texts = f"{fit['texts']} texts, sha256 {fit['sha256'][:16]}"
    if "penalty" not in fit:
        return [f"on {texts}"]
    change = f"cosine to the donor's pooler_output {fit['cosine_before']:.4f} -> {fit['cosine_after']:.4f}"
    kept = "" if fit["improved"] else ": no better, so the original pooler was kept"
    return [
        f"on {texts}, penalty {fit['penalty']:.2g}",
        f"{change} on {fit['held_out']} held out{kept}",
        *on_an_index(fit),
        *fit["notes"],
    ]
