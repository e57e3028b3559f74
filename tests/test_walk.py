"""The walk of docs/walk.md, its commands as they stand there; and `key=`, by which a trial marks with a deposited key."""

import contextlib
import hashlib
import io
import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from safetensors.torch import load_file
from starlette.testclient import TestClient

from assay.core.errors import ConfigError
from assay.experiments import isolate, sweep
from assay.experiments.api import build
from assay.experiments.cli import main
from assay.experiments.config import composer
from assay.experiments.own_key import loaded
from assay.zoo.files import load_tensors

WALK = Path(__file__).resolve().parent.parent / "docs" / "walk.md"
SMALL = ["model=mlp", "task.recipe.epochs=8"]
MARK = {"watermark=adi_derived": ["watermark.per_batch=32"], "watermark=deepmarks": []}
BLACK = {"inputs": [[[[0.0] * 8] * 8]]}


@dataclass
class Walk:
    """The folder after the walk. said: what each command printed, by its first words."""

    folder: Path
    said: dict[str, str] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    answers: list[int] = field(default_factory=list)
    apps: list[Any] = field(default_factory=list)
    key: str = ""

    def __getitem__(self, start: str) -> str:
        (found,) = (text for line, text in self.said.items() if line.startswith(start))
        return found

    def assay(self, line: str) -> str:
        words = shlex.split(line)[1:]
        for mark in set(MARK) & set(words):
            words += [*SMALL, *MARK[mark]]
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            self.codes[line] = main(words)
        self.said[line] = told.getvalue()
        return told.getvalue()

    def ask(self) -> None:
        with TestClient(self.apps[-1]) as client:
            reply = client.post("/v1/labels", json=BLACK, headers={"Authorization": f"Bearer {self.key}"})
        self.answers.append(reply.status_code)

    def take(self, line: str) -> None:
        """One command of the page. The clone's file is named after how many queries were answered."""
        if "surrogate-" in line:
            numbers = [int(path.stem.partition("-")[2]) for path in Path("stolen").glob("surrogate-*")]
            line = re.sub(r"surrogate-\d+", f"surrogate-{max(numbers)}", line)
        if line.startswith("KEY="):
            self.key = self.assay(line.removeprefix("KEY=$(").removesuffix(")")).strip()
        elif line == "ask":
            self.ask()
        elif line.startswith("assay "):
            self.assay(line.removesuffix(" &"))


