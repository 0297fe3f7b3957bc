"""Tiny seeded checkpoints, and what the tests compare of folders and models."""

import json
import os
import shutil
from pathlib import Path

import torch
from bert_pooled_mlm import BertPooledMLMConfig
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
FORMATS = ("pooled", "bert")
# sentence-transformers'
MODULES = {
    "modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "2_Dense/config.json",
    "2_Dense/model.safetensors",
}  # fmt: skip
DENSE = {"linear.weight": "bert.pooler.dense.weight", "linear.bias": "bert.pooler.dense.bias"}
CODE_FILES = ("configuration_bert_pooled_mlm.py", "modeling_bert_pooled_mlm.py")
# transformers 5.0.0 stores the older spelling of a model that was loaded from disk.
LAYER_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
# Two passes in training mode then compute the same.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SHAPE = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37,
    "max_position_embeddings": 64,
}  # fmt: skip
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(123)))


def randomize(model: torch.nn.Module, seed: int, scale: float = 0.02) -> None:
    """Moves every parameter, as training does: a pooler's bias, zero at initialisation, moves too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * scale)


def save_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)


def make_donor(seed: int = 0, **shape) -> BertForPreTraining:
    """A stock BERT with a trained-looking pooler and an MLM head."""
    torch.manual_seed(seed)
    model = BertForPreTraining(BertConfig(**{**SHAPE, **shape})).eval()
    randomize(model, seed)
    return model


def save_donor(folder: Path, seed: int = 0, **shape) -> Path:
    save_tokenizer(folder)
    make_donor(seed, **shape).save_pretrained(folder)
    return folder


def save_lost(folder: Path, donor: Path, seed: int = 1, drift: float = 0.001, **kwargs) -> Path:
    """What continued pre-training of `donor` with stock `BertForMaskedLM` leaves: a moved encoder, no pooler."""
    save_tokenizer(folder)
    model = BertForMaskedLM.from_pretrained(donor, **kwargs)
    randomize(model, seed, drift)
    model.save_pretrained(folder)
    return folder


def is_whole(figure) -> bool:
    """Whether all that is drawn lies within the figure's edges."""
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height


def clone(parent: Path) -> Path:
    """The code of the checkout, in a folder named as `git clone` names it."""
    folder = parent / "bert-pooled-mlm"
    for path in [*ROOT.glob("*.py"), *ROOT.glob("conversion/*.*")]:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return folder


def make_pooled(cls, **fields):
    """A model of the family whose every parameter has moved from its initial value."""
    torch.manual_seed(0)
    model = cls(BertPooledMLMConfig(**{**SHAPE, **fields})).eval()
    randomize(model, 0)
    return model


