"""Runs a command, and tells its peak of memory and the bytes that it moved.

From a process that holds nothing (`python -S`): a child's peak has its parent's memory at the fork in it.
"""

import json
import resource
import subprocess
import sys

done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
io = {}
if sys.platform == "linux":  # a child's count is added to its parent's
    with open("/proc/self/io") as file:
        io = {key: int(value) for key, value in (line.split(": ") for line in file.read().splitlines())}
print(json.dumps({"code": done.returncode, "stderr": done.stderr, "peak": peak, "io": io}))
