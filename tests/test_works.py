"""Works that are known again: texts and their excerpts, pictures, videos, sounds, tables of labels, and how near strangers come."""

import json
import math
import shutil
import sqlite3
import sys
import wave
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from numpy.typing import NDArray
from PIL import Image

from assay.core.errors import ConfigError
from assay.evidence import works_audio, works_image, works_text
from assay.evidence.registry import Print, Registry
from assay.evidence.works import KINDS, METRICS
from assay.experiments.cli import main
from assay.experiments.works.read import read

WORDS = [f"{a}{b}" for a in ("ba", "ce", "di", "fo", "gu", "ha", "jo") for b in ("l", "mn", "rt", "st", "v")]
needs_fpcalc = pytest.mark.skipif(shutil.which("fpcalc") is None, reason="fpcalc is not installed")


def prose(seed: int, count: int = 400) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def photograph(number: int) -> NDArray[np.uint8]:
    """One of twelve parts of the two photographs in scikit-learn, (213, 213, 3)."""
    path = Path(sklearn.__file__).parent / "datasets" / "images" / ("china.jpg", "flower.jpg")[number // 6]
    y, x = 213 * (number % 2), 213 * (number // 2 % 3)
    return np.asarray(Image.open(path).convert("RGB"))[y : y + 213, x : x + 213]


def melody(path: Path, seed: int, start: float = 0, seconds: float = 12, noise: float = 0) -> Path:
    """Chords of three tones, four a second, at 11 kHz."""
    rng, rate = np.random.default_rng(seed), 11025
    tones = 220 * 2 ** (rng.integers(0, 36, (80, 3)) / 12)
    time = np.arange(int(20 * rate)) / rate
    chord = tones[np.minimum((time * 4).astype(int), 79)]
    sound = np.sin(2 * np.pi * np.cumsum(chord, 0) / rate).sum(1) / 4
    sound = sound[int(start * rate) : int((start + seconds) * rate)]
    sound = sound + noise * rng.standard_normal(len(sound))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound.clip(-1, 1) * 20000).astype("<i2").tobytes())
    return path


def test_an_excerpt_is_contained_and_another_text_is_not() -> None:
    whole, other = works_text.fingerprint(prose(0)), works_text.fingerprint(prose(1))
    excerpt = works_text.fingerprint(" ".join(prose(0).split()[100:200]))
    assert works_text.containment(excerpt, whole) == 1
    assert works_text.distance(excerpt, whole) == works_text.distance(whole, excerpt) == 0
    assert works_text.distance(excerpt, other) == 1


def test_containment_estimates_the_share_of_runs() -> None:
    mixed = " ".join(prose(2, 4000).split()[:1000] + prose(3, 4000).split()[:3000])
    found = works_text.containment(works_text.fingerprint(mixed), works_text.fingerprint(prose(2, 4000)))
    assert found == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 1000))


def test_case_and_typesetting_do_not_count() -> None:
    assert works_text.fingerprint("The  quick,\nBrown\tfox \u2014 jumps; over") == works_text.fingerprint(
        "the quick brown fox jumps over!"
    )
    with pytest.raises(ConfigError, match="at least 5 words, got 2"):
        works_text.fingerprint("Too short")


def test_tables_of_labels_by_their_rows() -> None:
    rows = [(str(i), str(i % 10)) for i in range(200)]
    table = works_text.table_fingerprint(rows)
    forged = works_text.table_fingerprint([*rows[:150], *((name, "x") for name, _ in rows[150:])])
    assert works_text.distance(table, works_text.table_fingerprint(rows[:50])) == 0
    assert works_text.distance(table, forged) == 0.25


