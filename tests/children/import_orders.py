"""Runs each program in a fork without transformers, and prints what the Auto classes then load a folder as."""

import importlib
import json
import os
import sys
import traceback

# What transformers imports of other packages takes most of its time, and is imported once.
for name in ("accelerate", "scipy", "sklearn", "torchvision"):
    sys.modules[name] = None  # as if it were not installed
for name in ("huggingface_hub.file_download", "jinja2.sandbox", "regex", "safetensors.torch", "tokenizers",
             "torch._dynamo.utils", "torch.distributed.checkpoint", "torch.nn.attention.flex_attention"):  # fmt: skip
    importlib.import_module(name)
assert "transformers" not in sys.modules

AUTO = ("AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification", "AutoConfig")


def found(program: str, folder: str) -> dict:
    names = {"folder": folder}
    exec(program, names)
    import pickle

    import transformers

    modules = {}
    for name in AUTO:
        loaded = getattr(transformers, name).from_pretrained(folder)
        again = pickle.loads(pickle.dumps(loaded))
        modules[name] = f"{type(again).__module__}.{type(again).__name__}"
    modules["AutoTokenizer"] = transformers.AutoTokenizer.from_pretrained(folder)("word7")["input_ids"]
    fill = transformers.pipeline("fill-mask", model=folder)
    modules["pipeline"] = f"{type(fill.model).__module__}.{type(fill.model).__name__}"
    assert len(fill("word3 [MASK]")) == 5
    return modules


answers = []
for program in json.loads(sys.argv[2]):
    read, write = os.pipe()
    if os.fork() == 0:
        try:
            answer = found(program, sys.argv[1])
        except BaseException:
            answer = traceback.format_exc()
        with open(write, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        answers.append(json.load(pipe))
    os.wait()
print(json.dumps(answers))
