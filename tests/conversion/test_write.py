"""Every file of the output."""

import json

import pytest
import torch
from checkpoints import CODE_FILES, POOLER, ROOT, contents, save_weights, stored, todays
from grafting import WRITTEN, graft, split
from transformers import BertModel


@pytest.mark.versions
def test_the_output_is_these_files(rescued, lost):
    tokenizer = {"vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    copied = dict.fromkeys(tokenizer & contents(lost).keys(), lost)
    assert "vocab.txt" in copied, "premise: the checkpoint has a tokenizer"
    copied |= dict.fromkeys(CODE_FILES if rescued.name == "pooled" else (), ROOT)
    assert contents(rescued).keys() == {*WRITTEN, *copied}
    for name, folder in copied.items():
        assert (rescued / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.versions
def test_a_sharded_output_has_a_correct_index_and_loads(checkpoint, donor, out):
    save_weights(checkpoint, todays(checkpoint), 3)
    graft(checkpoint, donor, format="bert")
    index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
    files = {f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)}
    placed = {name: file for file in files for name in split((out / file).read_bytes())[0] if name != "__metadata__"}
    assert index["weight_map"] == placed
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored(out).values())
    loaded, info = BertModel.from_pretrained(out, output_loading_info=True)
    assert list(info["missing_keys"]) == []
    assert torch.equal(loaded.pooler.dense.weight, todays(donor)[POOLER[0]])
