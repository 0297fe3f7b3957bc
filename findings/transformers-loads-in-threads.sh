#!/usr/bin/env bash
# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
#
# transformers 4.57.6 and 5.23.0: two loads at the same time, in two threads, spoil every later load of the process.
#
# Seen: two threads call `from_pretrained` of a BertForMaskedLM; the second one enters its `__init__` before the first one
# has left it, and leaves it later (events see to that here; else it is a matter of luck). Neither raises. On 4.57.6 all
# 44 parameters of the second model are on the meta device, and so are those of any model that is loaded afterwards,
# alone, in the main thread: BertModel as well. On 5.23.0 the two parameters of the tied decoder are on meta, also in
# later loads; BertModel, which ties nothing, is right. On 5.0.0 all is right, and before the threads on each version.
# Why it surprises: that a race can hurt one of two loads is one thing; here the process stays broken after it. The source
# of 5.23.0 shows why: `no_tie_weights` replaces `PreTrainedModel.tie_weights`, the second thread takes the first one's
# replacement for the original, and puts that back last.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

cat > load.py <<'PY'
import threading

import transformers
from transformers import BertConfig, BertForMaskedLM, BertModel

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# Parameters on meta: before; in each of the two threads; afterwards of BertForMaskedLM and BertModel.
STATED = {"4.57.6": (0, [0, 44], 44, 39), "5.0.0": (0, [0, 0], 0, 0), "5.23.0": (0, [0, 2], 2, 0)}
first_inside, second_inside, first_done = (threading.Event() for _ in range(3))


class First(BertForMaskedLM):
    def __init__(self, config):
        super().__init__(config)
        first_inside.set()
        second_inside.wait(60)


class Second(BertForMaskedLM):
    def __init__(self, config):
        super().__init__(config)
        second_inside.set()
        first_done.wait(60)


def on_meta(cls):
    model = cls.from_pretrained("model")
    return sum(tensor.is_meta for _, tensor in model.named_parameters(remove_duplicate=False))


BertForMaskedLM(BertConfig(**SIZES)).save_pretrained("model")
before, found = on_meta(BertForMaskedLM), []


def load_first():
    found.append(on_meta(First))
    first_done.set()


threads = [threading.Thread(target=load_first), threading.Thread(target=lambda: found.append(on_meta(Second)))]
threads[0].start()
first_inside.wait(60)
threads[1].start()
for thread in threads:
    thread.join()
seen = (before, found, on_meta(BertForMaskedLM), on_meta(BertModel))
print(f"{transformers.__version__}: parameters on meta before, in two threads, afterwards: {seen}")
assert seen == STATED[transformers.__version__], "no longer as stated"
PY
python3 -m venv venv
for pins in "4.57.6 huggingface_hub==0.36.0" "5.0.0 huggingface_hub==1.3.7" "5.23.0 huggingface_hub==2.4.0"; do
    venv/bin/pip install --quiet --no-compile torch==2.13.0 numpy==2.4.6 accelerate==1.15.0 transformers==$pins
    venv/bin/python load.py 2> errors.txt || { tail -3 errors.txt; exit 1; }
done