def batch(rows: int = 3, length: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded token ids in two segments; each row is three tokens shorter than the one before."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.arange(length) < length - 3 * torch.arange(rows).unsqueeze(1)
    return {
        "input_ids": torch.randint(5, SHAPE["vocab_size"], (rows, length), generator=generator) * valid,
        "attention_mask": valid.long(),
        "token_type_ids": (torch.arange(length) >= length // 2).expand(rows, -1) * valid.long(),
    }


def mlm_batch(rows: int = 3, length: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch with labels at a third of its tokens, more in the first row than in the others; -100 elsewhere."""
    inputs = batch(rows, length, seed)
    chosen = (torch.arange(length) % 3 == 1) & inputs["attention_mask"].bool()
    chosen[0, 2] = True
    inputs["labels"] = inputs["input_ids"].masked_fill(~chosen, -100)
    inputs["input_ids"] = inputs["input_ids"].masked_fill(chosen, WORDS.index("[MASK]"))
    return inputs


def mlm_rows(count: int) -> list[dict[str, torch.Tensor]]:
    """Rows for Trainer, whose numbers of labels differ: a mean of means is then not the mean."""
    batches = [mlm_batch(seed=seed) for seed in range(-(-count // 3))]
    return [{name: part[name][row] for name in part} for part in batches for row in range(3)][:count]


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    """The names of the tensors that are not in both, bit for bit."""
    return (first.keys() ^ second.keys()) | {
        name for name in first.keys() & second.keys() if not torch.equal(first[name], second[name])
    }


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors in a folder's safetensors files, shards together."""
    files = sorted(folder.glob("model*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def gradients(model, **inputs):
    """The loss, and all gradients by name."""
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output.loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(first, second) -> float:
    """Of two dicts of gradients, relative to the length of the first."""
    assert first.keys() == second.keys()
    assert first
    flat = [torch.cat([grads[name].double().flatten() for name in first]) for grads in (first, second)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


def pooler_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the pooler that a model uses, whatever wraps it: its `dense.weight` and `dense.bias`."""
    pooler = {
        name[name.index("dense.") :]: tensor.clone()
        for name, tensor in model.state_dict().items()
        if "pooler." in name and "original_module" not in name  # PEFT's copy of what it trains
    }
    assert pooler.keys() == {"dense.weight", "dense.bias"}
    return pooler


def took(folder: Path, donor: Path) -> bool:
    """Whether a folder's pooler is the donor's."""
    ours, theirs = stored(folder), stored(donor)
    return all(torch.equal(ours[name], theirs[name]) for name in POOLER)


def renamed(tensors: dict[str, torch.Tensor], parts: dict[str, str]) -> dict[str, torch.Tensor]:
    """Tensors whose names have parts replaced."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in parts.items():
            name = name.replace(old, new)
        found[name] = tensor
    return found


def todays(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's tensors, in today's spelling."""
    return renamed(stored(folder), LAYER_NORM)


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, tuple]:
    """Tensors in a form whose `==` compares dtype, shape and every bit."""
    return {
        name: (tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def snapshot(folder: Path) -> dict[str, bytes | str | None]:
    """What is in a folder and below: bytes of files, targets of links, and directories."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in [folder, *sorted(folder.rglob("*"))]
    }


def state(folder: Path) -> dict[str, tuple]:
    """All that a program could have changed in a folder: names, modes, times, bytes."""
    return {
        name: ((folder / name).lstat().st_mode, (folder / name).lstat().st_mtime_ns, held)
        for name, held in snapshot(folder).items()
    }


def edit_json(path: Path, *removed: str, **changed) -> None:
    """Changes a JSON file's fields, and removes some."""
    fields = json.loads(path.read_text(encoding="utf-8")) | changed
    path.write_text(json.dumps({key: fields[key] for key in fields if key not in removed}), encoding="utf-8")


def save_weights(folder: Path, tensors: dict[str, torch.Tensor], shards: int = 1, kind: str = "safetensors") -> None:
    """Replaces a folder's weights, in any of the four layouts of transformers; `kind` is "safetensors" or "bin"."""
    for file in [*folder.glob("model*.safetensors*"), *folder.glob("pytorch_model*")]:
        file.unlink()
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    names = sorted(tensors)
    files = {f"{stem}.{kind}": names}
    if shards > 1:
        files = {f"{stem}-{n + 1:05d}-of-{shards:05d}.{kind}": names[n::shards] for n in range(shards)}
        total = sum(tensor.nbytes for tensor in tensors.values())
        weight_map = {name: file for file, part in files.items() for name in part}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index), encoding="utf-8")
    for file, part in files.items():
        chosen = {name: tensors[name].contiguous() for name in part}
        if kind == "bin":
            torch.save(chosen, folder / file)
        else:
            save_file(chosen, folder / file, metadata={"format": "pt"})


def modules_of(folder) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name in MODULES}


def assert_modules(folder):
    """All five files, and a Dense module that is the pooler of the weights, bit for bit."""
    assert modules_of(folder).keys() == MODULES
    dense, weights = load_file(folder / "2_Dense" / "model.safetensors"), stored(folder)
    assert dense.keys() == DENSE.keys()
    assert all(torch.equal(dense[name], weights[key]) for name, key in DENSE.items())
