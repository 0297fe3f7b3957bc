# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""release.py on each release of transformers between those that versions.py tests, on demand.

    python .ci/releases.py                  # all, one after another
    python .ci/releases.py 4.46.3 5.10.4    # some of them

docs/loading.md says what was run, and how it went.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from versions import install

# The last patch release of each minor one. 4.42 asks for a numpy below 2.
RELEASES = (
    "4.43.4", "4.44.2", "4.45.2", "4.46.3", "4.47.1", "4.49.0", "4.50.3", "4.51.3", "4.52.4", "4.53.3",
    "4.54.1", "4.55.4", "4.56.2", "5.1.0", "5.2.0", "5.4.0", "5.5.4", "5.6.2", "5.7.0", "5.8.1", "5.9.0", "5.10.4",
    "5.11.0", "5.12.1", "5.13.1", "5.14.1", "5.15.1", "5.16.1", "5.17.0", "5.18.0", "5.19.0", "5.20.2", "5.21.1",
    "5.22.2", "5.24.0",
)  # fmt: skip


def run(release: str) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        python = install(release, Path(folder, "environment"))
        variables = {"HF_HOME": folder, "HF_HUB_OFFLINE": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        program = [python, Path(__file__).with_name("release.py")]
        return subprocess.run(program, cwd=folder, env=os.environ | variables, capture_output=True, text=True)


def main(releases: list[str]) -> int:
    failed = False
    for release in releases:
        done = run(release)
        printed = done.stderr if done.returncode else done.stdout
        print(f"transformers {release}: {printed.strip().splitlines()[-1]}", flush=True)
        failed |= bool(done.returncode)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or RELEASES))
