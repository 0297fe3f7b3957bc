# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Runs transformers' common model tests on every class of the family, and on stock BERT for comparison.

The tests are `ModelTesterMixin` and `ConfigTester` from transformers' source distribution; its wheel lacks them. The
source distribution lacks the generation and exporter tests that they inherit from, so those are replaced by empty
classes. The record names each test whose outcome differs between a class and its stock counterpart.

    python studies/common_tests/run.py    # 5.23.0 and 4.57.6: half an hour on two cores
"""

import argparse
import collections
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from environments import environment, ran
from records import RESULTS, write_json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VERSIONS = ("5.23.0", "4.57.6")
# In the repository, and not in the source distribution.
LEFT_OUT = {
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "__init__.py": "",
}
RANK = ("passed", "skipped", "failed")  # a test counts as its worst subtest


def unpacked(python: Path, version: str, folder: Path) -> Path:
    """Unpacks the tests of transformers, and adds ours."""
    ran([python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "transformers", "-d", folder,
         f"transformers=={version}"], folder)  # fmt: skip
    with tarfile.open(folder / f"transformers-{version}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    root = folder / f"transformers-{version}"
    shutil.rmtree(root / "src")  # the installed one is tested
    for name, text in LEFT_OUT.items():
        (root / "tests" / name).parent.mkdir(exist_ok=True)
        (root / "tests" / name).write_text(text, encoding="utf-8")
    shutil.copy(HERE / "family_and_stock.py", root / "test_family_and_stock.py")
    return root


def outcomes(report: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """The outcome and the reason, by class and test."""
    found = collections.defaultdict(dict)
    for case in ElementTree.parse(report).iter("testcase"):
        name, outcome, why = case.get("name").split(" ")[0].split("[")[0], "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if child.tag == "skipped" else "failed"
                why = re.sub(r"/\S+/", "", child.get("message") or "").split("\n")[0][:200]
        tests = found[case.get("classname").split(".Test")[-1]]
        if RANK.index(outcome) >= RANK.index(tests.get(name, ("passed", ""))[0]):
            tests[name] = (outcome, why)
    return found


def compared_with_stock(found: dict) -> dict:
    """For each class of the family: the number of tests by outcome, and the differences from stock BERT."""
    result = {}
    for cls, tests in found.items():
        if cls.startswith("BertPooledMLM"):
            stock = found[cls.replace("BertPooledMLM", "Bert")]
            ours, theirs = ([outcome for outcome, _ in of.values()] for of in (tests, stock))
            counts = {"counts": {it: ours.count(it) for it in RANK}, "stock": {it: theirs.count(it) for it in RANK}}
            differing = [name for name in sorted(tests) if tests[name][0] != stock[name][0]]
            both = {name: {"ours": tests[name], "stock": stock[name]} for name in differing}
            failed = {name: why for name, (outcome, why) in sorted(tests.items()) if outcome == "failed"}
            result[cls] = counts | {"other than stock": both, "failed": failed}
    return result


def measured(version: str, folder: Path) -> dict:
    packages = ("pytest", "parameterized", "accelerate", "torch", f"transformers=={version}", "setuptools")
    python, versions = environment(folder / f"environment-{version}", *packages)
    ran([python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", ROOT], folder)
    root, report = unpacked(python, version, folder), folder / f"{version}.xml"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:warnings", f"--junitxml={report}"]
    report.unlink(missing_ok=True)
    try:
        ran([*command, "test_family_and_stock.py"], root, PYTHONPATH=".", HF_HUB_OFFLINE="1")
    except RuntimeError:  # the report says which tests fail
        if not report.exists():
            raise
    shown = {name: versions[name] for name in ("torch", "transformers", "accelerate", "pytest")}
    return {"versions": shown, "classes": compared_with_stock(outcomes(report))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the environments there for further runs")
    args, record = parser.parse_args(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for version in VERSIONS:
            record[version] = measured(version, folder)
    write_json(RESULTS / "common_tests.json", record)


if __name__ == "__main__":
    main()