def test_pictures_under_the_eight_symmetries_and_another_format(tmp_path: Path) -> None:
    pytest.importorskip("pdqhash")
    picture = photograph(0)
    own = works_image.fingerprint(picture)
    for turned in (picture[::-1], picture[:, ::-1], np.rot90(picture), picture.transpose(1, 0, 2)):
        assert works_image.distance(works_image.fingerprint(turned), own) <= 31 / 256  # PDQ's own bound
    Image.fromarray(picture).resize((150, 150)).save(tmp_path / "copy.jpg", quality=50)
    copy = read(tmp_path / "copy.jpg").print.content
    assert works_image.distance(copy, own) < 0.1
    others = [works_image.fingerprint(photograph(seed)) for seed in range(1, 12)]
    assert works_image.distances([own, copy], others).shape == (2, 11)
    assert works_image.distances([own, copy], others).min() > 0.3


def test_videos_are_found_by_a_part_and_in_a_whole() -> None:
    pytest.importorskip("pdqhash")
    one, other = ([photograph(seed) for seed in part] for part in (range(6), range(6, 12)))
    work = works_image.video_fingerprint(one)
    assert works_image.video_distance(works_image.video_fingerprint(one[2:5]), work) == 0
    assert works_image.video_distance(works_image.video_fingerprint(one + other), work) == 0
    assert works_image.video_distance(works_image.video_fingerprint(one, every=2), work) == 0
    assert works_image.video_distance(works_image.video_fingerprint(other), work) > 0.3


@needs_fpcalc
def test_sounds_by_their_bit_error_rate(tmp_path: Path) -> None:
    work = works_audio.fingerprint(melody(tmp_path / "work.wav", 0, seconds=16))
    noisy = works_audio.fingerprint(melody(tmp_path / "noisy.wav", 0, noise=0.02, seconds=16))
    part = works_audio.fingerprint(melody(tmp_path / "part.wav", 0, start=4.96, seconds=8))
    other = works_audio.fingerprint(melody(tmp_path / "other.wav", 1, seconds=16))
    assert works_audio.distance(work, work) == 0
    assert works_audio.distance(noisy, work) < 0.2
    assert works_audio.distance(part, work) < 0.25
    assert works_audio.distance(other, work) > 0.3


