"""Sends this process SIGINT when it imports the module that INTERRUPT_AT names, as impatient people do."""

import os
import signal
import sys


def interrupt(event: str, args: tuple) -> None:
    if event == "import" and args[0] == os.environ.get("INTERRUPT_AT") and not seen:
        seen.append(args[0])
        os.kill(os.getpid(), signal.SIGINT)


seen: list[str] = []
sys.addaudithook(interrupt)
