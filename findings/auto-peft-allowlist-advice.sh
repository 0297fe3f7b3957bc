#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# peft 0.21.2 (transformers 5.23.0): the remedy that AutoPeftModel's error names does not work in a new process.
#
# Seen: an adapter without a task type, trained on a model with code of its own (`auto_map`), stores that class's module,
# `transformers_modules.base.<hash>.modeling_own`. `AutoPeftModel.from_pretrained(adapter, trust_remote_code=True)` raises
# "not in the import allowlist ... specify `import_allowlist=[...]`". With just that argument, a new process raises
# "ModuleNotFoundError: No module named 'transformers_modules'". The adapter of a stock class opens, and
# `PeftModel.from_pretrained(AutoModel.from_pretrained(base, trust_remote_code=True), adapter)` opens this one.
# Why it surprises: the message gives the argument that is to help, to the letter, and it cannot: a name that begins with
# `transformers_modules` can be imported only after transformers has loaded remote code in the same process.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 peft==0.21.2 transformers==5.23.0 huggingface_hub==2.4.0 numpy==2.4.6

mkdir base
cat > base/modeling_own.py <<'PY'
from transformers import BertConfig, BertModel


class OwnModel(BertModel):
    config_class = BertConfig
PY
cat > make.py <<'PY'
import json
from pathlib import Path

from peft import LoraConfig, get_peft_model
from transformers import AutoModel, BertConfig, BertModel

config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
BertModel(config).save_pretrained("base")
fields = json.loads(Path("base/config.json").read_text())
Path("base/config.json").write_text(json.dumps(fields | {"auto_map": {"AutoModel": "modeling_own.OwnModel"}}))
models = {"own": AutoModel.from_pretrained("base", trust_remote_code=True), "stock": BertModel.from_pretrained("base")}
for name, model in models.items():
    get_peft_model(model, LoraConfig(target_modules=["query"])).save_pretrained(name)
PY
cat > load.py <<'PY'
import json
import sys

from peft import AutoPeftModel, PeftModel
from transformers import AutoModel

adapter, how = sys.argv[1:]
with open(f"{adapter}/adapter_config.json") as file:
    module = json.load(file)["auto_mapping"]["parent_library"]
try:
    if how == "PeftModel":
        PeftModel.from_pretrained(AutoModel.from_pretrained("base", trust_remote_code=True), adapter)
    else:
        advice = {"import_allowlist": [module]} if how == "advice" else {}
        AutoPeftModel.from_pretrained(adapter, trust_remote_code=True, **advice)
    print("opened")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
PY
venv/bin/python make.py 2>/dev/null
stock=$(venv/bin/python load.py stock AutoPeftModel 2>/dev/null)
own=$(venv/bin/python load.py own AutoPeftModel 2>/dev/null)
advice=$(venv/bin/python load.py own advice 2>/dev/null)
loaded=$(venv/bin/python load.py own PeftModel 2>/dev/null)
printf '%s\n' "stock class: $stock" "own class: $own" "with import_allowlist: $advice" "PeftModel: $loaded"
[ "$stock" = opened ] && [ "$loaded" = opened ]
[[ $own == *"specify \`import_allowlist=['transformers_modules."* ]]
[ "$advice" = "ModuleNotFoundError: No module named 'transformers_modules'" ]
