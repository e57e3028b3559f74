"""Edits of ids, characters and words: what they change, how much of it, and that share 0 changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from assay.attacks.llm.characters import LIKE, NO_BREAK, NO_WIDTH, homoglyphs, spaces, zero_width
from assay.attacks.llm.edit import EDITS
from assay.attacks.llm.edits import deleted, inserted, pasted, swapped, truncated
from assay.attacks.llm.wordnet import replaced, synonyms, wordnet
from assay.core.errors import ConfigError

TEXTS = torch.arange(6 * 40).view(6, 40)
SENTENCE = "In the beginning God created the heaven and the earth. And the earth was without form."
FOLDER = "/usr/share/wordnet"
needs_wordnet = pytest.mark.skipif(not Path(FOLDER).is_dir(), reason="apt install wordnet-base")


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", EDITS)
def test_edits_of_ids_are_seeded_and_leave_their_input(name: str) -> None:
    before = TEXTS.clone()
    one, same, other = (EDITS[name](TEXTS, 0.3, drawing(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one, other) == (name == "truncate")
    assert torch.equal(TEXTS, before)
    assert not torch.equal(one, TEXTS)
    assert torch.equal(EDITS[name](TEXTS, 0.0, drawing()), TEXTS)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
def test_deleting_keeps_the_order_of_what_is_left(share: float) -> None:
    out = deleted(TEXTS, share, drawing())
    assert out.shape == (6, 40 - round(40 * share))
    for row, text in zip(out.tolist(), TEXTS.tolist(), strict=True):
        assert row == sorted(set(row) & set(text))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_inserting_keeps_the_text_in_order_around_what_comes_in(share: float) -> None:
    out = inserted(TEXTS, share, drawing(3))
    assert out.shape == TEXTS.shape
    for row, text in zip(out.tolist(), TEXTS.tolist(), strict=True):
        place = 0
        for token in row:  # a subsequence that begins at the text's beginning
            place += place < 40 and token == text[place]
        assert place >= 40 - round(40 * share)
        assert set(row) <= set(TEXTS.flatten().tolist())


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_swapping_moves_the_share_it_says_by_one_place(share: float) -> None:
    out = swapped(TEXTS, share, drawing())
    assert torch.equal(out.sort(1).values, TEXTS)
    moved = (out - TEXTS).abs()
    assert set(moved.flatten().tolist()) <= {0, 1}
    assert moved.sum(1).tolist() == [2 * round(share * 20)] * 6


def test_truncating_keeps_the_beginning() -> None:
    assert torch.equal(truncated(TEXTS, 0.75, drawing()), TEXTS[:, :10])


@pytest.mark.parametrize("pieces", [1, 3, 50])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_pasting_makes_a_document_of_both(share: float, pieces: int) -> None:
    clean = -1 - TEXTS
    out = pasted(TEXTS, clean, share, pieces, drawing())
    mine = out >= 0
    kept = 40 - round(40 * share)
    assert mine.sum(1).tolist() == [kept] * 6
    assert torch.equal(out[~mine], clean[~mine])
    for row, text in zip(out.tolist(), TEXTS.tolist(), strict=True):
        assert [token for token in row if token >= 0] == text[:kept]
        runs = sum(a >= 0 > b for a, b in zip(row, [*row[1:], -1], strict=True))
        assert runs <= min(pieces, max(kept, 1))
    if 0 < share < 1 and pieces == 3:
        assert len({tuple(row) for row in mine.tolist()}) > 1


def test_pasting_wants_as_much_clean_text_as_there_is_text() -> None:
    with pytest.raises(ValueError, match=r"\(6, 40\), got \(6, 39\)"):
        pasted(TEXTS, TEXTS[:, :39], 0.5, 3, drawing())


def test_characters_look_the_same_and_are_not() -> None:
    eligible = sum(c in LIKE for c in SENTENCE)
    for share in (0.0, 0.3, 1.0):
        out = homoglyphs(SENTENCE, share, drawing())
        assert len(out) == len(SENTENCE)
        assert sum(a != b for a, b in zip(out, SENTENCE, strict=True)) == round(share * eligible)
    back = {double: letter for letter, double in LIKE.items()}
    assert "".join(back.get(c, c) for c in homoglyphs(SENTENCE, 0.5, drawing())) == SENTENCE
    assert zero_width(SENTENCE, 0.5, drawing()).replace(NO_WIDTH, "") == SENTENCE
    assert spaces(SENTENCE, 1.0, drawing()) == SENTENCE.replace(" ", NO_BREAK)
    assert zero_width("", 1.0, drawing()) == homoglyphs("", 1.0, drawing()) == ""


@needs_wordnet
def test_synonyms_are_wordnets() -> None:
    net = wordnet(FOLDER)
    assert synonyms("begin", net) == ["get", "start", "commence"]
    assert synonyms("Quickly", net) == ["rapidly", "speedily", "apace"]
    assert synonyms("created", net) == synonyms("xyzzy", net) == []
    assert replaced(SENTENCE, 0.0, net, drawing()) == SENTENCE
    one, same = (replaced(SENTENCE, 1.0, net, drawing(5)) for _ in range(2))
    assert one == same != SENTENCE
    assert "earth" not in one
    assert [a.isalpha() for a in one.split()] == [a.isalpha() for a in SENTENCE.split()]
    assert replaced("Earth", 1.0, net, drawing()) in ("World", "Globe")


def test_without_wordnet_the_error_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"apt install wordnet-base, or set attack\.wordnet=FOLDER"):
        wordnet(str(tmp_path / "nowhere"))


def as_set(rows: Tensor) -> set[int]:
    return set(rows.flatten().tolist())


def test_what_is_inserted_comes_from_all_texts() -> None:
    strange = as_set(inserted(TEXTS[:1].repeat(50, 1) + 1000 * torch.arange(50)[:, None], 0.5, drawing())[0])
    assert max(strange) >= 1000
