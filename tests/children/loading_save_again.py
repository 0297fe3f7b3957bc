"""Loads each folder as remote code through every Auto class, and saves what it got."""

import sys
from pathlib import Path

from common import say
from loading import load
from transformers import AutoTokenizer

sources, saved, *autos = sys.argv[1:]
for source in Path(sources).iterdir():
    for auto in autos:
        out = Path(saved, source.name, auto)
        model = load(auto, source, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(source, trust_remote_code=True).save_pretrained(out)
say("bert_pooled_mlm" in sys.modules)
