"""`assay detect`: found texts, pages that need nothing else, and bad input that is told from good."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.core.statistics import best_of_log10_p
from assay.experiments.cli import main
from assay.experiments.config import CONF
from assay.experiments.texts.inputs import read_text, scheme_of
from assay.experiments.trial import built
from assay.watermarks.llm.card import Card, key_id
from assay.watermarks.llm.compat_kgw import TransformersKgw
from assay.watermarks.llm.compat_synthid import TransformersSynthId
from assay.watermarks.llm.compat_vllm import VllmGumbel
from assay.watermarks.llm.corpus import Texts
from assay.watermarks.llm.cyclic import Cyclic
from assay.watermarks.llm.kgw import Kgw
from assay.watermarks.llm.mpac import Mpac
from assay.watermarks.llm.sampling import SamplingMark
from assay.zoo.tokens import of_folder

V, ME = 300, Secret.simulated(1)


def written(scheme: SamplingMark, tokens: int) -> list[int]:
    draw = torch.Generator().manual_seed(4)
    ids = torch.randint(0, V, (1, 4), generator=draw)
    for _ in range(tokens):
        logits = torch.randn(1, V, generator=draw)
        ids = torch.cat((ids, scheme.next_ids(logits, ids, ME, draw)[:, None]), 1)
    return [int(v) for v in ids[0, 4:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A card, a key, a tokenizer of whole words, and two texts in JSONL: a marked one and one of nobody."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(V)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    scheme = Kgw(delta=4.0)
    card = Card.of(scheme, ME, V, of_folder(tmp_path).hash)
    (tmp_path / "card.json").write_text(card.text())
    (tmp_path / "key").write_text(ME.raw.hex())
    ids = written(scheme, 60)
    draw = torch.Generator().manual_seed(9)
    nobody = torch.randint(0, V, (60,), generator=draw).tolist()
    rows = [{"ids": ids}, {"text": " ".join(f"w{v}" for v in nobody)}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text.txt").write_text(" ".join(f"w{v}" for v in ids))
    return tmp_path


def call(folder: Path, *more: str, file: str = "texts.jsonl", key: str = "key") -> int:
    words = [str(folder / file), "--card", str(folder / "card.json"), "--key", str(folder / key)]
    return main(["detect", *words, *more])


def found(capsys: pytest.CaptureFixture[str], *arguments: Any, **options: Any) -> list[dict[str, Any]]:
    assert call(*arguments, "--json", **options) == 0
    out: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["found"]
    return out


def test_marked_texts_are_told_from_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, nobodys, together = found(capsys, folder)
    assert mine["log10_p"] < -3 < nobodys["log10_p"]
    assert mine["scored"] <= 59
    assert together["line"] is None
    assert together["log10_p"] < -3
    (read,) = found(capsys, folder, file="text.txt")
    assert read["log10_p"] == mine["log10_p"]
    told, _, _ = found(capsys, folder, "--prompt", "30")
    assert told["scored"] <= 30


def test_the_terminal_shows_a_table_and_the_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(folder) == 0
    out = capsys.readouterr().out
    assert "1 of 2 texts alone; 1 with Holm's correction" in out
    assert "line 2:" in out


def test_the_terminal_obeys_no_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("w1", "\x1b[2J", "\x1b]0;mine\x07", "a\nb", "\x9b1A", "c")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w1"))
    (folder / "other").mkdir()
    tokenizer.save(str(folder / "other" / "tokenizer.json"))
    card_with(tokenizer="")(folder)
    texts(json.dumps({"ids": list(range(len(words)))}))(folder)
    assert call(folder, "--tokenizer", str(folder / "other")) == 0
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\x9b"} & set(out)
    assert r"w1\x1b[2J\x1b]0;mine\x07a" in out
    assert out.endswith("\nb\\x9b1Ac\n")


def test_several_keys_are_corrected_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other").write_text(Secret.simulated(2).raw.hex())
    alone, _, _ = found(capsys, folder)
    both, _, _ = found(capsys, folder, "--key", str(folder / "other"))
    assert both["key"] == ME.fingerprint
    assert both["log10_p"] == pytest.approx(float(best_of_log10_p(alone["log10_p"], 2)))
    for more in ([], ["--key", str(folder / "other")]):
        assert call(folder, "--html", str(folder / "page.html"), *more) == 0
        for shown in (capsys.readouterr().out, (folder / "page.html").read_text().partition("<table>")[2]):
            assert (ME.fingerprint in shown) == ("best key" in shown) == bool(more)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (Cyclic(payload="2a", width=2), "2a"),
        (Cyclic(width=2), ""),
        (Mpac(payload="be", delta=30.0), "bebe"),
        (Mpac(payload="bebe", delta=30.0, places=9), "bebe80"),
        (Mpac(delta=30.0), ""),
        (Mpac(payload="beef" * 4, delta=30.0, places=16, symbol_bits=4), "beef" * 4),
    ],
)
def test_the_owners_payload_is_shown_and_not_its_pad(
    scheme: SamplingMark, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing where there is none, or no mark."""
    (folder / "card.json").write_text(Card.of(scheme, ME, V).text())
    with (folder / "texts.jsonl").open("a") as file:
        file.write(json.dumps({"ids": written(scheme, 250)}) + "\n")
    _, nobodys, mine, _ = found(capsys, folder)
    assert mine["message"] == message
    assert nobodys["log10_p"] > -2
    assert call(folder, "--html", str(folder / "page.html")) == 0
    for shown in (capsys.readouterr().out, (folder / "page.html").read_text()):
        assert ("message" in shown) == bool(message)
        assert message[:8] in shown


