"""The tokenizer is the model's other half: the output says of a text what the input says, or says that it can't."""

import json
import re
import shutil
from pathlib import Path

import pytest
from bert_pooled_mlm import ConversionError, conversion
from checkpoints import FORMATS, WORDS, contents, edit_json, save_donor, save_lost
from grafting import graft_beside
from hub_server import HubServer
from programs import answer, run_python
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

pytestmark = pytest.mark.usefixtures("forked")

FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] a b e h l o r d w ##o ##r ##d é É 日 本 語 は 東 京 日本 ##語 م 🎉 1 2 [NEW]"
MEMBERS = PIECES.split(" ")
TEXTS = ["word é É HELLO", "日本語は東京 word", "م 🎉 12 [MASK] [NEW]", "e\u0301 \u200b", ""]
JAPANESE = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "character", "do_lower_case": False}


def without_tokenizer(folder: Path) -> Path:
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    return folder


@pytest.fixture
def bare(checkpoint) -> Path:
    """A checkpoint without a tokenizer."""
    return without_tokenizer(checkpoint)


def put(folder: Path, own: dict | None, stated: str | None, *files: str, added: bool = False) -> Path:
    """Gives a folder a tokenizer: tokenizer_config.json, config.json's class, and these files of a vocabulary."""
    without_tokenizer(folder)
    if "vocab.txt" in files:
        (folder / "vocab.txt").write_text("\n".join(MEMBERS) + "\n", encoding="utf-8")
    if "tokenizer.json" in files:  # with a normalizer that BertTokenizer does not have
        words = {word: number for number, word in enumerate(MEMBERS)}
        tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
        tokenizer.add_special_tokens(list(WORDS[:5]))
        tokenizer.save(str(folder / "tokenizer.json"))
    if added:
        (folder / "added_tokens.json").write_text(json.dumps({"[ADDED]": len(MEMBERS)}))
    if own is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(own))
    if stated is not None:
        edit_json(folder / "config.json", tokenizer_class=stated)
    return folder


CASES = {
    "Japanese, said by config.json": (JAPANESE, "BertJapaneseTokenizer", "vocab.txt"),
    "Japanese, said by its own": ({**JAPANESE, "tokenizer_class": "BertJapaneseTokenizer"}, None, "vocab.txt"),
    "Japanese, without options": (None, "BertJapaneseTokenizer", "vocab.txt"),
    "two are said": ({**JAPANESE, "tokenizer_class": "BertTokenizer"}, "BertJapaneseTokenizer", "vocab.txt"),
    "cased, no class is said": ({"do_lower_case": False}, None, "vocab.txt"),
    "a vocabulary alone": (None, None, "vocab.txt"),
    "tokenizer.json alone": (None, None, "tokenizer.json"),
    "tokenizer.json, and no class": ({"do_lower_case": True}, None, "tokenizer.json"),
    "any class, said by config.json": (None, "PreTrainedTokenizerFast", "tokenizer.json"),
    "any class, said by its own": ({"tokenizer_class": "PreTrainedTokenizerFast"}, None, "tokenizer.json"),
    "another model's": ({"tokenizer_class": "DistilBertTokenizer"}, None, "vocab.txt"),
}  # fmt: skip
SAYS = """
import json, sys
from transformers import AutoTokenizer
places, texts = json.loads(sys.argv[1])
def says(place):
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=True)
        return [[tokenizer(text)["input_ids"], tokenizer.tokenize(text)] for text in texts]
    except Exception as error:
        return type(error).__name__
print(json.dumps({place: says(place) for place in places}))
"""


def says(cwd: Path, *places: Path) -> dict:
    """What `AutoTokenizer` says of the texts, or what it raises, in a fresh process."""
    found = answer(SAYS, cwd, json.dumps([[str(place) for place in places], TEXTS]))
    return {Path(place): said for place, said in found.items()}