def test_bit_error_rate_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**32, 100, dtype=np.uint32)
    query = words[30:70].copy()
    query[3] ^= np.uint32(0b1011)
    found = works_audio.distance(query.astype("<u4").tobytes(), words.astype("<u4").tobytes())
    assert found == 3 / (32 * 40)


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="libchromaprint-tools"):
        works_audio.fingerprint(tmp_path / "a.wav")
    monkeypatch.setitem(sys.modules, "pdqhash", None)
    with pytest.raises(ConfigError, match="extra `dna`"):
        works_image.fingerprint(np.zeros((8, 8, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["works", "find", *words, "--registry", "works", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_add_and_find(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(23):
        (folder / f"{seed}.txt").write_text(prose(seed))
        role = ["--stranger"] if seed >= 4 else ["--title", f"work {seed}"]
        assert main(["works", "add", f"{seed}.txt", "--registry", "works", *role]) == 0
    capsys.readouterr()
    (folder / "excerpt.txt").write_text("Preface. " + " ".join(prose(2).split()[50:150]))
    found = told(capsys, "excerpt.txt", "--fpr", "0.05")
    assert found["found"] is True
    assert (found["matches"][0]["title"], found["strangers"], found["compared"]) == ("work 2", 19, 4)
    assert 10 ** found["matches"][0]["log10_p"] == pytest.approx(1 / 20)
    assert told(capsys, "excerpt.txt")["found"] is None  # 1 % takes 99 strangers
    (folder / "new.txt").write_text(prose(99))
    missed = told(capsys, "new.txt", "--fpr", "0.05")
    assert missed["found"] is False
    assert missed["sentence"].startswith("not found: the nearest of 4")
    (folder / "table.csv").write_text("1,a\n2,b\n")
    assert told(capsys, "table.csv")["sentence"] == "not found: the registry holds no work of this kind."
    assert main(["works", "find", "excerpt.txt", "--registry", "works"]) == 0
    assert "takes 99 strangers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "words", "said"),
    [
        ("a.txt", "one two", [], "at least 5 words"),
        ("a.bin", "x", [], "name it with --kind"),
        ("a.csv", "1,2,3", [], "got 3 cells"),
        ("a.csv", f"1,{'2' * 200_000}", [], "line 1: field larger"),
        ("a.png", "no picture", [], "is no picture"),
        ("a.txt", prose(0), ["--every", "0"], "--every of at least 1"),
        ("a.txt", prose(0), ["--kind", "poem"], "expected --kind text"),
        ("a.txt", prose(0), ["--fpr", "2"], "0 < --fpr < 1"),
        ("b.txt", None, [], "found nothing"),
    ],
)
def test_bad_input_is_explained(
    folder: Path,
    name: str,
    content: str | None,
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Registry(folder / "works", METRICS, create=True)
    if content is not None:
        (folder / name).write_text(content)
    assert main(["works", "find", name, "--registry", "works", *words]) == 2
    assert said in capsys.readouterr().err


def test_the_name_of_a_file_is_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "[red]\x1b[2K.txt").write_text(prose(0))
    assert main(["works", "add", "[red]\x1b[2K.txt", "--registry", "works"]) == 0
    assert "work 1: [red]\\x1b[2K.txt, text" in capsys.readouterr().out
    assert told(capsys, "[red]\x1b[2K.txt")["matches"][0]["title"] == "[red]\\x1b[2K.txt"


def test_no_registry_and_no_database(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.txt").write_text(prose(0))
    assert main(["works", "find", "a.txt", "--registry", "none"]) == 2
    assert "found none: add something" in capsys.readouterr().err
    assert not (folder / "none").exists()
    (folder / "bad").mkdir()
    (folder / "bad" / "registry.sqlite").write_text("this is not a database" * 100)
    assert main(["works", "find", "a.txt", "--registry", "bad"]) == 2
    assert "is no registry" in capsys.readouterr().err


def numbers(seed: int, count: int) -> list[Print]:
    rng = np.random.default_rng(seed)
    return [Print("number", "", rng.random().hex().encode()) for _ in range(count)]


def apart(queries: Any, entries: Any) -> Any:
    values = [np.array([float.fromhex(part.decode()) for part in side]) for side in (queries, entries)]
    return np.abs(values[0][:, None] - values[1])


def test_a_registrys_p_is_the_rank_among_strangers_in_any_order(tmp_path: Path) -> None:
    prints = numbers(0, 40)
    for order in (range(40), range(39, -1, -1)):
        registry = Registry(tmp_path / str(order[0]), {"number": apart}, create=True)
        for i in order:
            registry.add(str(i), str(i), [prints[i]], {}, stranger=i >= 10)
        values = [float.fromhex(one.content.decode()) for one in prints]
        nearest = [min(abs(v - w) for w in values[:10]) for v in values[10:]]
        query = 0.5
        found = registry.find(Print("number", "", query.hex().encode()), top=10)
        distances = sorted(abs(query - w) for w in values[:10])
        assert [match.distance for match in found.matches] == distances
        expected = [(1 + sum(n <= d for n in nearest)) / 31 for d in distances]
        assert [10**match.log10_p for match in found.matches] == pytest.approx(expected)


def test_a_registry_only_grows(tmp_path: Path) -> None:
    registry = Registry(tmp_path, {"number": apart}, create=True)
    first = registry.add("a", "first", numbers(0, 1), {"kind": "x"})
    assert registry.add("a", "again", numbers(1, 1), {}) == first
    with pytest.raises(ConfigError, match="cannot be both"):
        registry.add("a", "first", numbers(0, 1), {}, stranger=True)
    with pytest.raises(sqlite3.IntegrityError):  # one view twice: the whole entry is undone
        registry.add("b", "half", [*numbers(2, 1), Print("number", "", b"0x1p-1")], {}, stranger=True)
    assert registry.counts() == (1, 0)
    registry.add("s", "stranger", numbers(3, 1), {}, stranger=True)
    with closing(sqlite3.connect(registry.path)) as book:
        for change in ("DELETE FROM entries", "UPDATE prints SET view = 'x'", "DELETE FROM nearest"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                book.execute(change)


def test_every_kind_has_a_metric() -> None:
    assert METRICS.keys() == KINDS.keys()