def test_the_page_needs_nothing_else(folder: Path) -> None:
    with (folder / "texts.jsonl").open("a") as file:
        file.write(json.dumps({"text": "w1 <script>alert(1)</script> w2"}) + "\n")
    assert call(folder, "--html", str(folder / "page.html")) == 0
    text = (folder / "page.html").read_text()
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text
    assert "<script" not in text
    assert "http://" not in text.replace("https://", "http://")
    assert text.count('class="t4"') > 20


def test_a_marked_passage_is_found_in_a_text_of_nobodys(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its place: 60 marked ids after 300 of nobody's; p of the stretch is that of the best of so many."""
    draw = torch.Generator().manual_seed(2)
    before = torch.randint(0, V, (300,), generator=draw).tolist()
    texts(json.dumps({"ids": before + written(Kgw(delta=4.0), 60)}))(folder)
    whole, part = found(capsys, folder, "--span", "60")
    assert whole["span"] is None
    assert part["span"] == [300, 360]
    assert part["log10_p"] < -6
    texts(json.dumps({"ids": before}))(folder)
    _, part = found(capsys, folder, "--span", "60")
    assert part["log10_p"] > -2


def test_a_stretch_that_quotes_a_marked_prompt_is_no_evidence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = torch.Generator().manual_seed(3)
    prompt, plain = written(Kgw(delta=4.0), 121), torch.randint(0, V, (120,), generator=draw).tolist()
    ids = prompt + plain[:60] + prompt[30:100] + plain[60:]
    texts(json.dumps({"ids": ids, "prompt": len(prompt)}))(folder)
    whole, part = found(capsys, folder, "--span", "60")
    assert whole["log10_p"] > -2
    assert part["log10_p"] > -2


LLM = CONF / "watermark" / "llm"
OTHERS: dict[str, Any] = {
    "compat/transformers_kgw": 15_485_863,
    "compat/transformers_synthid": [654, 400, 836],
    "compat/vllm_gumbel": 77,
}
READERS = sorted(p.stem for p in LLM.glob("*.yaml") if "prf" in yaml.safe_load(p.read_text()))


@pytest.mark.parametrize("name", [*READERS, *OTHERS])
def test_stretches_share_out_what_counts_in_the_whole_text(name: str) -> None:
    """Disjoint ones together count every position once, and the stretch that is the whole text says what that says."""
    scheme: Any = built(yaml.safe_load((LLM / f"{name}.yaml").read_text()), name)
    key = OTHERS.get(name, ME)
    ids = torch.randint(1, 150, (150,), generator=torch.Generator().manual_seed(5)).tolist()
    ids, prompt = ids + ids[20:60] + ids[100:130], 0 if isinstance(scheme, VllmGumbel) else 50
    whole = Texts.of([ids], [prompt])
    _, counted_1T = scheme.terms(whole, key, V)
    starts, size = list(range(prompt, len(ids), 30)), len(ids) - prompt
    expected = scheme.examine(whole, [key], V)
    parts = whole.stretches(counted_1T, starts, 30, scheme.width)
    assert scheme.examine(parts, [key], V).scored.sum() == expected.scored[0, 0] > 10
    alone = whole.stretches(counted_1T, [prompt], size, scheme.width)
    assert scheme.examine(alone, [key], V).log10_p[0, 0] == pytest.approx(expected.log10_p[0, 0])


@pytest.mark.parametrize("name", [*READERS, *OTHERS])
def test_a_card_asks_for_no_endless_work(name: str) -> None:
    """Every whole number that a detector reads has a bound."""
    card = Card.of(built(yaml.safe_load((LLM / f"{name}.yaml").read_text()), name), OTHERS.get(name, ME), V)
    assert type(scheme_of(card)).scheme == card.scheme
    for field, value in card.settings.items():
        if type(value) is int and field not in ("lessons", "epochs"):  # of training
            with pytest.raises(ConfigError, match=rf"^card\.{field}: "):
                scheme_of(replace(card, settings={**card.settings, field: 2**70}))


Change = Callable[[Path], object]


def card_with(**changed: Any) -> Change:
    def change(folder: Path) -> None:
        content = {**json.loads((folder / "card.json").read_text()), **changed}
        kept = {name: value for name, value in content.items() if value is not None}
        (folder / "card.json").write_text(json.dumps(kept))

    return change


def texts(content: str) -> Change:
    return lambda folder: (folder / "texts.jsonl").write_text(content)


BAD: dict[str, tuple[Change, str]] = {
    "an id of another vocabulary": (
        texts('{"ids": [1, 2, 300]}'),
        "vocabulary: the card says 300 ids, got id 300",
    ),
    "a text shorter than the window": (texts('{"ids": [1]}'), "set --short"),
    "a prompt longer than the text": (texts('{"ids": [1, 2], "prompt": 3}'), "expected a prompt of 0 to 2"),
    "nothing": (texts("\n"), "is empty"),
    "no JSON": (texts('{"ids": [1, 2'), "line 1: no JSON"),
    "neither text nor ids": (texts('{"words": 3}'), 'expected an object with "text" or "ids"'),
    "a list for a text": (texts('{"text": ["w1"]}'), """line 1: expected "text" as a string, got ['w1']"""),
    "an object for a text": (texts('{"text": {"a": 1}}'), "got {'a': 1}"),
    "null for a text": (texts('{"text": null}'), "got None"),
    "half a character": (texts('{"text": "w1 \\ud800"}'), "line 1: the text holds half a character"),
    "words for ids": (texts('{"ids": ["a"]}'), "list of whole numbers"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "set --tokenizer=FOLDER"),
    "another tokenizer": (card_with(tokenizer="0123"), "tokenizer: the card says '0123'"),
    "another key": (card_with(key_id="0123"), "key_id: the card says 0123"),
    "no key": (lambda f: (f / "key").write_text("c0ffee"), "is no key of kgw"),
    "a card without gamma": (card_with(gamma=None), "gamma: missing in the card"),
    "a card with more": (card_with(colour="red"), "colour: unknown for kgw"),
    "another version": (card_with(prf="philox4x32-10-v2"), "prf: the card says 'philox4x32-10-v2'"),
    "another scheme": (card_with(scheme="kgv"), "scheme: the card says 'kgv'"),
    "a share of 2": (card_with(gamma=2.0), "gamma"),
    "a vocabulary in words": (card_with(vocabulary="many"), "vocabulary: expected a int"),
    "no vocabulary": (card_with(vocabulary=0), "vocabulary: expected 1 to 4194304"),
    "a vocabulary of 17 GB": (card_with(vocabulary=2**31 - 1), "vocabulary: expected 1 to 4194304"),
    "a setting to be built": (card_with(gamma={"_target_": "this.it"}), "gamma: expected a number or a word"),
    "a setting of a thousand lists": (
        lambda f: (f / "card.json").write_text(
            Card.of(Kgw(), ME, V).text().replace("0.25", "[" * 900 + "]" * 900)
        ),
        "gamma: expected a number or a word",
    ),
    "a deep card": (lambda f: (f / "card.json").write_text("[" * 200_000), "card.json is no JSON"),
    "a deep text": (texts("[" * 200_000), "line 1: no JSON"),
    "another alphabet": (lambda f: (f / "texts.jsonl").write_bytes(b'{"text": "\xe4"}'), "is not in UTF-8"),
    "another file": (lambda f: (f / "card.json").write_text("[]"), "is no card"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = BAD[what]
    change(folder)
    assert call(folder) == 2
    complaint = " ".join(capsys.readouterr().err.split())
    assert message in complaint
    assert "Traceback" not in complaint


BAD_OTHERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], str]] = {
    "a name of another library": (VllmGumbel(), {}, {"hashing_key": 5}, "expected JSON with 'key'"),
    "a key that is no whole number": (VllmGumbel(), {}, {"key": 1.5}, "expected JSON with 'key'"),
    "a negative key": (VllmGumbel(), {}, {"key": -1}, "expected JSON with 'key'"),
    "a key of more than 63 bits": (TransformersKgw(), {}, {"hashing_key": 2**63}, "from 0 to"),
    "one key for layers": (TransformersSynthId(), {}, {"keys": 5}, "expected JSON with 'keys'"),
    "a share too small": (VllmGumbel(), {"alpha": 0.001}, {"key": 5}, "alpha: expected"),
    "a table that no key shifts": (
        TransformersSynthId(),
        {"sampling_table_size": 1000},
        {"keys": [5]},
        "sampling_table_size: expected a power of two",
    ),
}


