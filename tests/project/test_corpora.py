"""The corpora that continue_pretraining.py reads: files of every kind, the cache, what is held out."""

import gzip
import json
import subprocess
import sys

import pytest
from checkpoints import ROOT
from example_programs import TEXTS, load_example
from programs import environment, run_python
from transformers import AutoTokenizer


@pytest.fixture
def module(monkeypatch):
    return load_example("continue_pretraining", monkeypatch)


def corpus_of(module, cache, tokenizer, *options, eval_files=()):
    given = ["--model", "m", "-o", "o", "--length", "16", "--cache-dir", str(cache), "--num-proc", "2", *options]
    if eval_files:
        given += ["--eval", *eval_files]
    return module.load_corpus(module.parse(given), tokenizer)


def words_of(rows):
    return [token for row in rows for token in row["input_ids"] if token > 4]


@pytest.fixture
def tokenizer(donor):
    return AutoTokenizer.from_pretrained(donor)


def test_every_kind_of_file_gives_the_same_blocks_without_losing_a_token(tokenizer, tmp_path, module):
    import pyarrow as pa
    from pyarrow import parquet

    content = "\n\n".join(TEXTS)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.txt").write_text(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content.encode()))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in TEXTS))
    parquet.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    (tmp_path / "held_out.txt").write_text("word1 word2\n\nword3")
    held_out = [str(tmp_path / "held_out.txt")]
    expected = [token for ids in tokenizer(TEXTS, add_special_tokens=False).input_ids for token in ids]
    for name in ("folder", "a.txt.gz", "a.jsonl", "a.parquet", "*.parquet"):
        options = ("--train", str(tmp_path / name))
        corpus = corpus_of(module, tmp_path / "cache", tokenizer, *options, eval_files=held_out)
        words = words_of(corpus.train)
        assert words == expected[: len(words)], name
        assert len(words) > len(expected) - 8, "a rest of less than 8 tokens is dropped"
        assert words_of(corpus.held_out) == [6, 7, 8]
        lengths = {len(row["input_ids"]) for row in corpus.train}
        assert max(lengths) == 16
        options += ("--streaming", "--max-steps", "1")
        stream = corpus_of(module, tmp_path, tokenizer, *options, eval_files=held_out)
        assert sorted(words_of(stream.train)) == sorted(words)
        assert words_of(stream.held_out) == [6, 7, 8]


def test_a_text_is_held_out_by_its_hash_alone(tokenizer, tmp_path, module):
    held_out = []
    for name, texts in (("some", TEXTS[:60]), ("all", [*reversed(TEXTS), *TEXTS])):
        (tmp_path / name).write_text("\n\n".join(texts))
        options = ("--train", str(tmp_path / name), "--eval-share", "0.3")
        corpus = corpus_of(module, tmp_path / "cache", tokenizer, *options)
        # The last word of each text is its own.
        train, held = ({*words_of(rows)} for rows in (corpus.train, corpus.held_out))
        held_out.append({n for n in range(19, 60) if n + 5 in held and n + 5 not in train})
        singles = [text for text, _ in corpus.sample]
        assert len(singles) == len({*singles}), "without duplicates"
        assert not {*singles} & {TEXTS[n] for n in held_out[-1]}
        for first, second in corpus.sample:
            assert second is None or abs(TEXTS.index(second) - TEXTS.index(first)) <= 1
    assert held_out[0] == held_out[1]
    assert 2 < len(held_out[0]) < 25


def test_content_and_settings_decide_which_cache_is_used(tokenizer, tmp_path, module):
    file, cache = tmp_path / "a.txt", tmp_path / "cache"

    def entries(content, *options):
        file.write_text(content)
        corpus_of(module, cache, tokenizer, "--train", str(file), *options)
        return len([*cache.glob("*/train.arrow")])

    content = "\n\n".join(TEXTS)
    assert entries(content) == 1
    assert entries(content) == 1, "another time of change, the same content"
    assert entries(content.replace("word3", "word4")) == 2
    assert entries(content, "--line-by-line") == 3
    tokenizer.add_tokens(["word1 word2"])
    assert entries(content) == 4


SLOW_TOKENIZER = """
import sys, time
sys.path.insert(0, {examples!r})
import corpora
call = corpora.Tokenize.__call__
def slow(self, texts):
    print("tokenizing", flush=True)
    time.sleep({seconds})
    return call(self, texts)
corpora.Tokenize.__call__ = slow
import continue_pretraining
sys.exit(continue_pretraining.main(sys.argv[1:]))
"""


def preparing(donor, text, cwd, seconds):
    code = SLOW_TOKENIZER.format(examples=str(ROOT / "examples"), seconds=seconds)
    options = ("--model", donor, "--train", text, "-o", "out", "--length", 16, "--cache-dir", "cache")
    command = [sys.executable, "-c", code, *map(str, options), "--prepare-only"]
    env = environment(HF_HOME=str(cwd / "hf-home"))
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_processes_one_prepares_and_after_a_killed_one_the_next_begins_anew(donor, text, tmp_path):
    killed = preparing(donor, text, tmp_path, seconds=60)
    assert killed.stdout.readline() == "tokenizing\n"
    killed.kill()
    killed.communicate()  # which ends when its workers have ended, too
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if path.is_dir()] == [".incomplete"]
    both = [preparing(donor, text, tmp_path, seconds=2) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(output.count("tokenizing") for output in outputs) == [0, 2], "train and held-out texts"
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir()} == {"train.arrow", "held_out.arrow", "sample.json"}


def test_a_full_disk_is_an_error_of_one_line_and_leaves_nothing(donor, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS * 200))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    code = limited + SLOW_TOKENIZER.format(examples=str(ROOT / "examples"), seconds=0)
    options = ("--model", donor, "--train", "text.txt", "-o", "out", "--cache-dir", "cache", "--length", 16)
    done = run_python(code, tmp_path, *options)
    assert done.returncode == 1
    error = "continue_pretraining.py: error: cache: File too large; the incomplete"
    assert done.stderr.splitlines()[-1].startswith(error)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
