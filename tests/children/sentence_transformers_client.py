"""Opens folders in sentence-transformers, fine-tunes and saves them there, and compares with `pooler_output`."""

import json
import sys
import warnings
from pathlib import Path

import torch
from common import outcome, say, trusted

warnings.simplefilter("ignore")
import transformers  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

try:
    from sentence_transformers.sentence_transformer.modules import Pooling
except ImportError:
    from sentence_transformers.models import Pooling

source, out = map(Path, sys.argv[1:])
TEXTS = ["word1 word2", "word9"]


def opened(folder, **options):
    return SentenceTransformer(str(folder), device="cpu", **({"trust_remote_code": True} | options))


def encode(encoder):
    """The vectors, and how often the MLM head was run."""
    calls, model = [], encoder[0].auto_model
    if hasattr(model, "cls"):
        model.cls.register_forward_hook(lambda *_: calls.append(1))
    return encoder.encode(TEXTS, convert_to_tensor=True), len(calls)


def difference(folder, vectors):
    """Between `pooler_output` of a folder and vectors; and whether the model gives logits."""
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        output = model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))
    return (output.pooler_output - vectors).abs().max().item(), "logits" in output


def train(encoder):
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(3):
        features = encoder[0].tokenize(TEXTS) if hasattr(encoder[0], "tokenize") else encoder.tokenize(TEXTS)
        encoder(features)["sentence_embedding"].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def pooler(encoder):
    model = encoder[0].auto_model
    return getattr(model, "bert", model).pooler


found = {"saved otherwise": {}}
for folder in (source / "saved otherwise").iterdir():
    encoder = opened(folder)
    modules = [type(module).__name__ for module in encoder]
    found["saved otherwise"][folder.name] = difference(folder, encode(encoder)[0])[0], modules
for format in ("pooled", "bert"):
    seen = found[format] = {"without trust": outcome(opened, source / format, trust_remote_code=False)}
    encoder = opened(source / format, **trusted(format))
    vectors, seen["head called"] = encode(encoder)
    seen["as saved"] = difference(source / format, vectors)[0]
    encoder.save(str(out / f"{format}-saved"))
    seen["config"] = json.loads((out / f"{format}-saved" / "config.json").read_text())
    seen["saved"] = difference(out / f"{format}-saved", vectors)
    # Two poolers: the Dense module is trained, and then copied into the model's, as the documents recommend.
    train(encoder)
    encoder.save(str(out / f"{format}-trained"))
    seen["untied"] = difference(out / f"{format}-trained", encode(encoder)[0])[0]
    pooler(encoder).dense.load_state_dict(encoder[2].linear.state_dict())
    encoder.save(str(out / f"{format}-repaired"))
    seen["repaired"] = difference(out / f"{format}-repaired", encode(opened(out / f"{format}-repaired"))[0])[0]
    if format == "pooled":
        encoder[0].auto_model.save_pretrained(out / "ours")
        encoder[0].tokenizer.save_pretrained(out / "ours")
        vectors, seen["head called again"] = encode(opened(out / "ours"))
        seen["ours"] = difference(out / "ours", vectors)
    # One pooler: tied before the training.
    tied = opened(source / format)
    tied[2].linear = pooler(tied).dense
    train(tied)
    tied.save(str(out / f"{format}-tied"))
    vectors, again = encode(tied)[0], encode(opened(out / f"{format}-tied"))[0]
    seen["tied"] = difference(out / f"{format}-tied", vectors)[0]
    seen["tied again"] = (vectors - again).abs().max().item()
    # Another structure, chosen there: nothing of ours is beside it.
    other = SentenceTransformer(modules=[opened(source / format)[0], Pooling(32, "mean")], device="cpu")
    other.save(str(out / f"{format}-mean"))
    seen["mean"] = sorted(path.name for path in (out / f"{format}-mean").iterdir() if path.is_dir())
    seen["mean again"] = (encode(other)[0] - encode(opened(out / f"{format}-mean"))[0]).abs().max().item()
say([found, "bert_pooled_mlm" in sys.modules])
