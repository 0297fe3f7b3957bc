"""The tokenizer: the output's gives the same ids as the input's, or the report states that it was not compared."""

import json
import re
import shutil
from pathlib import Path

import pytest
from bert_pooled_mlm import ConversionError, conversion
from checkpoints import FORMATS, WORDS, contents, edit_json, save_donor
from grafting import TOKENIZER, graft_beside, without_tokenizer
from programs import answer, run_python
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

pytestmark = pytest.mark.usefixtures("forked")

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] a b e h l o r d w ##o ##r ##d é É 日 本 語 は 東 京 日本 ##語 م 🎉 1 2 [NEW]"
MEMBERS = PIECES.split(" ")
TEXTS = ["word é É HELLO", "日本語は東京 word", "م 🎉 12 [MASK] [NEW]", "e\u0301 \u200b", ""]
JAPANESE = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "character", "do_lower_case": False}


@pytest.fixture
def bare(checkpoint) -> Path:
    """A checkpoint without a tokenizer."""
    return without_tokenizer(checkpoint)


def put(folder: Path, own: dict | None, stated: str | None, *files: str) -> Path:
    """Gives a folder a tokenizer: tokenizer_config.json, the class in config.json, and these files of a vocabulary."""
    without_tokenizer(folder)
    if "vocab.txt" in files:
        (folder / "vocab.txt").write_text("\n".join(MEMBERS) + "\n", encoding="utf-8")
    if "tokenizer.json" in files:  # with a normalizer that BertTokenizer does not have
        words = {word: number for number, word in enumerate(MEMBERS)}
        tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        tokenizer.add_special_tokens(list(WORDS[:5]))
        tokenizer.save(str(folder / "tokenizer.json"))
    if own is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(own))
    if stated is not None:
        edit_json(folder / "config.json", tokenizer_class=stated)
    return folder


CASES = {
    "a vocabulary alone": (None, None, "vocab.txt"),
    "Japanese, by config.json": (JAPANESE, "BertJapaneseTokenizer", "vocab.txt"),
    "Japanese, by its own": ({**JAPANESE, "tokenizer_class": "BertJapaneseTokenizer"}, None, "vocab.txt"),
    "Japanese, without options": (None, "BertJapaneseTokenizer", "vocab.txt"),
    "two classes": ({**JAPANESE, "tokenizer_class": "BertTokenizer"}, "BertJapaneseTokenizer", "vocab.txt"),
    "cased, no class": ({"do_lower_case": False}, None, "vocab.txt"),
    "tokenizer.json alone": (None, None, "tokenizer.json"),
    "tokenizer.json, and no class": ({"do_lower_case": True}, None, "tokenizer.json"),
    "any class, by config.json": (None, "PreTrainedTokenizerFast", "tokenizer.json"),
    "any class, by its own": ({"tokenizer_class": "PreTrainedTokenizerFast"}, None, "tokenizer.json"),
    "of another model": ({"tokenizer_class": "DistilBertTokenizer"}, None, "vocab.txt"),
}
TOKENIZE = """
import json, sys
from transformers import AutoTokenizer
places, texts = json.loads(sys.argv[1])
def tokens(place):
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=True)
        return [[tokenizer(text)["input_ids"], tokenizer.tokenize(text)] for text in texts]
    except Exception as error:
        return type(error).__name__
print(json.dumps([tokens(place) for place in places]))
"""


def tokens_of(cwd: Path, *places: Path | str) -> list:
    """What the tokenizer of each folder gives for the texts, or the error of loading it, in a fresh process."""
    return answer(TOKENIZE, cwd, json.dumps([[str(place) for place in places], TEXTS]))


@pytest.fixture(scope="module")
def tokens(lost, donor, tmp_path_factory) -> dict[str, list]:
    """Of each case: what the input's tokenizer gives, and the output's in each format."""
    folder, places = tmp_path_factory.mktemp("cases"), []
    for number, case in enumerate(CASES.values()):
        checkpoint = put(Path(shutil.copytree(lost, folder / str(number))), *case)
        places += [checkpoint, *(graft_beside(checkpoint, donor, format).output for format in FORMATS)]
    found = tokens_of(folder, *places)
    return {case: found[3 * number : 3 * number + 3] for number, case in enumerate(CASES)}


