# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""Measurement: interleaved within one process, or each subject in a fresh process; ratios are taken per round.

A temporary slowdown of the machine then affects both sides of a ratio. The spread of a ratio is the interquartile
range over its rounds.
"""

import gc
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

# The peak of a child includes its parent's memory at the fork, so the measuring process must be small.
MEASURE = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"code": done.returncode, "out": done.stdout, "err": done.stderr[-2000:], "seconds": seconds,
                  "cpu": used.ru_utime + used.ru_stime, "peak": peak}))
"""

# Fraction of the CPU that other programs may use; it includes the kernel's own work, such as writing back files.
IDLE = 0.1


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cpu_name() -> str:
    """The processor, and the instruction set that torch uses."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return f"{found[1] if found else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def used_by_others() -> float:
    """CPU seconds used since the machine's start by all other programs except ended children of this one."""
    times, own = psutil.cpu_times()._asdict(), os.times()
    left_out = ("idle", "iowait", "guest", "guest_nice")  # the last two are in "user" as well
    busy = sum(seconds for name, seconds in times.items() if name not in left_out)
    return busy - (own.user + own.system + own.children_user + own.children_system)


def watched(call: Callable) -> tuple[object, float, float]:
    """The result of a call, its seconds, and the fraction of the CPU that other programs used meanwhile."""
    began, used = time.perf_counter(), used_by_others()
    result = call()
    seconds = time.perf_counter() - began
    others = (used_by_others() - used) / (seconds * cores())
    return result, seconds, round(max(0.0, others), 3)


def timed(call: Callable, device: torch.device) -> float:
    """The seconds of a call."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def in_turns(
    subjects: dict[str, Callable], device: torch.device, seconds: float, least: int = 3, warm: int = 1
) -> dict[str, list[float]]:
    """Runs all subjects once per round in a new random order, so that none always follows another.

    Args:
        seconds: No further round begins after so many seconds, unless there were fewer than `least`.
        warm: Number of warm-up rounds.

    Returns:
        The seconds of each subject, by round.
    """
    names, draw = list(subjects), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warm):
        for name in names:
            subjects[name]()
    gc.collect()
    gc.disable()  # as in timeit: a collection belongs to no subject
    try:
        began = time.perf_counter()
        while len(times[names[0]]) < least or time.perf_counter() - began < seconds:
            draw.shuffle(names)
            for name in names:
                times[name].append(round(timed(subjects[name], device), 6))
    finally:
        gc.enable()
    return times


def ratio(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """Median, first and third quartile of `one` divided by `other`, round by round."""
    rounds = [a / b for a, b in zip(one, other, strict=True)]
    low, median, high = statistics.quantiles(rounds if len(rounds) > 1 else 2 * rounds, n=4, method="inclusive")
    return median, low, high


def in_fresh_process(*argv: object, **environment: str) -> dict:
    """Runs a program in its own process, offline unless `environment` says otherwise.

    Returns:
        `seconds`, `cpu` (seconds of CPU time), `peak` (bytes of memory), and its output (`out`, `err`).
    """
    os.sync()  # so that earlier writes are not written back during this run
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"} | environment
    command = [sys.executable, "-S", "-c", MEASURE, *map(str, argv)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if found["code"]:
        raise RuntimeError(f"{argv[1]} ended with {found['code']}: {found['err'].strip().splitlines()[-1:]}")
    return found
