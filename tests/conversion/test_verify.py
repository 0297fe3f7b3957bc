"""The verification: that it is done by default, and what it notices."""

import importlib.util
import os
import types
from pathlib import Path

import pytest
from bert_pooled_mlm import ConversionError, convert
from checkpoints import contents, edit_json, todays
from grafting import Process, graft, refused


@pytest.mark.versions
def test_the_default_verifies_and_says_so(rescued, report, lost, donor, tmp_path):
    """And writes what a conversion without it does."""
    output = tmp_path / rescued.name
    verified = convert(lost, output, pooler_from=donor, format=rescued.name)
    count = len(todays(lost)) + 2
    assert verified.verified == f"all {count} tensors bit for bit; two loads through AutoModel identical"
    assert contents(output) == contents(rescued)
    assert verified.tokenizer.startswith(f"{report.tokenizer}; ")
    own = {name: getattr(verified, name) for name in ("verified", "tokenizer")} | {"output": str(output)}
    assert verified.to_dict() == report.to_dict() | own


def test_a_disk_that_changes_bits_is_noticed(place, monkeypatch):
    """It does so once the file is on it."""
    size, changed = (place / "checkpoint" / "model.safetensors").stat().st_size, []

    def faulty(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > size:  # the output's weights, which the pooler is added to
            changed.append(os.pwrite(descriptor, b"\x55", size))

    monkeypatch.setattr(os, "fsync", faulty)
    refused(place, r"what was written differs from what was read: .*; is the disk sound\?", verify=True)
    assert changed == [1], "premise"


@pytest.mark.parametrize(
    ("code", "answer", "message", "match"),
    [
        (1, None, "Traceback\nValueError: no", r"out: could not be loaded as it was written: ValueError: no"),
        (0, "{", "", r"the process that loads it ended with exit code 0, and no message"),
        (-9, None, "", r"out: the process that loads it was ended by signal 9: too little memory\?"),
        (
            0,
            '{"missing": ["x"], "mismatched": [], "pooler_equal": true, "loads_equal": false}',
            "",
            r"two loads through AutoModel are not what they should be: .*'missing': \['x'\].*'loads_equal': False",
        ),
    ],
)
def test_loads_that_fail_leave_nothing(code, answer, message, match, place, monkeypatch):
    class Ended(Process):
        @property
        def done(self):
            if answer is not None:
                Path(self.argv[2]).write_text(answer)
            return types.SimpleNamespace(returncode=code, stderr=message)

    Ended.stands_in(monkeypatch)
    refused(place, match, verify=True)


def test_what_transformers_cannot_load_is_not_given_its_name(place):
    """The real thing: a config that the converter accepts, and `BertModel` does not."""
    edit_json(place / "checkpoint" / "config.json", hidden_dropout_prob=7)
    refused(place, r"out: could not be loaded as it was written: .*dropout probability", verify=True)


def test_without_what_the_verification_needs_nothing_is_begun(lost, donor, out, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find_spec(name, *rest)
    )
    with pytest.raises(
        ConversionError, match="can't be verified without torch; install what is missing, or pass --no-verify"
    ):
        convert(lost, out, pooler_from=donor)
    assert not out.exists()
    assert graft(lost, donor, out).status == "converted"
