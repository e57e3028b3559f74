"""`assay package`, from keys to a leak: each step as its user types it, each refusal with its exit code, and whose copy it was."""

import json
import shutil
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.experiments.api import build
from assay.experiments.cli import main
from assay.experiments.package.marks import Owner, marked
from assay.experiments.people import clean
from assay.experiments.trial import Trial
from assay.zoo.files import save_key, save_model

Assay = Callable[..., tuple[int, str, str]]


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Assay:
    """`assay package` in a folder with a model and the keys of owner, alice and bob."""
    monkeypatch.chdir(tmp_path)

    def call(words: str) -> tuple[int, str, str]:
        code = main(["package", *words.split()])
        said = capsys.readouterr()
        assert "PRIVATE" not in said.out + said.err
        return code, said.out, said.err

    save_file({"w": torch.arange(6.0)}, "model.safetensors")
    for name in ("owner", "alice", "bob"):
        assert call(f"keys {name}")[0] == 0
    return call


def test_a_package_from_its_keys_to_its_revocation(assay: Assay) -> None:
    assert stat.S_IMODE(Path("alice.key").stat().st_mode) == 0o600
    code, out, _ = assay("create model.safetensors m.wmpkg --issuer owner.key --to alice.pub")
    assert (code, out.count("recipient")) == (0, 2)
    code, out, _ = assay(
        "licence m.wmpkg a.jwt --issuer owner.key --to alice.pub --operations query weights --until 2999-01-01"
    )
    assert code == 0
    assert "query and weights, labels, no limit" in out
    assert assay("revoke list.jwt --issuer owner.key --until 2999-01-01")[1].startswith("list 1: 0 revoked")
    opening = (
        "open m.wmpkg out.safetensors --key alice.key --issuer owner.pub --licence a.jwt --revoked list.jwt"
    )
    assert assay(opening)[0] == 0
    assert torch.equal(load_file("out.safetensors")["w"], torch.arange(6.0))
    Path("out.safetensors").unlink()
    shutil.copy("list.jwt", "old.jwt")
    code, out, _ = assay("revoke list.jwt --issuer owner.key --licence a.jwt --until 2999-01-01")
    assert out.startswith("list 2: 1 revoked")
    code, _, err = assay(opening)
    assert (code, "was revoked" in err) == (1, True)
    code, _, err = assay(opening.replace("list.jwt", "old.jwt"))
    assert (code, "number 2 was seen" in err) == (1, True)
    assert not Path("out.safetensors").exists()


