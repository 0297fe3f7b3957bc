"""Imports transformers once, and runs each program in a forked process of its own: a fresh one, but for that import.

An order is a line of JSON, `argv` and the rest, and so is its answer, an exit code. `argv` is that of `python`: a file
or `-c` with its code, and arguments; `cwd`, and `out` and `err`, files for what the program prints.
"""

import json
import os
import runpy
import sys

import torch
import transformers

# What programs load through, and what it imports on its way.
PRELOADED = (transformers.AutoModel, transformers.AutoTokenizer, transformers.BertForPreTraining, torch.nn)


def program(argv: list[str]) -> None:
    """Runs it as `python` would."""
    sys.path[0] = "" if argv[0] == "-c" else os.path.dirname(argv[0])
    sys.argv = argv if argv[0] != "-c" else ["-c", *argv[2:]]
    if argv[0] != "-c":
        runpy.run_path(argv[0], run_name="__main__")
        return
    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    exec(compile(argv[1], "<string>", "exec"), main.__dict__)


for line in sys.stdin:
    order = json.loads(line)
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
        program(order["argv"])
        break
    _, status = os.waitpid(child, 0)
    os.close(told)
    os.close(tell)
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
