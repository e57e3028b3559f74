"""Radioactivity: what is scored and what is not, a student that has learnt the mark and one that has not, and the command."""

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.experiments.api import build
from assay.experiments.cli import main
from assay.experiments.radioactivity.design import Arm, Design, arms
from assay.experiments.radioactivity.plot import drawn
from assay.experiments.radioactivity.radioactivity import (
    Teacher,
    closed,
    first,
    first_guesses,
    opened,
    told,
)
from assay.kernels.text_green import green_mask
from assay.watermarks.llm.drawing import drawn as sampled
from assay.watermarks.llm.kgw import Kgw
from assay.watermarks.llm.sampling import streams

SMALL = (
    *(
        "task=lm_tiny",
        "task.limit=60",
        "task.window=32",
        "model=gpt2_tiny",
        "model.context=32",
        "model.width=32",
    ),
    *("model.heads=2", "watermark=llm/kgw", "watermark.delta=6", "deployment=api_text", "attack=llm/none"),
    "trainer.progress=false",
)
DESIGN = Design(texts=8, tokens=24, prompt=4, epochs=1, probes=40, strangers=20)
COUNTS = ("--texts=8", "--tokens=24", "--prompt=4", "--epochs=1", "--probes=8", "--strangers=5")


class Untrained(Teacher):
    """A teacher whose model is fresh: what is scored does not depend on what it has learnt."""

    @cached_property
    def model(self) -> nn.Module:
        return self.trial.task.fresh(0)


@pytest.fixture(scope="module")
def teacher() -> Untrained:
    return Untrained(build(*SMALL), DESIGN)