@pytest.mark.versions
@pytest.mark.parametrize("case", CASES)
def test_the_output_tokenizes_to_the_ids_of_the_input(case, tokens):
    given, *outputs = tokens[case]
    assert isinstance(given, list), "premise: the input's can be loaded"
    assert outputs == [given] * len(FORMATS)
    if case.endswith("by config.json"):
        assert given != tokens["a vocabulary alone"][0], "premise: without its class it gives something else"


@pytest.mark.versions
def test_what_transformers_5_saves_of_any_class_opens_on_every_version(checkpoint, donor):
    put(checkpoint, {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}, None, "tokenizer.json")
    found = tokens_of(checkpoint.parent, *(graft_beside(checkpoint, donor, format).output for format in FORMATS))
    assert found[0] == found[1]
    assert found[0][0][1] == ["w", "##o", "##r", "##d", "é", "é", "[UNK]"], "by the file, not as BertTokenizer"


# The verification.


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_the_verification_compares_the_tokens(format, checkpoint, donor):
    put(checkpoint, *CASES["Japanese, by config.json"])
    report = graft_beside(checkpoint, donor, format, verify=True)
    assert report.tokenizer.startswith(f"BertJapaneseTokenizer, {len(MEMBERS)} tokens; 15 texts")
    assert report.tokenizer_loads


def test_a_tokenizer_that_gives_other_ids_is_rejected(checkpoint, donor, monkeypatch):
    put(checkpoint, {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}, None, "vocab.txt")
    write = conversion.pipeline.write_output

    def altered(plan, folder, *args, **kwargs):
        digests = write(plan, folder, *args, **kwargs)
        edit_json(folder / "tokenizer_config.json", do_lower_case=True)
        return digests

    monkeypatch.setattr(conversion.pipeline, "write_output", altered)
    with pytest.raises(ConversionError, match=r"its tokenizer \(BertTokenizer\)"):
        graft_beside(checkpoint, donor, verify=True)
    assert not checkpoint.with_name("checkpoint-pooled").exists()


def test_one_that_this_transformers_does_not_know_is_reported_as_not_compared(checkpoint, donor):
    put(checkpoint, {"tokenizer_class": "NoSuchTokenizer"}, None, "vocab.txt")
    report = graft_beside(checkpoint, donor, verify=True)
    assert report.tokenizer.startswith("NoSuchTokenizer, ")
    assert "not compared" in report.tokenizer
    assert "AutoTokenizer" not in report.how_to_load()


