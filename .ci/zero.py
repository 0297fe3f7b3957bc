# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Trains under DeepSpeed ZeRO-2 (anchored) and ZeRO-3 as docs/corpora.md says, in two processes, on demand.

    python .ci/zero.py

Each run is resumed after it has ended; the pooler of every folder is compared with the donor's, bit for bit.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file
from versions import ROOT, install

sys.path.append(str(ROOT / "tests"))
from checkpoints import POOLER, WORDS, save_donor

DEEPSPEED = "deepspeed==0.19.8"
STAGES = {2: {}, 3: {"stage3_gather_16bit_weights_on_model_save": True}}
VARIABLES = {"HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def configure(folder: Path, stage: int) -> None:
    """Writes the page's two files, for two processes without a GPU."""
    page = (ROOT / "docs" / "corpora.md").read_text("utf-8").partition("**DeepSpeed ZeRO-2**")[2]
    settings, launch = re.findall(r"```(?:json|yaml)\n(.*?)```", page, re.DOTALL)[:2]
    settings = json.loads(settings) | {"zero_optimization": {"stage": stage, **STAGES[stage]}}
    (folder / "zero2.json").write_text(json.dumps(settings))
    (folder / "zero2.yaml").write_text(launch.replace("num_processes: 8", "num_processes: 2\nuse_cpu: true"))


def train(python: Path, folder: Path, *options: object) -> subprocess.CompletedProcess:
    example = [ROOT / "examples" / "continue_pretraining.py", "--no-bf16", "--cpu", "--model", "donor", "-o", "out"]
    example += ["--train", "text.txt", "--length", 32, "--batch-size", 4, "--save-steps", 2, *options]
    command = [python, "-m", "accelerate.commands.launch", "--config_file", "zero2.yaml", *example]
    environment = os.environ | VARIABLES
    return subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)


def check(folder: Path, python: Path, stage: int) -> None:
    """Compares the poolers of all folders that a run left."""
    donor = load_file(folder / "donor" / "model.safetensors")
    (checkpoint,) = (folder / "out").glob("checkpoint-6")
    subprocess.run([python, "zero_to_fp32.py", ".", "merged"], cwd=checkpoint, check=True, capture_output=True)
    found = {"merged": torch.load(checkpoint / "merged" / "pytorch_model.bin", weights_only=True)}
    found["out"] = load_file(folder / "out" / "model.safetensors")
    found |= {"checkpoint-6": load_file(checkpoint / "model.safetensors")} if stage == 2 else {}  # else it is split
    for name, tensors in found.items():
        assert all(torch.equal(tensors[key], donor[key]) for key in POOLER), f"ZeRO-{stage}, {name}: another pooler"
        moved = "bert.embeddings.word_embeddings.weight"
        assert not torch.equal(tensors[moved], donor[moved]), f"ZeRO-{stage}, {name}: nothing was trained"
    dense = load_file(folder / "out" / "2_Dense" / "model.safetensors")
    assert all(torch.equal(dense[f"linear.{key.rpartition('.')[2]}"], donor[key]) for key in POOLER)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        environment = Path(place, "environment")
        python = install(version("transformers"), environment)
        pip = [python, "-m", "pip", "install", "-q", "-c", environment / "constraints.txt", DEEPSPEED]
        subprocess.run(pip, check=True)
        for stage in STAGES:
            folder = Path(place, f"zero-{stage}")
            save_donor(folder / "donor")
            draw = random.Random(0)
            texts = (" ".join(draw.choices(WORDS[5:], k=30)) for _ in range(600))
            (folder / "text.txt").write_text("\n\n".join(texts))
            configure(folder, stage)
            anchored = ["--anchor"] if stage == 2 else []
            for options in (["--max-steps", 4], ["--max-steps", 6, "--resume"]):
                done = train(python, folder, *options, *anchored)
                if done.returncode:
                    sys.exit(done.stderr[-6000:])
            check(folder, python, stage)
            print(f"ZeRO-{stage}, {'anchored, ' if anchored else ''}resumed: right", flush=True)
        assert (
            "anchored training does not run under DeepSpeed ZeRO-3"
            in train(python, folder, "--overwrite", "--anchor").stderr
        )


if __name__ == "__main__":
    main()
