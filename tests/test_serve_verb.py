"""`assay serve`: a model's file or a package becomes the gateway its deployment says, with keys and a book that commands change."""

import json
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from assay.core.errors import ConfigError, Denied
from assay.core.suspects import logits
from assay.deployments.licence.licence import issue, terms
from assay.deployments.licence.revocation import published, read
from assay.deployments.package.identity import Identity, Rejected, save
from assay.deployments.package.package import create
from assay.experiments.api import build
from assay.experiments.cli import main
from assay.experiments.serve.serve import Place, Sealed, service
from assay.experiments.trial import Trial
from assay.zoo.files import save_model

OWNER, ALICE = Identity.fresh(), Identity.fresh()
Assay = Callable[[str], tuple[int, str, str]]


@cache
def trial() -> Trial:
    return build("task=digits", "watermark=none", "trainer.progress=false")


@cache
def network() -> nn.Module:
    return trial().task.fresh(3).eval()


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Assay:
    """`assay serve` in a folder with model.safetensors."""
    monkeypatch.chdir(tmp_path)
    config = trial().spec.config
    about: dict[str, Any] = {
        axis: {"name": trial().spec.choices[axis], "config": config[axis]} for axis in ("task", "model")
    }
    save_model(Path("model.safetensors"), network(), {**about, "seed": 0})

    def call(words: str) -> tuple[int, str, str]:
        code = main(["serve", *words.split()])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_the_deployment_decides_what_is_served(assay: Assay) -> None:
    """Scores unless overrides say otherwise; to the bit what the model says."""
    asked = trial().task.test.inputs[:7]
    made = service(Path("model.safetensors"), Place(Path("a")), [])
    expected = torch.softmax(logits(network(), asked), -1)
    assert torch.equal(made.query("scores", asked, "alice").values, expected)
    assert made.shape == (1, 8, 8)
    made = service(
        Path("model.safetensors"), Place(Path("b")), ["deployment=api_label", "+deployment.budget=5"]
    )
    reply = made.query("labels", asked, "alice")
    assert reply.refused == "budget"
    assert torch.equal(reply.values, expected[:5].argmax(1))
    with pytest.raises(Denied):
        made.query("scores", asked, "alice")
    for words, why in ((["deployment=package"], "nothing to serve"), (["deployment=tee_model"], "simulated")):
        with pytest.raises(ConfigError, match=why):
            service(Path("model.safetensors"), Place(Path("c")), words)


def test_a_model_that_reads_ids_is_not_served(tmp_path: Path) -> None:
    it = build("task=lm_tiny", "model=gpt2_tiny", "watermark=none", "task.limit=64")
    about = {
        axis: {"name": it.spec.choices[axis], "config": it.spec.config[axis]} for axis in ("task", "model")
    }
    save_model(tmp_path / "lm.safetensors", it.task.fresh(0), {**about, "seed": 0})
    with pytest.raises(ConfigError, match="a model of language reads ids"):
        service(tmp_path / "lm.safetensors", Place(tmp_path / "serving"), [])


def test_a_package_is_served_within_its_licence(assay: Assay) -> None:
    """Labels alone, so many samples, until the list says otherwise; the plain model is never a file."""
    now, asked = int(time.time()), trial().task.test.inputs[:7]
    header = create(Path("model.safetensors"), Path("m.wmpkg"), OWNER, [ALICE.public])
    token = issue(header.content.id, ALICE.public, terms(["query"], now - 9, now + 999, queries=10), OWNER)
    save(ALICE, Path("alice"))
    save(OWNER, Path("owner"))
    Path("a.jwt").write_text(token)
    first = published(OWNER, now + 999)
    Path("list.jwt").write_text(first)
    Path("model.safetensors").unlink()
    sealed = Sealed(Path("alice.key"), Path("owner.pub"), Path("a.jwt"), Path("list.jwt"))
    made = service(Path("m.wmpkg"), Place(Path("s")), [], sealed=sealed)
    assert torch.equal(made.query("labels", asked, "bob").values, logits(network(), asked).argmax(1))
    with pytest.raises(Denied, match="licence answers labels"):
        made.query("scores", asked, "bob")
    assert len(made.query("labels", asked, "carol").values) == 3
    again = service(Path("m.wmpkg"), Place(Path("s")), [], sealed=sealed)
    assert len(again.query("labels", asked, "carol").values) == 0
    jti = made.licensed.licence.jti if made.licensed else ""
    Path("list.jwt").write_text(published(OWNER, now + 999, [jti], read(first, OWNER.public)))
    with pytest.raises(Rejected, match="was revoked"):
        made.query("labels", asked, "carol")
    Path("list.jwt").write_text(first)
    with pytest.raises(Rejected, match="number 2 was seen"):
        made.query("labels", asked, "carol")
    assert not list(Path.cwd().rglob("*.safetensors"))


