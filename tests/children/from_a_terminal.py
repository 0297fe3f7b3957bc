"""Becomes a program that signals end, as from a terminal: a background job and its children ignore some."""

import os
import signal
import sys

for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
