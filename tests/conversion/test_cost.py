"""What a conversion of safetensors costs, without a clock: flat memory, each byte moved once, no torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from checkpoints import ROOT
from grafting import write_sparse
from programs import CHILDREN

MB = 1_000_000


class Cost(NamedTuple):
    size: int  # bytes of the checkpoint
    peak: int  # bytes of memory
    read: int | None  # bytes, imports included
    written: int | None


def cost(place: Path, layers: int) -> Cost:
    """Of converting a checkpoint of bert-base's width."""
    config = {
        "vocab_size": 500, "hidden_size": 768, "num_hidden_layers": layers, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 128, "type_vocab_size": 2,
    }  # fmt: skip
    write_sparse(place / "donor", config, pooler=0, lineage=0, every=False)
    size = write_sparse(place / "lost", config, pooler=None, lineage=0)
    argv = [str(ROOT / "convert.py"), str(place / "lost"), "--pooler-from", str(place / "donor"), "--no-verify"]
    measured = [sys.executable, "-S", CHILDREN / "measured.py", sys.executable, *argv]
    done = subprocess.run(measured, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["code"] == 0, found["stderr"]
    assert (place / "lost-pooled" / "model.safetensors").stat().st_size > size
    return Cost(size, found["peak"], found["io"].get("rchar"), found["io"].get("wchar"))


@pytest.mark.skipif(sys.platform != "linux", reason="the bytes that a process moved are read from /proc")
def test_memory_does_not_grow_with_the_checkpoint_and_every_byte_is_read_and_written_once(tmp_path):
    """The bytes by the difference of two runs, so that what Python's imports read does not count."""
    small, large = (cost(tmp_path / str(layers), layers) for layers in (2, 8))
    assert 20 * MB < small.peak < 150 * MB
    assert large.peak < 150 * MB
    assert abs(large.peak - small.peak) < 20 * MB
    grown = large.size - small.size
    assert grown > 150 * MB, "premise"
    assert 0.99 < (large.read - small.read) / grown < 1.01
    assert 0.99 < (large.written - small.written) / grown < 1.01
