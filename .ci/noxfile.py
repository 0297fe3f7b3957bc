# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The tests that touch transformers, on each supported version of it, each in an environment of its own.

    nox -f .ci/noxfile.py                    # all versions
    nox -f .ci/noxfile.py -s "versions(4.41.2)"

The newest version is what constraints.txt pins and the full suite runs on.
"""

from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("4.41.2", "4.48.3", "4.57.6", "5.0.0")
# What an older transformers chooses otherwise; all else stays as constraints.txt pins it.
CHOSEN_BY_TRANSFORMERS = (
    "transformers", "tokenizers", "huggingface_hub", "hf-xet", "sentence-transformers", "peft",
    "datasets", "dill", "fsspec", "multiprocess",
)  # fmt: skip
# peft names no lowest transformers, and its later versions break the Trainer of 4.41.
CHOSEN_FOR = {"4.41.2": ["peft==0.11.1"]}


@nox.session(venv_backend="venv", reuse_venv=True)
@nox.parametrize("transformers", VERSIONS, ids=VERSIONS)
def versions(session: nox.Session, transformers: str) -> None:
    """The part of the suite that is marked `versions`."""
    session.chdir(ROOT)
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [pin for pin in pins if pin.partition("==")[0].strip() not in CHOSEN_BY_TRANSFORMERS]
    constraints = Path(session.create_tmp(), "constraints.txt")
    constraints.write_text(
        "\n".join([*kept, f"transformers=={transformers}", *CHOSEN_FOR.get(transformers, [])]) + "\n"
    )
    session.install("-c", str(constraints), "-e", ".[test]")
    session.run("pytest", "-m", "versions", "-q", *session.posargs)