@pytest.fixture(scope="module")
def said(lost, donor, tmp_path_factory) -> dict[Path, list]:
    """What each case says before and after the conversion into each format."""
    folder = tmp_path_factory.mktemp("cases")
    for number, case in enumerate(CASES.values()):
        checkpoint = put(Path(shutil.copytree(lost, folder / str(number))), *case)
        for format in FORMATS:
            graft_beside(checkpoint, donor, format)
    return says(folder, *(path for path in sorted(folder.iterdir()) if path.name[0].isdigit()))


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_the_output_says_of_a_text_what_the_input_says(case, format, said):
    by_name = {place.name: it for place, it in said.items()}
    number = list(CASES).index(case)
    assert isinstance(by_name[str(number)], list), "premise: the input's can be loaded"
    assert by_name[f"{number}-{format}"] == by_name[str(number)]


@pytest.mark.versions
def test_the_cases_are_different_tokenizers(said):
    """Premise of the test above: a class that is lost says something else."""
    by_name = {place.name: it for place, it in said.items()}
    names = list(CASES)
    stock = by_name[str(names.index("a vocabulary alone"))]
    for case in ("Japanese, said by config.json", "any class, said by config.json"):
        assert by_name[str(names.index(case))] != stock


@pytest.mark.versions
def test_what_5_saves_of_any_class_opens_on_every_version(checkpoint, donor):
    put(checkpoint, {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}, None, "tokenizer.json")
    places = [Path(graft_beside(checkpoint, donor, format).output) for format in FORMATS]
    found = list(says(checkpoint.parent, *places).values())
    assert found[0] == found[1]
    assert found[0][0][1] == ["w", "##o", "##r", "##d", "é", "é", "[UNK]"], "as the file says, not as BertTokenizer"


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_the_verification_compares_the_tokens(format, checkpoint, donor):
    put(checkpoint, *CASES["Japanese, said by config.json"])
    report = graft_beside(checkpoint, donor, format, verify=True)
    assert report.tokenizer == (
        f"BertJapaneseTokenizer, {len(MEMBERS)} tokens; 15 texts in all scripts read as the input's reads them"
    )
    assert report.tokenizer_loads


def test_a_tokenizer_that_says_something_else_is_refused(checkpoint, donor, monkeypatch):
    put(checkpoint, {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}, None, "vocab.txt")
    write = conversion.write.write_output

    def altered(plan, folder, *args, **kwargs):
        digests = write(plan, folder, *args, **kwargs)
        edit_json(folder / "tokenizer_config.json", do_lower_case=True)
        return digests

    monkeypatch.setattr(conversion.write, "write_output", altered)
    with pytest.raises(
        ConversionError, match=r"its tokenizer \(BertTokenizer\) reads .* differently, unlike the input's"
    ):
        graft_beside(checkpoint, donor, verify=True)
    assert not checkpoint.with_name("checkpoint-pooled").exists()


def test_one_that_this_transformers_does_not_know_is_not_called_compared(checkpoint, donor):
    put(checkpoint, {"tokenizer_class": "NoSuchTokenizer"}, None, "vocab.txt")
    report = graft_beside(checkpoint, donor, verify=True)
    assert re.search(
        r"NoSuchTokenizer, .*; not compared with the input's, which can't be loaded here: .", report.tokenizer
    )
    assert "AutoTokenizer" not in report.how_to_load()


