#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 4.57.6: a subclass of BertForMaskedLM that was loaded as remote code cannot be pickled.
#
# Seen: `pickle.dumps(AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True))` raises PicklingError, "it's not
# the same object as ...", after a single load. The same of a stock BertForMaskedLM works, and on 5.23.0 (the second run
# here) both do.
# Why it surprises: `torch.save(model)`, `multiprocessing.spawn` and multi-process encoding need it, and the class is an
# ordinary one in an ordinary module. transformers replaces it by a new type of the same name, which also inherits
# GenerationMixin, because BertForMaskedLM has `prepare_inputs_for_generation`.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

cat > own_code.py <<'PY'
from transformers import BertConfig, BertForMaskedLM


class OwnConfig(BertConfig):
    model_type = "own_bert"


class OwnForMaskedLM(BertForMaskedLM):
    config_class = OwnConfig
PY
cat > dump.py <<'PY'
import pickle
import sys

import transformers
from transformers import AutoModelForMaskedLM, BertForMaskedLM

if sys.argv[1] == "save":
    from own_code import OwnConfig, OwnForMaskedLM

    OwnConfig.register_for_auto_class()
    OwnForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
    config = OwnConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    OwnForMaskedLM(config).save_pretrained("model")
else:
    found = []
    for model in (
        BertForMaskedLM.from_pretrained("model"),
        AutoModelForMaskedLM.from_pretrained("model", trust_remote_code=True),
    ):
        try:
            pickle.dumps(model)
            found.append("pickled")
        except pickle.PicklingError as error:
            assert "not the same object" in str(error), error
            found.append("PicklingError")
    print(f"{transformers.__version__}: stock {found[0]}, remote code {found[1]}")
    assert found == {"4.57.6": ["pickled", "PicklingError"], "5.23.0": ["pickled"] * 2}[transformers.__version__]
PY
python3 -m venv venv
venv/bin/pip install --quiet --no-compile torch==2.13.0 transformers==4.57.6 huggingface_hub==0.36.2 numpy==2.4.6
venv/bin/python dump.py save
venv/bin/python dump.py load
venv/bin/pip install --quiet --no-compile transformers==5.23.0 huggingface_hub==2.4.0
venv/bin/python dump.py save
venv/bin/python dump.py load