def commands() -> list[str]:
    found = re.findall(r"^\$ (.+?)(?: +# .*)?$", WALK.read_text(encoding="utf-8"), re.M)
    known = ("assay ", "KEY=$(assay ", "ask")
    assert all(line.startswith(known) for line in found), "this test knows no other words of a shell"
    return found


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Every command of the page, in one process and without a port."""
    made = Walk(tmp_path_factory.mktemp("walk"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        patch.setenv("ASSAY_RUNS", str(made.folder / "runs"))
        patch.setattr(sweep, "alone", isolate.perform)
        patch.setattr(uvicorn, "run", lambda app, **_: made.apps.append(app))
        for line in commands():
            made.take(line)
        yield made


def record(walk: Walk, attack: str) -> dict[str, Any]:
    (path,) = (walk.folder / "runs" / "records").glob(f"*-{attack}-*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.slow
def test_every_command_of_the_page_does_its_work(walk: Walk) -> None:
    assert len(walk.codes) > 25
    assert {line: code for line, code in walk.codes.items() if code} == {}
    assert "valid, given that" in walk["assay evidence verify bundle.zip"]
    assert walk.answers == [200, 403], "answered, then revoked"
    assert re.search(r"carol +1 +99 +no|carol +1 +99 +False", walk["assay serve status"])


@pytest.mark.slow
def test_the_insider_is_named_and_the_leak_is_traced(walk: Walk) -> None:
    named = walk["assay package trace"]
    assert "buyer 2" in named
    assert "buyer 1" not in named
    assert "consistent with a copy of marked: its mark is there" in walk["assay trace leaked"]
    clone = record(walk, "jbda")["deployment"]["clone"]
    assert ("its mark is there" in walk["assay trace stolen"]) == (clone["log10_p"] <= -2), "one key, at 1 %"


@pytest.mark.slow
def test_the_thief_is_measured_and_the_judge_says_what_holds(walk: Walk) -> None:
    stolen = record(walk, "jbda")
    alarm, clone = stolen["deployment"]["alarm"], stolen["deployment"]["clone"]
    assert (stolen["deployment"]["stopped"] == "revoked") == (alarm["queries"] is not None)
    assert clone["queries"] >= 150
    assert stolen["marked"]["detected"]
    outcome = json.loads((walk.folder / "case" / "result.json").read_text())["hearing"]["outcome"]
    assert outcome == "consistent with the claim"
    assert (walk.folder / "case" / "report.html").stat().st_size > 1000
    outcome = json.loads((walk.folder / "case-clone" / "result.json").read_text())["hearing"]["outcome"]
    proven = clone["log10_p"] <= math.log10(1e-6 / 2)  # two keys were deposited
    assert outcome == ("consistent with the claim" if proven else "no evidence for the claim")


@pytest.mark.slow
def test_a_trial_with_a_deposits_key_trains_the_deposits_model(walk: Walk) -> None:
    walk.assay("assay evidence embed deposit embedded.safetensors")
    one, other = (
        load_file(walk.folder / name) for name in ("embedded.safetensors", "model/marked.safetensors")
    )
    assert {name: t.tolist() for name, t in one.items()} == {name: t.tolist() for name, t in other.items()}
    content = (walk.folder / "deposit" / "key-0.safetensors").read_bytes()
    assert record(walk, "none")["config"]["key"] == {"digest": hashlib.sha256(content).hexdigest()}


@pytest.mark.slow
def test_the_secret_is_in_no_record_log_or_message(walk: Walk) -> None:
    secrets = [(walk.folder / "alice.secret").read_text().strip()]
    for folder in ("deposit", "copies"):
        _, about = load_tensors(walk.folder / folder / "key-0.safetensors", "key")
        secrets.append(about["secret"])
    places = [
        p for name in ("runs/records", "log", "witness", "serving") for p in (walk.folder / name).rglob("*")
    ]
    places += [*walk.folder.glob("*.wmpkg"), *walk.folder.glob("case*/re*"), walk.folder / "bundle.zip"]
    content = b"".join(path.read_bytes() for path in places if path.is_file())
    said = "".join(walk.said.values()).encode()
    assert len(content) > 10_000
    for secret in secrets:
        assert len(secret) == 64
        assert secret.encode() not in content + said
        assert bytes.fromhex(secret) not in content


@pytest.mark.slow
def test_wrong_keys_are_refused(walk: Walk) -> None:
    """With exit code 2, before anything is trained."""
    mine, other = "key=deposit/key-0.safetensors", "key=copies/key-0.safetensors"
    cases = {
        f"run watermark=adi_derived {other}": "is a key of deepmarks, the trial marks by adi_derived",
        f"run watermark=adi_derived watermark.triggers=50 {mine}": "not derived from its secret",
        f"run watermark=none {mine}": "needs a scheme whose keys follow from a secret alone",
        f"run watermark=adi {mine}": "needs a scheme whose keys follow from a secret alone",
        "run watermark=adi_derived key=model/marked.safetensors": "is not a key file of Assay",
        "run watermark=adi_derived key=nothing.safetensors": "expected a key file, found none",
        f"verify leaked.safetensors deposit/key-0.safetensors {mine}": "leave it out here",
    }
    for line, why in cases.items():
        told = walk.assay(f"assay {line}")
        assert (walk.codes.pop(f"assay {line}"), why in told) == (2, True), told
        del walk.said[f"assay {line}"]
    trial = build("watermark=adi_derived", *SMALL, *MARK["watermark=adi_derived"], mine)
    assert trial.settings.key is not None
    assert loaded(trial, trial.settings.key).secret.raw.hex() not in repr(trial)
    Path("deposit/key-0.safetensors").write_bytes(Path("copies/key-0.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="is a key of deepmarks"):
        loaded(trial, trial.settings.key)


def test_a_trial_is_named_by_the_content_of_its_key(tmp_path: Path) -> None:
    """Not by where it lies; and trials without one keep their names."""
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"another")):
        (tmp_path / name).write_bytes(content)
    with composer() as compose:
        plain, a, b, c = (
            compose(["seed=0", *([f"key={tmp_path / n}"] if n else [])]) for n in ("", "a", "b", "c")
        )
    assert a.id == b.id
    assert len({plain.id, a.id, c.id}) == 3
    assert "key" not in plain.identity()["config"]
    assert str(tmp_path) not in json.dumps(a.identity())
