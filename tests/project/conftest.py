"""What the tests of the examples read: a text, and invalid inputs."""

import pytest
from example_programs import TEXTS

BROKEN = {
    "empty.txt": "\n\n",
    "few.txt": "word1\n\nword2\n\nword2\n\nword3",
    "lines.txt": "word1 word2\n" * 800,
    "full/file": "",
    "gpt/config.json": '{"model_type": "gpt2"}',
    "reviews.csv": "Id,Review,Stars\n1,a,x\n",
    "one.csv": "text,label\na,x\nb,x\n",
    "rare.csv": "text,label\na,x\nb,x\nc,x\nd,x\ne,y\n",
    "header.csv": "text,label\n",
    "ragged.csv": "text,label\na,x\nb,c,x\n",
    "other.csv": "text,label\na,unheard\n",
    "bad.jsonl": '{"text": "a", "label": 1}\n{"text"\n',
    "gap.jsonl": '{"text": "a", "label": 1}\n{"text": "b"}\n',
    "numbers.jsonl": '{"text": 1}\n',
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return file


@pytest.fixture
def broken(tmp_path, donor, lost):
    """A folder of invalid inputs."""
    for name in ("full", "gpt", "nothing"):
        (tmp_path / name).mkdir()
    for name, content in BROKEN.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "latin1.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "donor").symlink_to(donor)
    (tmp_path / "lost").symlink_to(lost)
    return tmp_path
