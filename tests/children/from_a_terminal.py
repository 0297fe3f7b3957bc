"""Becomes a program that SIGINT ends, as from a terminal: a background job and its children ignore it."""

import os
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
