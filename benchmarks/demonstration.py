# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Records a run of the demonstration and writes it into both READMEs.

    python benchmarks/demonstration.py    # with the packages of the extra [demo], on an idle machine

Runs `examples/rescue_minilm.py` in a fresh folder; writes docs/figures/rescue.json and rescue.png, and the marked
blocks of README.md and README.zh-CN.md. The recorded seconds are those of the whole process.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import documents
import measuring

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "examples/rescue_minilm.py"
FIGURES = ROOT / "docs" / "figures"


def blocks(record: dict) -> dict[str, str]:
    """The parts of the READMEs that quote the run, by name."""
    story, machine = record["story"], record["machine"]
    report = story.partition("   $ python ")[2].partition("\n   | \n")[0].replace("\n   | ", "\n")
    tables = story.partition("\nBefore and after\n\n")[2].partition("\n\nFigure: ")[0].replace("\n   ", "\n")
    took = f"recorded: {record['seconds']} s on {machine['cores']} cores of {machine['cpu']}, "
    took += f"of which other programs took {machine['others']:.0%}"
    return {
        "report": f"```text\n$ python {report.replace('rescue-minilm/', '')}\n```",
        "tables": f"```text\n{tables.strip()}\n\n{took}\n```",
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / PROGRAM]
        done, seconds, others = measuring.watched(
            lambda: subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
        )
        made = Path(folder, "rescue-minilm")
        record = json.loads((made / "rescue.json").read_text(encoding="utf-8"))
        shutil.copy(made / "rescue.png", FIGURES)
    record["machine"] = {"cpu": measuring.cpu_name(), "cores": measuring.cores(), "others": others}
    record |= {"seconds": round(seconds), "story": done.stdout.replace(f"{ROOT}/", "")}
    (FIGURES / "rescue.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("README.md", "README.zh-CN.md"):
        documents.update(ROOT / name, "demonstration.py", blocks(record))
    print(done.stdout + f"\n{seconds:.0f} s; other programs took {others:.0%} of the CPU.")


if __name__ == "__main__":
    main()
