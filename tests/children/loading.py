"""What a user sees of a loaded model, for the programs that load."""

import hashlib

import torch
import transformers

INPUTS = {"input_ids": torch.arange(5, 17).unsqueeze(0)}


def digest(tensor):
    return hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()


def load(auto, folder, **kwargs):
    return getattr(transformers, auto).from_pretrained(folder, **kwargs)


def describe(auto, folder, **kwargs):
    """All that the tests ask of it."""
    model, info = load(auto, folder, output_loading_info=True, **kwargs)
    with torch.no_grad():
        outputs = model.eval()(**INPUTS)
        pooler_output = model.bert(**INPUTS).pooler_output
    return {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "config": type(model.config).__name__,
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "outputs": list(outputs),
        "pooler": digest(model.bert.pooler.dense.weight) + digest(model.bert.pooler.dense.bias),
        "pooler_output": digest(pooler_output),
    }
