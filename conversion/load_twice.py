# Copyright 2026 The bert-pooled-mlm authors
# SPDX-License-Identifier: Apache-2.0
"""The verification's fresh process: loads a folder through the user's own doors, and says whether anything is random.

    python load_twice.py FOLDER ANSWER.json AutoModel [AutoModelForMaskedLM]

The first door is gone through twice.
"""

import json
import os
import sys
from pathlib import Path

if os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):
    del sys.path[0]  # this folder's modules have names that others may have as well


def load_twice(folder: str, doors: list[str]) -> dict:
    """What each door leaves missing, whether the pooler is the one that is stored, and whether two loads agree."""
    import torch
    import transformers
    from safetensors import safe_open

    found: dict = {"missing": [], "mismatched": [], "pooler_equal": True, "loads_equal": True}
    with safe_open(Path(folder, "2_Dense", "model.safetensors"), "pt") as stored:
        dense = {name: stored.get_tensor(f"linear.{name}") for name in ("weight", "bias")}
    for number, door in enumerate(doors):
        outputs = []
        for _ in range(1 if number else 2):
            model, info = getattr(transformers, door).from_pretrained(
                folder, trust_remote_code=True, output_loading_info=True
            )
            ids = torch.arange(min(model.config.vocab_size, model.config.max_position_embeddings, 16))[None]
            with torch.no_grad():
                output = model.eval()(ids, attention_mask=torch.ones_like(ids), return_dict=True)
            outputs.append([value for value in output.values() if isinstance(value, torch.Tensor)])
        found["missing"] += sorted({*info["missing_keys"]} - {*found["missing"]})
        found["mismatched"] += sorted(key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
        found["loads_equal"] &= all(
            torch.equal(one, other) for one, other in zip(outputs[0], outputs[-1], strict=True)
        )
        pooler = getattr(getattr(model, "bert", model), "pooler", None)
        if pooler is not None:  # stock BertForMaskedLM has none
            parameters = dict(pooler.dense.named_parameters())
            found["pooler_equal"] &= all(
                torch.equal(parameters[it], dense[it].to(parameters[it].dtype)) for it in dense
            )
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(load_twice(sys.argv[1], sys.argv[3:])), encoding="utf-8")
