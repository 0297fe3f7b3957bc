"""Imports the converter once, and runs each order in a forked process of its own: a fresh one, but for the import.

An order is a line of JSON, and so is its answer. `argv` is the command line; `cwd`, `env` and `table` (of known
donors) say where it runs. `at` and `signal`: the process counts its changes of the file system and the pieces of
tensors that it writes, and sends itself that signal before that one. `after`: it is killed after so many seconds.
`file_limit`: no file may be larger. `resume`: the process of this number, which stopped, goes on.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback

sys.path.insert(0, sys.argv[1])  # a plain checkout
import convert
from conversion import origins, pipeline
from conversion.known_donors import KnownDonor

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
# A kill loses nothing that was written: `test_all_is_on_disk_before_it_gets_its_name` watches fsync.
os.fsync = lambda descriptor: None
sleep, time.sleep = time.sleep, lambda seconds: None  # the Hub's client waits longer and longer before each attempt


def child(order: dict, steps: int) -> int:
    """Counts, if that is asked for, and converts; returns the exit code."""
    count = 0

    def step(name: str) -> None:
        nonlocal count
        count += 1
        os.write(steps, name.encode() + b"\n")
        if count == order.get("at"):
            os.kill(os.getpid(), order["signal"])

    def hook(event: str, args: tuple) -> None:
        if event in CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            step(event)

    def counted(bar, n=1):
        step("piece")
        return update(bar, n)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with these ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(order.get("cwd", "."))
    os.environ.update(order.get("env", {}))
    if "table" in order:
        origins.KNOWN_DONORS = tuple(KnownDonor(*entry) for entry in order["table"])
    if "file_limit" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"], resource.RLIM_INFINITY))
    update, pipeline.tqdm.update = pipeline.tqdm.update, counted
    sys.addaudithook(hook)
    try:
        return convert.main(order["argv"])
    except SystemExit as end:  # wrong usage
        return end.code
    except BaseException:
        traceback.print_exc()
        return 99


running = {}  # number -> its steps and what it says
for line in sys.stdin:
    order = json.loads(line)
    began = time.monotonic()
    if "resume" in order:
        pid = order["resume"]
        os.kill(pid, signal.SIGCONT)
    else:
        pipes = [os.pipe() for _ in range(3)]  # not files, which a limit would limit; all that is told fits
        pid = os.fork()
        if pid == 0:
            steps, out, err = (write for _, write in pipes)
            os.dup2(out, 1)
            os.dup2(err, 2)
            code = child(order, steps)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        for _, write in pipes:
            os.close(write)
        running[pid] = [read for read, _ in pipes]
        if "after" in order:
            sleep(order["after"])
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, os.WUNTRACED)
    answer = {"pid": pid, "seconds": time.monotonic() - began}
    if not os.WIFSTOPPED(status):
        answer["code"] = os.waitstatus_to_exitcode(status)
        for name, pipe in zip(("steps", "out", "err"), running.pop(pid), strict=True):
            with open(pipe) as file:
                answer[name] = file.read()
    print(json.dumps(answer), flush=True)
