"""Runs the programs of examples/: in a process outside the checkout, or in this one."""

import re

from checkpoints import ROOT
from programs import run_python

WORDS = "word{} word{}\nword{} word{} word{} word3 word{} word{}"
TEXTS = [WORDS.format(n % 7, n % 11, n % 13, n % 17, n % 5, n % 19, n) for n in range(120)]
FAST = ("--length", 16, "--batch-size", 8, "--save-steps", 2)


def start(example, cwd, *args, **env):
    """Runs an example as a program outside the checkout, offline."""
    return run_python(ROOT / "examples" / f"{example}.py", cwd, *args, **env)


def load_example(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return __import__(name)


def in_process(module, *args):
    """Runs a program in this process, and restores the verbosity of transformers."""
    verbosity = module.transformers.logging.get_verbosity()
    try:
        return module.main([str(arg) for arg in args])
    finally:
        module.transformers.logging.set_verbosity(verbosity)
        module.transformers.logging.enable_progress_bar()


def error_of(module, capsys, *args):
    """The only line that a program prints before it stops."""
    try:
        code = in_process(module, *args)
    except SystemExit as stop:
        code = stop.code
    error = re.sub(r"(\rtokenizing.*)+\n", "", capsys.readouterr().err)
    assert code in (1, 2)
    assert error.count("\n") == 1, error
    assert error.startswith(f"{module.__name__}.py: error: ")
    return error