def test_keys_revocation_and_status_by_command(assay: Assay) -> None:
    code, key, _ = assay("key alice --folder s --budget 9")
    assert code == 0
    assay("key bob --folder s")
    made = service(Path("model.safetensors"), Place(Path("s")), ["deployment=api_label"])
    assert made.keyring.account(key.strip()) == "alice"
    asked = trial().task.test.inputs[:7]
    assert len(made.query("labels", asked, "alice").values) == 7
    assert assay("revoke alice --folder s")[0] == 0
    reply = made.query("labels", asked, "alice")
    assert (len(reply.values), reply.refused) == (0, "revoked")
    code, out, _ = assay("status --folder s --json")
    assert code == 0
    assert json.loads(out)["accounts"] == [
        {"account": "alice", "used": 7, "left": 2, "alarmed": False, "revoked": True},
        {"account": "bob", "used": 0, "left": None, "alarmed": False, "revoked": False},
    ]
    assert "2 accounts" in assay("status --folder s")[1]
    with made.gateway.book.turn() as turn:
        turn.database.execute("UPDATE accounts SET used = 1")
    code, _, err = assay("status --folder s")
    assert (code, "the book was changed" in err) == (1, True)
    made.gateway.book.close()


def test_a_key_is_replaced_only_with_its_budget(assay: Assay) -> None:
    """A budget that no book holds, or a book that is none: the customer's key opens still, and no new one does."""
    place, key = Place(Path("s")), assay("key alice --folder s")[1].strip()
    for budget in (2**53 + 1, 2**64):
        code, out, err = assay(f"key alice --folder s --budget {budget}")
        assert (code, out, "0 to 2^53" in err) == (2, "", True), err
    assert (assay("key a/b --folder s --budget 1")[0], list(place.folder.glob("book*"))) == (2, [])
    (place.folder / "book.sqlite").write_bytes(b"no database" * 100)
    for words in ("key alice --budget 5 --folder s", "status --folder s", "revoke alice --folder s"):
        code, out, err = assay(words)
        assert (code, out, "cannot be used as a gateway's book" in err) == (2, "", True), err
    assert place.keyring.account(key) == "alice"


WRONG = {
    "start none.safetensors": "found nothing at",
    "start model.safetensors deployment=none_such": "none_such",
    "start model.safetensors nonsense": "expected overrides",
    "start model.safetensors --licence a.jwt": "--key NAME.key and --issuer",
    "start model.safetensors --samples 0": "at least 1",
    "key a/b --folder s": "expected an account",
    "key a --budget -1 --folder s": "0 to 2^53",
    "revoke alice --folder none": "there is no service",
    "status --folder none": "there is no service",
    "status seed=1": "unexpected argument",
}


@pytest.mark.parametrize("words", WRONG)
def test_bad_input_is_explained(words: str, assay: Assay) -> None:
    code, _, err = assay(words)
    assert (code, WRONG[words] in err) == (2, True), err


def test_without_the_extra_it_says_which(assay: Assay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = assay("start model.safetensors")
    assert (code, "pip install 'assay[serve]'" in err) == (2, True), err