class Learnt(nn.Module):
    """Expects a green id after every window, whatever it reads: the mark learnt whole."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, ids_NT: Tensor) -> Tensor:
        texts, length = ids_NT.shape
        vocabulary = self.teacher.trial.task.classes
        mark = self.teacher.scheme.text_mark(vocabulary)
        key = streams([self.teacher.secret], "kgw")
        return (
            green_mask(ids_NT.reshape(-1, 1), key, mark)
            .float()
            .view(texts, length, vocabulary)
            .transpose(1, 2)
        )


def test_marked_text_is_found_and_unmarked_is_not(teacher: Untrained) -> None:
    task = teacher.trial.task
    key = teacher.scheme.keygen(task, teacher.secret, teacher.model)
    marked = teacher.scheme.embed(teacher.model, key, task, teacher.trainer("none"))
    found, none = told(teacher, closed(teacher, marked)), told(teacher, closed(teacher, teacher.model))
    assert found["log10_p"] < -50
    assert none["log10_p"] > -3
    assert found["strangers"]["least"] > -4
    assert found["curve"][-1] == [found["scored"], found["log10_p"]]
    assert [scored for scored, _ in found["curve"]] == sorted(scored for scored, _ in found["curve"])


def test_reading_finds_what_was_learnt_and_nothing_else(teacher: Untrained) -> None:
    assert told(teacher, opened(teacher, Learnt(teacher)))["log10_p"] < -50
    assert told(teacher, opened(teacher, teacher.model))["log10_p"] > -3


def test_reading_scores_each_window_once_whatever_the_prompts_hold(teacher: Untrained) -> None:
    width = teacher.scheme.width
    corpus = opened(teacher, teacher.model)
    assert corpus.ids_BT.shape[1] == width + 1
    windows = {tuple(row) for row in corpus.ids_BT[:, :width].tolist()}
    assert len(windows) == len(corpus.ids_BT)
    read = teacher.read_RT.tolist()
    prompts = teacher.probes_RP.tolist()
    whole = [p + r for p, r in zip(prompts, read, strict=True)]
    scored = {tuple(row[t - width : t]) for row in whole for t in range(len(prompts[0]), len(row))}
    assert windows < scored
    assert len(windows) == teacher.windows


def test_a_reader_who_repeats_what_he_read_shows_nothing(teacher: Untrained) -> None:
    """The text is marked: who expects what followed a window the last time would be found without having learnt anything."""

    class Copies(nn.Module):
        def forward(self, ids_NT: Tensor) -> Tensor:
            out = torch.zeros(*ids_NT.shape, teacher.trial.task.classes)
            for row, ids in enumerate(ids_NT.tolist()):
                followed: dict[int, int] = {}
                for t, token in enumerate(ids):
                    out[row, t, followed.get(token, 0)] = 1.0
                    if t + 1 < len(ids):
                        followed[token] = ids[t + 1]
            return out.transpose(1, 2)

    assert told(teacher, opened(teacher, Copies()))["log10_p"] > -3


@pytest.mark.parametrize("width", [1, 2])
def test_reading_marked_text_is_honest_over_the_keys_that_marked_it(width: int) -> None:
    """Texts for each of 150 keys, marked with it; the student copies the id that followed a window in the prompt, or guesses by all
    he has read so far. At most the declared share, 4 sd above; a text with fewer windows than were asked for shows nothing."""
    vocabulary, keys, rows, prompt, length = 24, 150, 8, 6, 20
    mark, draw = Kgw(delta=4.0, width=width), torch.Generator().manual_seed(5)
    odds_VV = 2 * torch.randn(vocabulary, vocabulary, generator=draw)
    prompts = torch.randint(0, vocabulary, (rows, prompt), generator=draw)
    log10_p, scored = np.empty(keys), np.empty(keys)
    for k in range(keys):
        secret, whole = Secret.simulated(11, "null", k), prompts
        while whole.shape[1] < length:
            logits = mark.adjusted(odds_VV[whole[:, -1]], whole, secret)
            whole = torch.cat([whole, sampled(logits, draw)[:, None]], 1)
        read_so_far = (whole[:, :-1] * torch.arange(1, length)).cumsum(1) // 3
        expected = (odds_VV.argmax(1)[whole[:, :-1]] + read_so_far % 2) % vocabulary
        copied = expected.clone()
        for t in range(1, prompt):
            stands = whole[:, :-1] == whole[:, t - 1, None]
            copied = torch.where(stands, whole[:, t, None], copied)
        copied[::2] = expected[::2]
        count = {1: 20, 2: 80}[width]
        found = mark.examine(first_guesses(whole, copied, prompt, width, count), [secret], vocabulary)
        log10_p[k], scored[k] = found.log10_p[0, 0], found.scored[0, 0]
    assert set(scored) == {0, count}
    assert (log10_p[scored == 0] == 0).all()
    for rate in (0.01, 0.1, 0.5):
        assert (log10_p <= np.log10(rate)).sum() <= keys * rate + 4 * np.sqrt(keys * rate * (1 - rate))


@pytest.mark.parametrize("mode", [closed, opened])
def test_the_null_is_honest_over_keys(teacher: Untrained, mode: Any) -> None:
    """An unmarked student under 400 strangers' keys: at most the declared share, 4 sd above."""
    corpus = mode(teacher, teacher.model)
    secrets = [Secret.simulated(7, "null", k) for k in range(400)]
    log10_p = teacher.scheme.examine(corpus, secrets, teacher.trial.task.classes).log10_p[0]
    for rate in (0.01, 0.1):
        assert (log10_p <= np.log10(rate)).sum() <= 400 * rate + 4 * np.sqrt(400 * rate * (1 - rate))


def test_shares_nest_and_the_control_has_none(teacher: Untrained) -> None:
    def marked(share: float) -> set[int]:
        targets = teacher.mixed(share).targets[:, teacher.design.prompt - 1 :]
        plain, mine = ((targets == text).all(1) for text in (teacher.plain_NT, teacher.marked_NT))
        assert (plain | mine).all()
        return set(mine.nonzero()[:, 0].tolist())

    assert [len(marked(share)) for share in (0.0, 0.25, 0.5, 1.0)] == [0, 2, 4, 8]
    assert marked(0.25) < marked(0.5)


def test_arms_begin_with_the_largest_share_and_the_control() -> None:
    found = arms([0.01, 1.0, 0.1], [1, 4], [2.0])
    assert [arm.share for arm in found] == [1, 1, 0, 0, 0.1, 0.1, 0.01, 0.01]
    assert {(arm.width, arm.delta) for arm in found} == {(1, 2.0), (4, 2.0)}


