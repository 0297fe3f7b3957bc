"""Opens what sentence-transformers has saved, in it and in transformers, and compares the two poolers."""

import sys

import torch
from common import outcome, say, trusted
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

found = {}
for format in sys.argv[2:]:
    folder, trust = f"{sys.argv[1]}/{format}", trusted(format)
    # Whoever opens what sentence-transformers saved says anew that no logits are wanted.
    spared = {"model_kwargs": {"return_logits": False}} if format == "pooled" else {}
    encoder = SentenceTransformer(folder, device="cpu", **trust, **spared)
    calls = []
    for name, module in encoder[0].auto_model.named_modules():
        if name.split(".")[-1] == "cls":
            module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
    vectors = encoder.encode(["word1 word2"], convert_to_tensor=True)
    model = AutoModel.from_pretrained(folder, **trust).eval()
    inputs = AutoTokenizer.from_pretrained(folder, **trust)(["word1 word2"], return_tensors="pt")
    with torch.no_grad():
        old = model(**inputs).pooler_output
        # What the README tells to do who wants one pooler again.
        getattr(model, "bert", model).pooler.dense.load_state_dict(encoder[2].linear.state_dict())
        new = model(**inputs).pooler_output
    found[format] = {
        "class": type(model).__name__,
        "modules": [type(module).__name__ for module in encoder],
        "refused": outcome(SentenceTransformer, folder, device="cpu", trust_remote_code=False),
        "vectors": vectors.tolist(),
        "head called": len(calls),
        "old": (vectors - old).abs().max().item(),
        "new": (vectors - new).abs().max().item(),
    }
say([found, "bert_pooled_mlm" in sys.modules])