@pytest.mark.parametrize("name", [5, ["BertTokenizer"], "os.system", "pipeline", "AutoModel"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_class_that_is_none_is_refused(name, file, checkpoint, donor):
    edit_json(checkpoint / file, tokenizer_class=name)
    with pytest.raises(ConversionError, match=rf"{file}: tokenizer_class is .*; expected a tokenizer's class"):
        graft_beside(checkpoint, donor)


# --- One that needs its own code -------------------------------------------------------------------------------------

OWN = "tokenization_own.OwnTokenizer"
CODE = {
    "tokenizer_config.json": ({"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [OWN, None]}}, None),
    "the fast one alone": ({"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, OWN]}}, None),
    "a list": ({"tokenizer_class": "OwnTokenizer", "auto_map": [OWN, None]}, None),
    "a class of transformers beside it": ({"tokenizer_class": "BertTokenizer", "auto_map": [None, OWN]}, None),
    "config.json": (None, {"AutoTokenizer": [OWN, None]}),
}  # fmt: skip


def printed_lines(report, folder: Path) -> None:
    """Runs what "Load it" prints, with a tokenizer's absence as the report says it."""
    code = report.how_to_load().partition("\n")[2].replace("\n    ", "\n").strip()
    done = run_python(code, folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", CODE)
def test_what_needs_its_own_code_is_left_and_said(case, checkpoint, donor):
    own, auto_map = CODE[case]
    put(checkpoint, own, None, "vocab.txt", "tokenizer.json")
    if auto_map:
        edit_json(checkpoint / "config.json", auto_map=auto_map, tokenizer_class="OwnTokenizer")
    (checkpoint / "tokenization_own.py").write_text(f"open({str(checkpoint / 'ran')!r}, 'w')")
    report = graft_beside(checkpoint, donor)
    assert report.tokenizer.startswith(
        f"none: the checkpoint's is code of its own ({OWN}), which is neither copied nor run"
    )
    assert str(checkpoint) in report.tokenizer, "where it can be loaded from"
    assert not (set(FILES) | {"tokenization_own.py"}) & contents(Path(report.output)).keys()
    assert set(FILES[:2]) <= set(report.left_behind)
    assert not (checkpoint / "ran").exists()
    assert b"OwnTokenizer" not in b"".join(contents(Path(report.output)).values())
    assert "AutoTokenizer" not in report.how_to_load()


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_nothing_that_is_printed_fails_where_there_is_no_tokenizer(format, checkpoint, donor):
    """And `AutoTokenizer` fails, where transformers 5 would make one of five tokens for a stock BERT."""
    put(checkpoint, *CODE["tokenizer_config.json"], "vocab.txt")
    report = graft_beside(checkpoint, donor, format, verify=True)
    assert report.verified
    printed_lines(report, checkpoint.parent)
    assert isinstance(says(checkpoint.parent, report.output)[Path(report.output)], str)
    assert "from_pretrained" not in re.findall(r"tokenizer = (.*)", Path(report.output, "README.md").read_text())[0]


# --- None ------------------------------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_the_donors_is_taken_where_there_is_none(format, bare, donor):
    (bare / "special_tokens_map.json").write_text('{"unk_token": "[OTHER]"}')  # of one whose vocabulary is gone
    report = graft_beside(bare, donor, format, verify=True)
    assert report.tokenizer == (
        "BertTokenizer, 128 tokens: the donor's, since the checkpoint has none; both have as many embeddings; "
        "15 texts in all scripts read as the donor's reads them"
    )
    assert report.copied == []
    assert (Path(report.output) / "vocab.txt").read_bytes() == (donor / "vocab.txt").read_bytes()
    printed_lines(report, bare.parent)
    found = says(bare.parent, donor, report.output)
    assert found[Path(report.output)] == found[donor]


def test_the_donors_is_fetched_from_the_hub(bare, donor, tmp_path):
    with HubServer() as hub:
        hub.add_repo("user/donor", donor)
        code = "import sys; from bert_pooled_mlm.convert import main; sys.exit(main(sys.argv[1:]))"
        arguments = (bare, "-o", tmp_path / "out", "--pooler-from", "user/donor", "--no-verify", "--json")
        done = run_python(code, tmp_path, *arguments, **hub.environment(tmp_path))
        assert done.returncode == 0, done.stderr
        assert 0 < hub.bytes_sent("vocab.txt") < 4096
        assert hub.bytes_sent("model.safetensors") < (donor / "model.safetensors").stat().st_size
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (donor / "vocab.txt").read_bytes()


@pytest.mark.parametrize("cause", ["the donor has none", "another size", "the donor's needs code"])
def test_without_any_the_report_says_what_to_do(cause, bare, donor, tmp_path):
    giver = Path(shutil.copytree(donor, tmp_path / "giver"))
    if cause == "another size":
        shutil.rmtree(giver)
        giver, grown = save_donor(giver, vocab_size=130), tmp_path / "grown"
        bare = without_tokenizer(save_lost(tmp_path / "small", giver))
        shutil.rmtree(giver)
        save_donor(giver, vocab_size=131)
        assert grown != giver
    elif cause == "the donor has none":
        without_tokenizer(giver)
    else:
        edit_json(giver / "tokenizer_config.json", auto_map={"AutoTokenizer": [OWN, None]})
    report = graft_beside(bare, giver, force_donor=True)
    assert report.tokenizer == (
        "none: the checkpoint has no tokenizer files; add those that it was trained with to the output: "
        "AutoTokenizer.from_pretrained(FOLDER_OR_HUB_ID).save_pretrained(OUTPUT)"
    )
    assert not report.tokenizer_loads
    assert "AutoTokenizer" not in report.how_to_load()


@pytest.mark.versions
@pytest.mark.parametrize("format", FORMATS)
def test_what_was_added_as_the_report_says_is_then_found(format, bare, donor, tmp_path):
    giver = without_tokenizer(Path(shutil.copytree(donor, tmp_path / "giver")))
    report = graft_beside(bare, giver, format)
    printed_lines(report, tmp_path)
    output = Path(report.output)
    assert isinstance(says(tmp_path, output)[output], str), "it fails, and does not read every word as [UNK]"
    load_and_save = "AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    code = f"import sys; from transformers import AutoTokenizer; {load_and_save}"
    assert run_python(code, tmp_path, donor, output).returncode == 0
    found = says(tmp_path, donor, output)
    assert found[output] == found[donor]


# --- Sizes and paths -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["vocab.txt", "tokenizer.json", "added_tokens.json", "added_tokens_decoder"])
def test_more_tokens_than_embeddings_are_said_with_their_numbers(file, checkpoint, donor):
    if file == "vocab.txt":
        (checkpoint / "vocab.txt").write_text("\n".join([*WORDS, "more", "most"]) + "\n")
    elif file == "tokenizer.json":
        put(checkpoint, None, None, "tokenizer.json")
        fields = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))
        fields["model"]["vocab"]["most"] = 129
        (checkpoint / "tokenizer.json").write_text(json.dumps(fields))
    elif file == "added_tokens.json":
        (checkpoint / file).write_text('{"[MOST]": 129}')
    else:
        edit_json(checkpoint / "tokenizer_config.json", added_tokens_decoder={"129": {"content": "[MOST]"}})
    report = graft_beside(checkpoint, donor)
    assert [it for it in report.remarks if it.startswith("the tokenizer has 130 tokens, the model 128 embeddings")]
    assert "\nnote         the tokenizer has 130 tokens" in str(report)


def test_as_many_tokens_as_embeddings_are_no_remark(checkpoint, donor):
    assert graft_beside(checkpoint, donor).remarks == []


PRIVATE = {
    "name_or_path": "/home/somebody/run",
    "tokenizer_file": "/home/somebody/.cache/tokenizer.json",
    "special_tokens_map_file": "somebody/special_tokens_map.json",
    "cache_dir": "C:\\Users\\somebody",
    "vocab_file": "../somebody/vocab.txt",
    "anything": "~/somebody/x",
    "more": {"nested": "/Users/somebody/mecab"},
}


@pytest.mark.parametrize("format", FORMATS)
def test_no_path_of_the_users_machine_is_published(format, checkpoint, donor):
    kept = {"added_tokens_decoder": {"127": {"content": "/usr/bin/", "special": False}}, "do_lower_case": False}
    edit_json(checkpoint / "tokenizer_config.json", **PRIVATE, **kept)
    output = Path(graft_beside(checkpoint, donor, format).output)
    assert not [name for name, data in contents(output).items() if b"somebody" in data]
    written = json.loads((output / "tokenizer_config.json").read_text("utf-8"))
    assert {name: written[name] for name in kept} == kept, "a token that looks like one stays"
    before = json.loads((checkpoint / "tokenizer_config.json").read_text("utf-8"))
    assert before.keys() - written.keys() == PRIVATE.keys() - {"more"}