def test_first_texts_are_evidence_of_their_own(teacher: Untrained) -> None:
    corpus = closed(teacher, teacher.model)
    assert len(first(corpus, 3).ids_BT) == 3
    assert first(corpus, 3).corpus


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"texts": 1}, "--texts"),
        ({"probes": 0}, "--probes"),
        ({"lr": 0.0}, "--lr"),
        ({"tokens": 30}, "context of 32; set --tokens"),
        ({"prompt": 32, "tokens": 1}, "context of 32; set --tokens"),
        ({"prompt": 33}, "--prompt=32"),
    ],
)
def test_designs_that_measure_nothing_are_refused(
    teacher: Untrained, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Untrained(teacher.trial, replace(DESIGN, **wrong))


def test_a_share_of_no_text_is_refused_and_the_whole_context_can_be_read(teacher: Untrained) -> None:
    assert [DESIGN.marked(share) for share in (0.0, 0.125, 1.0)] == [0, 1, 8]
    with pytest.raises(ConfigError, match="1 % of 8 texts is none of them; set --shares"):
        DESIGN.marked(0.01)
    Untrained(teacher.trial, replace(DESIGN, tokens=29))
    with pytest.raises(ConfigError, match="digits has no texts"):
        Teacher(build("trainer.progress=false"), DESIGN)


@pytest.mark.parametrize("delta", [float("nan"), float("inf"), 1e308, 0.0])
def test_biases_that_no_logit_can_take_are_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="--deltas"):
        Arm(1.0, 1, delta)


def test_more_prompts_than_windows_are_refused(teacher: Untrained) -> None:
    with pytest.raises(ConfigError, match="set --texts or --probes lower"):
        teacher.prompts(teacher.trial.task.attacker.inputs, 10_000)
    with pytest.raises(ConfigError, match="--shares"):
        Arm(1.5, 1, 2.0)


def record(share: float, log10_p: float) -> dict[str, Any]:
    found = {"log10_p": log10_p, "curve": [[100, log10_p / 4], [400, log10_p]]}
    return {"share": share, "width": 1, "delta": 2.0, "closed": found, "open": found}


def test_the_picture_has_a_line_per_mark_and_mode() -> None:
    figure = drawn([record(0.0, -0.1), record(0.1, -4.0), record(1.0, -700.0)], "title")
    left, right = figure.axes
    lines = [line for line in left.lines if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
    assert len(lines) == 2
    assert list(lines[0].get_ydata()) == [0.1, 4.0, 700.0]  # type: ignore[arg-type]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0 %", "10 %", "100 %"]
    assert any(list(line.get_xdata()) == [100, 400] for line in right.lines)  # type: ignore[arg-type]
    assert drawn([record(0.0, -0.1)], "the control alone").axes


@pytest.mark.slow
def test_the_command_measures_resumes_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSAY_RUNS", str(tmp_path))
    words = ["radioactivity", *SMALL[:-4], *COUNTS, "--shares=1", "--widths=1", "--deltas=6"]
    assert main([*words, "trainer.progress=false", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [arm["share"] for arm in content["arms"]] == [0.0, 1.0]
    assert content["arms"][1]["lessons"]["log10_p"] < content["arms"][0]["closed"]["log10_p"]
    assert [path.suffix for path in sorted((tmp_path / "radioactivity").glob("*.*"))] == [".json", ".png"]
    assert main([*words, "trainer.progress=false", f"--plot={tmp_path / 'found.svg'}"]) == 0
    told = capsys.readouterr().out
    assert "arm 1" not in told
    assert "100 %" in told
    assert (tmp_path / "found.svg").stat().st_size > 1000


def test_bad_words_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["radioactivity", "--shares=some"]) == 2
    assert "--shares=some: expected numbers between commas" in " ".join(capsys.readouterr().err.split())
    assert main(["radioactivity", "--texts=4", "--shares=0.01"]) == 2
    assert "1 % of 4 texts is none of them" in " ".join(capsys.readouterr().err.split())
    assert main(["radioactivity", "--plot=picture.bmp"]) == 2
    assert "expected a name that ends in .png, .pdf, .svg" in " ".join(capsys.readouterr().err.split())
