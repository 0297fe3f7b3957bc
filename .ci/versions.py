# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The tests marked `versions` on each older transformers, each in an environment of its own.

    python .ci/versions.py                    # all versions
    python .ci/versions.py 4.41.2 5.0.0       # some of them

The newest version is what constraints.txt pins and the full suite runs on. An older one's environment sees all that is
installed beside this Python, and holds only what that transformers chooses otherwise: seconds instead of minutes.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What each version is tested with; where nothing is given, with what pip chooses.
VERSIONS = {
    # Later versions of PEFT break its Trainer. The lowest sentence-transformers that opens what is written.
    "4.41.2": ("peft==0.11.1", "sentence-transformers==3.0.1"),
    "4.48.3": (),
    "4.57.6": (),
    "5.0.0": (),
    # It alone leaves the tied decoder of a remote-code class on the meta device.
    "5.3.0": (),
    # The lowest huggingface_hub that 4.41 allows: whole conversions alone, since it does not retry.
    "4.41.2 with huggingface_hub 0.23.0": ("peft==0.11.1", "huggingface_hub==0.23.0"),
}
ALL = ("tests", "checks/test_documents.py")  # which quote what each version prints
# In these files huggingface_hub does the work, and both versions have that of 4.41.2.
HUB = tuple(f"--ignore=tests/conversion/test_{name}.py" for name in ("hub", "hub_faults", "hub_server", "push"))
TESTS = {
    "5.3.0": ("tests/model/test_loading.py", "tests/conversion/test_loads.py"),
    "4.41.2 with huggingface_hub 0.23.0": ("tests/conversion/test_conversions.py",),
    "4.48.3": (*ALL, *HUB),
    "4.57.6": (*ALL, *HUB),
}
# What an older transformers chooses otherwise; all else stays as constraints.txt pins it.
CHOSEN_BY_TRANSFORMERS = (
    "transformers", "tokenizers", "huggingface_hub", "hf-xet", "sentence-transformers", "peft",
    "datasets", "dill", "fsspec", "multiprocess",
)  # fmt: skip


def install(version: str, folder: Path, pinned: tuple[str, ...] = ()) -> Path:
    """Makes the environment of a version in `folder`, and returns its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", "venv", {"base": folder}))
    # Not a plain path: the editable install of the checkout is a .pth file there.
    (site / "pinned.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    chosen = {*CHOSEN_BY_TRANSFORMERS, *(pin.partition("==")[0] for pin in pinned)}
    kept = [pin for pin in pins if pin.partition("==")[0] not in chosen]
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join([*kept, f"transformers=={version.split()[0]}", *pinned]) + "\n")
    command = [python, "-m", "pip", "install", "-q", "--no-compile", "-c", constraints, "bert-pooled-mlm[test]"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"transformers {version} cannot be installed:\n{done.stdout}{done.stderr}")
    return python


def check(version: str, folder: Path) -> subprocess.CompletedProcess:
    """Installs a version and runs its tests, in one process, which imports transformers once."""
    python = install(version, folder, VERSIONS[version])
    # Imports what nearly all tests import, once: compiled in pytest, a module's warnings would be errors.
    imports = f"import runpy; runpy.run_path({str(ROOT / 'tests' / 'children' / 'forks.py')!r})"
    subprocess.run([python, "-c", imports], check=True)
    # The pinned pytest, run by that Python. `-m pytest` would make every file of the checkout importable.
    pytest = [python, Path(sys.executable).with_name("pytest"), "-n", "0", "-m", "versions", "-q"]
    command = [*pytest, *TESTS.get(version, ALL)]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main(versions: list[str]) -> int:
    failed = []
    # Two for each core: they often wait, for a Hub that does not answer.
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2 * os.cpu_count()) as pool:
        checks = {pool.submit(check, version, Path(folder, version)): version for version in versions}
        for done in as_completed(checks):
            print(f"\ntransformers {checks[done]}\n{done.result().stdout}", flush=True)
            failed += [checks[done]] if done.result().returncode else []
    if failed:
        print(f"failed on transformers {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(VERSIONS)))