@pytest.mark.parametrize("name", [5, ["BertTokenizer"], "os.system", "AutoModel"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_what_is_not_the_name_of_a_tokenizer_class_is_rejected(name, file, checkpoint, donor):
    edit_json(checkpoint / file, tokenizer_class=name)
    with pytest.raises(ConversionError, match=rf"{file}: tokenizer_class is "):
        graft_beside(checkpoint, donor)


# A tokenizer that needs its own code, and none at all.


OWN = "tokenization_own.OwnTokenizer"
CODE = {
    "tokenizer_config.json": ({"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [OWN, None]}}, None),
    "a list": ({"tokenizer_class": "BertTokenizer", "auto_map": [None, OWN]}, None),
    "config.json": (None, {"AutoTokenizer": [OWN, None]}),
}


def run_what_is_printed(report, folder: Path) -> None:
    """Runs the code under "Load it"."""
    code = report.how_to_load().partition("\n")[2].replace("\n    ", "\n").strip()
    done = run_python(code, folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", CODE)
def test_a_tokenizer_with_its_own_code_is_left_behind_and_named(case, checkpoint, donor):
    own, auto_map = CODE[case]
    put(checkpoint, own, None, "vocab.txt", "tokenizer.json")
    if auto_map:
        edit_json(checkpoint / "config.json", auto_map=auto_map, tokenizer_class="OwnTokenizer")
    (checkpoint / "tokenization_own.py").write_text(f"open({str(checkpoint / 'ran')!r}, 'w')")
    report = graft_beside(checkpoint, donor)
    assert report.tokenizer.startswith("none: ")
    assert OWN in report.tokenizer
    assert str(checkpoint) in report.tokenizer, "where it can be loaded from"
    assert not (set(TOKENIZER) | {"tokenization_own.py"}) & contents(Path(report.output)).keys()
    assert set(TOKENIZER[:2]) <= set(report.left_behind)
    assert not (checkpoint / "ran").exists()
    assert b"OwnTokenizer" not in b"".join(contents(Path(report.output)).values())
    assert "AutoTokenizer" not in report.how_to_load()


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_without_a_tokenizer_what_is_printed_runs_until_one_is_added_as_the_report_says(
    format, bare, giver, donor, tmp_path
):
    """Until then `AutoTokenizer` fails, where transformers 5 would make one of five tokens for a stock BERT."""
    report = graft_beside(bare, without_tokenizer(giver), format, verify=True)
    output = Path(report.output)
    assert report.verified
    run_what_is_printed(report, tmp_path)
    assert "from_pretrained" not in re.findall(r"tokenizer = (.*)", (output / "README.md").read_text())[0]
    assert isinstance(tokens_of(tmp_path, output)[0], str), "an error, and not [UNK] for every word"
    load_and_save = "AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    code = f"import sys; from transformers import AutoTokenizer; {load_and_save}"
    assert run_python(code, tmp_path, donor, output).returncode == 0
    found = tokens_of(tmp_path, donor, output)
    assert found[0] == found[1]


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_the_donors_is_taken_where_there_is_none(format, bare, donor):
    (bare / "special_tokens_map.json").write_text('{"unk_token": "[OTHER]"}')  # of one whose vocabulary is gone
    report = graft_beside(bare, donor, format, verify=True)
    assert report.tokenizer.startswith("BertTokenizer, 128 tokens: the donor's")
    assert report.copied == []
    run_what_is_printed(report, bare.parent)
    found = tokens_of(bare.parent, donor, report.output)
    assert found[0] == found[1]


@pytest.mark.parametrize("cause", ["the donor has none", "another size", "the donor's needs code"])
def test_a_donors_that_does_not_fit_is_not_taken(cause, bare, giver, tmp_path):
    if cause == "another size":
        giver = save_donor(tmp_path / "larger", vocab_size=131)
    elif cause == "the donor has none":
        without_tokenizer(giver)
    else:
        edit_json(giver / "tokenizer_config.json", auto_map={"AutoTokenizer": [OWN, None]})
    report = graft_beside(bare, giver, force_donor=True)
    assert report.tokenizer.startswith("none: ")
    assert "save_pretrained(" in report.tokenizer, "how to add one"
    assert not report.tokenizer_loads


# Sizes and paths.


MORE = {
    "vocab.txt": "\n".join([*WORDS, "more", "most"]) + "\n",
    "added_tokens.json": '{"[MOST]": 129}',
    "tokenizer_config.json": '{"added_tokens_decoder": {"129": {"content": "[MOST]"}}}',
    "tokenizer.json": '{"model": {"vocab": {"most": 129}}, "added_tokens": []}',
}


@pytest.mark.parametrize("file", [None, *MORE])
def test_more_tokens_than_embeddings_are_reported_with_both_numbers(file, checkpoint, donor):
    if file == "tokenizer.json":  # which is not read for that where a vocab.txt is
        without_tokenizer(checkpoint)
    if file:
        (checkpoint / file).write_text(MORE[file])
    remarks = graft_beside(checkpoint, donor).remarks
    assert [bool(re.match(r"the tokenizer has 130 tokens, .*128", it)) for it in remarks] == [True] * bool(file)


PRIVATE = {
    "name_or_path": "/home/somebody/run", "cache_dir": "C:\\Users\\somebody", "vocab_file": "../somebody/vocab.txt",
    "anything": "~/somebody/x", "more": {"nested": "/Users/somebody/mecab"},
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_no_path_of_the_users_machine_is_published(format, checkpoint, donor):
    kept = {"added_tokens_decoder": {"127": {"content": "/usr/bin/", "special": False}}, "do_lower_case": False}
    edit_json(checkpoint / "tokenizer_config.json", **PRIVATE, **kept)
    output = Path(graft_beside(checkpoint, donor, format).output)
    assert not [name for name, data in contents(output).items() if b"somebody" in data]
    written = json.loads((output / "tokenizer_config.json").read_text("utf-8"))
    assert {name: written[name] for name in kept} == kept, "a token that looks like one stays"
