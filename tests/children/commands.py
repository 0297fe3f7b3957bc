"""Runs command lines of the converter that come on stdin, one order a line, and tells what came of each.

Its arguments: the checkout, and names for the table of well-known models, as JSON.
"""

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import convert
from conversion import origins
from conversion.known_donors import KnownDonor

origins.KNOWN_DONORS = tuple(KnownDonor(name, 128, 32, 2) for name in json.loads(sys.argv[2]))
for line in sys.stdin:
    order, texts, start = json.loads(line), (io.StringIO(), io.StringIO()), time.monotonic()
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
        try:
            code = convert.main(order["argv"])
        except SystemExit as error:
            code = error.code
    for name in order["env"]:
        del os.environ[name]
    # Not ru_maxrss: that begins with what the process which started this one had.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    out, err = (text.getvalue() for text in texts)
    print(json.dumps([code, out, err, time.monotonic() - start, peak]), file=sys.__stdout__, flush=True)
