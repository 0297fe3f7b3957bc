"""Imports transformers once, and runs each program in a forked process of its own: a fresh one, but for that import.

    python forks.py LISTENER

LISTENER is the descriptor of a socket. An order is a line of JSON, `argv` and the rest, and so is its answer, an exit
code. `argv` is that of `python`: a file or `-c` with its code, and arguments; `cwd`, and `out` and `err`, files for
what the program prints. Those of one connection run one after the other. It ends when its stdin is closed.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys

import torch
import transformers

# What programs load through, and what it imports on its way.
PRELOADED = (transformers.AutoModel, transformers.AutoTokenizer, transformers.BertForPreTraining, torch.nn)


def serve(connection: socket.socket) -> None:
    with connection.makefile("rw") as orders:
        for line in orders:
            orders.write(json.dumps(exit_code(json.loads(line))) + "\n")
            orders.flush()


def exit_code(order: dict) -> int:
    told, tell = os.pipe()  # as its stdin stays open: the verification's process is told to begin, and ends with it
    os.write(tell, b"\n")
    child = os.fork()
    if child == 0:
        for descriptor, name in ((1, "out"), (2, "err")):
            file = os.open(order[name], os.O_WRONLY | os.O_CREAT)
            os.dup2(file, descriptor)
            os.close(file)
        os.dup2(told, 0)
        os.chdir(order["cwd"])
        sys.dont_write_bytecode = True  # the next fork may find other code in a folder of the same name
        code = run(order["argv"])
        # Without taking apart all that transformers imports: that takes Python longer than most programs do.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    os.close(told)
    os.close(tell)
    return os.waitstatus_to_exitcode(status)


def run(argv: list[str]) -> int:
    """Runs it as `python` would; returns its exit code, where no error ends it."""
    sys.path[0] = "" if argv[0] == "-c" else os.path.dirname(argv[0])
    sys.argv = argv if argv[0] != "-c" else ["-c", *argv[2:]]
    try:
        if argv[0] == "-c":
            main = type(sys)("__main__")
            sys.modules["__main__"] = main
            exec(compile(argv[1], "<string>", "exec"), main.__dict__)
        else:
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        return end.code or 0
    return 0


if __name__ == "__main__":
    gc.freeze()  # what is imported stays
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that serve
    while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            serve(connection)
            os._exit(0)
        connection.close()