REFUSALS: dict[str, tuple[str, int, str]] = {
    "without a licence": ("open m.wmpkg o --key alice.key --issuer owner.pub", 1, "expected a licence"),
    "without the list": (
        "open m.wmpkg o --key alice.key --issuer owner.pub --licence a.jwt",
        1,
        "expected the issuer's revocation list",
    ),
    "as somebody else": (
        "open m.wmpkg o --key bob.key --issuer owner.pub --licence a.jwt",
        1,
        "is no recipient",
    ),
    "of another issuer": ("open m.wmpkg o --key alice.key --issuer bob.pub", 1, "unknown issuer"),
    "another issuer's": ("inspect m.wmpkg --issuer bob.pub", 1, "unknown issuer"),
    "no package": ("inspect model.safetensors", 1, "is no .wmpkg file"),
    "no file": ("inspect none.wmpkg", 2, "found no file"),
    "a public key as one's own": ("create model.safetensors x.wmpkg --issuer owner.pub", 2, "private"),
    "a key that exists": ("keys owner", 2, "overwritten is lost"),
    "a pickle": ("create owner.pub x.wmpkg --issuer owner.key", 2, "no whole safetensors file"),
    "a buyer without a mark": ("create model.safetensors x --issuer owner.key --buyer 1", 2, "--mark"),
    "a foreign file as a mark": (
        "create model.safetensors x --issuer owner.key --buyer 1 --mark model.safetensors",
        2,
        "is not a key file",
    ),
    "huge chunks": ("create model.safetensors x --issuer owner.key --chunk 17", 2, "1 to 16 MiB"),
    "no day": ("licence m.wmpkg x --issuer owner.key --to bob.pub --until soon", 2, "got 'soon'"),
    "a list until before 1970": ("revoke l.jwt --issuer owner.key --until 1960-01-01", 2, "from 1970 on"),
    "a day in the year 10000": (
        "licence m.wmpkg x --issuer owner.key --to bob.pub --until 9999-12-31T23:59:59-12:00",
        2,
        "before the year 10000",
    ),
    "an end before": ("licence m.wmpkg x --issuer owner.key --to bob.pub --until 1999-01-01", 2, "later"),
    "nothing to rewrap": ("rewrap m.wmpkg x --issuer owner.key", 2, "nothing to change"),
    "a licence for two": (
        "rewrap m.wmpkg x --issuer owner.key --to bob.pub --to alice.pub --licence a.jwt",
        2,
        "pins the one",
    ),
    "another's licence": (
        "rewrap m.wmpkg x --issuer owner.key --to bob.pub --licence a.jwt",
        2,
        "another party or package",
    ),
    "overrides where there are none": ("inspect m.wmpkg seed=1", 2, "unexpected argument"),
    "text as a list": ("revoke a.jwt --issuer owner.key --until 2999-01-01", 1, "is no revocation list"),
    "nothing marked": (
        "trace model.safetensors m.wmpkg --issuer owner.pub --mark model.safetensors",
        2,
        "is not a key file",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_and_bad_input(case: str, assay: Assay) -> None:
    """1: what was shown does not hold; 2: what was typed makes no sense. No file is left of either."""
    assay("create model.safetensors m.wmpkg --issuer owner.key --to alice.pub")
    assay(
        "licence m.wmpkg a.jwt --issuer owner.key --to alice.pub --operations query weights --until 2999-01-01"
    )
    before = {path for path in Path.cwd().iterdir() if path.suffix != ".lock"}
    words, expected, why = REFUSALS[case]
    code, _, err = assay(words)
    assert (code, why in err) == (expected, True), err
    assert {path for path in Path.cwd().iterdir() if path.suffix != ".lock"} == before


def test_lists_that_are_made_at_once_follow_one_another(assay: Assay) -> None:
    """Else two would have one number, readers refuse the second, and its revocation is lost."""
    assay("create model.safetensors m.wmpkg --issuer owner.key --to alice.pub")
    for i in range(8):
        assay(f"licence m.wmpkg {i}.jwt --issuer owner.key --to alice.pub --until 2999-01-01")

    def revoked(i: int) -> int:
        words = f"package revoke list.jwt --issuer owner.key --licence {i}.jwt --until 2999-01-01"
        return main(words.split())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(revoked, range(8))) == [0] * 8
    assert "list 9: 8 revoked" in assay("revoke list.jwt --issuer owner.key --until 2999-01-01")[1]


def test_rewrap_and_inspect(assay: Assay) -> None:
    assay("create model.safetensors m.wmpkg --issuer owner.key --to alice.pub")
    _, out, _ = assay(
        "licence m.wmpkg b.jwt --issuer owner.key --to bob.pub --until 2999-01-01 --irrevocable"
    )
    assert "is no recipient yet" in out
    code, _, _ = assay(
        "rewrap m.wmpkg m.wmpkg --issuer owner.key --to bob.pub --licence b.jwt --drop alice.pub"
    )
    assert code == 0
    code, out, _ = assay("inspect m.wmpkg --issuer owner.pub --json")
    found = json.loads(out)
    assert (code, found["signature_checked"], len(found["recipients"])) == (0, True, 2)
    assert found["recipients"][1]["licence"] is not None
    code, _, err = assay("open m.wmpkg o --key bob.key --issuer owner.pub --licence b.jwt")
    assert (code, "allows query, not weights" in err) == (1, True)
    assert "the signature was not checked" in assay("inspect m.wmpkg")[1]


@pytest.mark.parametrize("number", [0, 2**31 + 1])
def test_a_buyers_number_fits_its_package(number: int) -> None:
    owner = Owner(trial(), trial().watermark.keygen(trial().task, Secret.simulated(8)), {})
    with pytest.raises(ConfigError, match=r"from 1 to 2\^31"):
        marked(owner, trial().task.fresh(None), number)


@cache
def trial() -> Trial:
    return build("watermark=deepmarks", "trainer.progress=false")


def owners_files() -> None:
    """As `assay run save=` writes them."""
    it = trial()
    victim, config = clean(it, 0)[0], it.spec.config
    about: dict[str, Any] = {
        axis: {"name": it.spec.choices[axis], "config": config[axis]} for axis in ("task", "model")
    }
    about["seed"] = config["seed"]
    mark = {"watermark": {"name": it.spec.choices["watermark"], "config": config["watermark"]}}
    save_model(Path("unmarked.safetensors"), victim, about)
    key = it.watermark.buyer_key(it.task, Secret.simulated(8), 0, victim)
    save_key(Path("mark.safetensors"), key, {**mark, **about})


@pytest.mark.slow
def test_an_insiders_dump_is_traced_to_him_and_to_nobody_else(assay: Assay) -> None:
    """Buyers 1 and 2 open their copies with valid licences, which nothing prevents. What either dumps names him alone; the model
    without a mark names nobody."""
    owners_files()
    people = {1: "alice", 2: "bob"}
    for number, name in people.items():
        options = f"--issuer owner.key --to {name}.pub --buyer {number} --mark mark.safetensors"
        code, out, err = assay(f"create unmarked.safetensors {name}.wmpkg {options}")
        assert code == 0, err
        assert f"marked for buyer {number}" in out
        terms = "--operations weights --until 2999-01-01 --irrevocable"
        assay(f"licence {name}.wmpkg {name}.jwt --issuer owner.key --to {name}.pub {terms}")
        opening = f"--key {name}.key --issuer owner.pub --licence {name}.jwt"
        assert assay(f"open {name}.wmpkg {name}-dump.safetensors {opening}")[0] == 0
    for number, name in people.items():
        found = traced(assay, f"{name}-dump.safetensors")
        kid = next(r["kid"] for r in recipients(assay, name) if r["kid"] != owner_kid(assay))
        assert found == {"buyers": [1, 2], "accused": {str(number): [kid]}, "fpr": 0.01}
    assert traced(assay, "unmarked.safetensors")["accused"] == {}
    code, out, _ = assay(tracing("unmarked.safetensors"))
    assert out.startswith("not found: none of 2 buyers is named, which clears nobody")


def tracing(suspect: str) -> str:
    return f"trace {suspect} alice.wmpkg bob.wmpkg --issuer owner.pub --mark mark.safetensors"


def traced(assay: Assay, suspect: str) -> dict[str, Any]:
    code, out, err = assay(f"{tracing(suspect)} --json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def recipients(assay: Assay, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(assay(f"inspect {name}.wmpkg --json")[1])["recipients"]
    return found


def owner_kid(assay: Assay) -> str:
    kid: str = json.loads(assay("inspect alice.wmpkg --json")[1])["content"]["issuer"]
    return kid