@pytest.mark.parametrize("what", BAD_OTHERS)
def test_bad_cards_and_keys_of_others_are_named(
    what: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheme, settings, key, message = BAD_OTHERS[what]
    found = next(iter(key.values()))
    (folder / "card.json").write_text(Card.of(scheme, found, V).text())
    card_with(**settings)(folder)
    (folder / "key").write_text(json.dumps(key))
    assert call(folder) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_deep_key_of_others_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "card.json").write_text(Card.of(VllmGumbel(), 5, V).text())
    (folder / "key").write_text("[" * 200_000)
    assert call(folder) == 2
    assert "expected JSON with 'key'" in " ".join(capsys.readouterr().err.split())


def test_a_line_ends_where_jsonl_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not at U+2028 or U+0085, which JSON leaves as they are."""
    texts('{"text": "w1\u2028w2\u0085w3"}\r\n{"ids": [1, 2, 3]}\r\n')(folder)
    one, two, _ = found(capsys, folder)
    assert (one["tokens"], two["tokens"]) == (3, 3)


def test_a_text_is_read_with_its_own_ends_of_lines(folder: Path) -> None:
    (folder / "text.txt").write_bytes(b"w1\r\nw2\rw3\n")
    assert read_text(folder / "text.txt", "a text") == "w1\r\nw2\rw3\n"


def test_short_texts_get_p_1_where_that_is_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts('{"ids": [1]}\n{"ids": [1, 2, 3]}\n')(folder)
    short, _, _ = found(capsys, folder, "--short")
    assert (short["log10_p"], short["statistic"]) == (0, None)


def test_a_tokenizer_neither_cuts_nor_fills_texts(folder: Path) -> None:
    """As it does in a file that is saved after such a use; its hash is that of the file without."""
    other = folder / "used"
    other.mkdir()
    used = Tokenizer.from_file(str(copy(folder / "tokenizer.json", other)))
    plain = used.to_str()
    used.enable_truncation(16)
    used.enable_padding(length=64)
    used.save(str(other / "tokenizer.json"))
    assert len(of_folder(other).encode(["w1 " * 20])[0]) == 20
    assert len(of_folder(other).encode(["w1 " * 5])[0]) == 5
    assert of_folder(other).hash == of_folder(folder).hash == hashlib.sha256(plain.encode()).hexdigest()[:16]


@pytest.mark.parametrize("words", [["--fpr", "2"], ["gamma=3"]])
def test_bad_options_are_named(words: list[str], folder: Path) -> None:
    assert call(folder, *words) == 2


def test_other_libraries_cards_are_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = Card.of(VllmGumbel(), 12345, V)
    assert card.key_id == key_id(12345)
    (folder / "card.json").write_text(card.text())
    (folder / "key").write_text('{"key": 12345}')
    rows = found(capsys, folder)
    assert rows[0]["scored"] == 60
    assert min(row["log10_p"] for row in rows) > -3
