"""Runs a script by its path, and tells its exit code and which heavy libraries it imported."""

import json
import runpy
import sys

sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as exit:
    code = exit.code
heavy = {"torch", "transformers", "safetensors", "tensorflow", "pandas"}
print(json.dumps([code or 0, sorted(heavy & {name.split(".")[0] for name in sys.modules})]))
