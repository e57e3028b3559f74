"""The artifact cache: each model is trained once, by whoever comes first, and nothing stale or torn is ever read."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from torch import nn

from assay.attacks.llm.imitate import Imitate
from assay.attacks.llm.permute import Permute
from assay.attacks.llm.sequence import OnTexts
from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.experiments import cache
from assay.experiments.cache import Cache, code_digest, library_versions, written_in
from assay.watermarks.adi import Adi
from assay.watermarks.trigger import TriggerKey, to_grey_levels
from assay.zoo.files import save_model
from assay.zoo.models import Mlp
from assay.zoo.training import Trainer

CONFIG = {"task": "digits", "seed": 0}
FACTS = {"seconds": 1.25, "steps": 30}


def build(seed: int = 0, width: int = 8) -> nn.Module:
    return Mlp(width=width).build((1, 8, 8), 10, seed)


class Maker:
    """Counts how often it had to train."""

    def __init__(self, facts: dict[str, Any] = FACTS) -> None:
        self.times, self.facts = 0, facts

    def __call__(self) -> tuple[nn.Module, dict[str, Any]]:
        self.times += 1
        return build(seed=7), self.facts


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("models/*.safetensors"))


@pytest.fixture(autouse=True)
def fresh_digests() -> Iterator[None]:
    code_digest.cache_clear()
    yield
    code_digest.cache_clear()


def test_the_second_request_does_not_train(tmp_path: Path) -> None:
    make = Maker()
    first, facts = Cache(tmp_path / "a" / "b").model(CONFIG, "code", make, build)
    second, again = Cache(tmp_path / "a" / "b").model(CONFIG, "code", make, build)
    assert make.times == 1
    assert facts == again == FACTS
    assert same(first, second)
    assert same(first, build(seed=7)), "the weights that were made, not those `like` draws"
    assert first is not second
    assert not first.training
    assert all(parameter.requires_grad for parameter in first.parameters())


def test_config_code_and_libraries_name_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, kept = Maker(), Cache(tmp_path)
    kept.model(CONFIG, "code", make, build)
    kept.model({**CONFIG, "seed": 1}, "code", make, build)
    kept.model(CONFIG, "other code", make, build)
    versions = {**library_versions(), "torch": "0"}
    with monkeypatch.context() as patch:
        patch.setattr(cache, "library_versions", lambda: versions)
        kept.model(CONFIG, "code", make, build)
    assert make.times == len(entries(tmp_path)) == 4
    kept.model(dict(reversed(CONFIG.items())), "code", make, build)
    assert make.times == 4, "the order of the settings does not matter"


def test_the_libraries_that_compute_are_named() -> None:
    assert {"python", "torch", "pytorch-lightning", "transformers"} <= set(library_versions())
    assert library_versions()["torch"].startswith(str(torch.__version__).split("+")[0])


def header_of(facts: Any) -> Callable[[Path], None]:
    return lambda path: save_model(path, build(), {"facts": facts} if facts is not None else {})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "header only": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "a pickle": lambda path: torch.save(build().state_dict(), path),
    "another network": lambda path: save_model(path, build(width=9), {"facts": FACTS}),
    "not finite": lambda path: save_model(path, diverged(), {"facts": FACTS}),
    "no facts": header_of(None),
    "strange facts": header_of(3),
    "facts of another shape": header_of([[1]]),
    "absent": Path.unlink,
}


def diverged() -> nn.Module:
    model = build()
    nn.init.constant_(model.get_parameter("net.head.bias"), float("nan"))
    return model


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_made_again(kind: str, tmp_path: Path) -> None:
    make, kept = Maker(), Cache(tmp_path)
    first, _ = kept.model(CONFIG, "code", make, build)
    DAMAGE[kind](entries(tmp_path)[0])
    second, facts = kept.model(CONFIG, "code", make, build)
    assert make.times == 2
    assert facts == FACTS
    assert same(first, second)
    kept.model(CONFIG, "code", make, build)
    assert make.times == 2


def test_a_searched_key_is_made_once_and_read_back(tmp_path: Path) -> None:
    kept, made = Cache(tmp_path), []

    def make() -> tuple[TriggerKey, dict[str, Any]]:
        made.append(1)
        secret = Secret.simulated(3)
        images = to_grey_levels(secret.images("i", 4, 1, 8, 8))
        return TriggerKey(secret, 10, images, secret.integers("l", 4, 10)), {"seconds": 2.5}

    first, facts = kept.key(CONFIG, "code", TriggerKey, make)
    second, again = kept.key(CONFIG, "code", TriggerKey, make)
    assert first.fingerprint == second.fingerprint == make()[0].fingerprint
    assert facts == again == {"seconds": 2.5}
    assert len(made) == 2
    kept.key(CONFIG, "other code", TriggerKey, make)
    assert len(made) == 4 - 1
    (path, _) = sorted((tmp_path / "keys").glob("*.safetensors"))
    path.write_bytes(b"torn")
    kept.key(CONFIG, "code", TriggerKey, make)
    kept.key(CONFIG, "other code", TriggerKey, make)
    assert len(made) == 4


def test_a_training_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    def fail() -> tuple[nn.Module, dict[str, Any]]:
        raise FloatingPointError("diverged")

    kept = Cache(tmp_path)
    with pytest.raises(FloatingPointError, match="diverged"):
        kept.model(CONFIG, "code", fail, build)
    assert not entries(tmp_path)
    make = Maker()
    kept.model(CONFIG, "code", make, build, wait=False)
    assert make.times == 1


def test_a_model_that_is_not_finite_is_an_error_and_no_endless_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NaN"):
        Cache(tmp_path).model(CONFIG, "code", lambda: (diverged(), FACTS), build)


def test_without_waiting_a_locked_entry_raises_timeout(tmp_path: Path) -> None:
    make, kept = Maker(), Cache(tmp_path)
    kept.model(CONFIG, "code", make, build)
    path = entries(tmp_path)[0]
    with FileLock(f"{path}.lock"):
        kept.model(CONFIG, "code", make, build, wait=False)  # whole: nobody needs the lock
        path.unlink()
        with pytest.raises(Timeout):
            kept.model(CONFIG, "code", make, build, wait=False)
        kept.model({**CONFIG, "seed": 1}, "code", make, build, wait=False)  # another entry, another lock
    kept.model(CONFIG, "code", make, build, wait=False)
    assert make.times == 3


PROCESS = """
import os, sys, time
from pathlib import Path
from assay.experiments.cache import Cache
from assay.zoo.models import Mlp

folder, me, others, killed = Path(sys.argv[1]), sys.argv[2], sys.argv[3:-1], sys.argv[-1] == "killed"

def build():
    return Mlp(width=8).build((1, 8, 8), 10, 7)

def make():
    with (folder / "trace").open("a") as trace:
        trace.write(me)
    time.sleep(0.5)
    return build(), {"seconds": 0.5, "by": me}

if killed:
    os.fsync = lambda _: os.kill(os.getpid(), 9)
(folder / f"ready-{me}").touch()
while not all((folder / f"ready-{other}").exists() for other in others):
    time.sleep(0.01)
model, facts = Cache(folder).model({"seed": 0}, "code", make, build)
print(facts["by"])
"""


def process(folder: Path, me: str, *others: str, killed: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(folder), me, *others, "killed" if killed else "whole"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_train_an_entry_once(tmp_path: Path) -> None:
    both = [process(tmp_path, "a", "b"), process(tmp_path, "b", "a")]
    answers = [child.communicate(timeout=120) for child in both]
    assert [child.returncode for child in both] == [0, 0], answers
    winner = (tmp_path / "trace").read_text()
    assert winner in ("a", "b")
    assert [out.strip() for out, _ in answers] == [winner, winner]


@pytest.mark.slow
def test_a_killed_writer_leaves_no_torn_entry(tmp_path: Path) -> None:
    child = process(tmp_path, "a", killed=True)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, errors
    assert (tmp_path / "trace").read_text() == "a"
    assert not entries(tmp_path)
    make = Maker()
    Cache(tmp_path).model({"seed": 0}, "code", make, build, wait=False)  # the dead hold no lock
    assert make.times == 1
    left = {path.suffix for path in (tmp_path / "models").iterdir()}
    assert left <= {".safetensors", ".lock"}, "what the dead writer left is cleared away"


def test_the_code_digest_follows_the_content_of_shared_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = code_digest()
    for folder in ("core", "kernels", "zoo", "experiments"):
        shutil.copytree(cache.ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    code_digest.cache_clear()
    assert code_digest() == here, "where the code lies does not matter"
    seen = {here}
    for name in ("core/suspects.py", "kernels/philox.py", "zoo/training.py", "experiments/people.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n# changed\n")
        code_digest.cache_clear()
        seen.add(code_digest())
    assert len(seen) == 5
    (tmp_path / "experiments" / "show.py").write_text("# how results are printed trains nothing")
    code_digest.cache_clear()
    assert code_digest() in seen


def test_the_code_of_a_scheme_counts() -> None:
    assert code_digest(Adi) != code_digest()
    assert code_digest(Adi) == code_digest(Adi)
    assert written_in(Adi) == {cache.ROOT / "watermarks" / name for name in ("adi.py", "trigger.py")}
    assert code_digest(Trainer) == code_digest(), "it is shared code already"


def test_the_code_of_an_attack_in_a_folder_of_its_own_counts_with_what_it_takes_from_others() -> None:
    attacks = cache.ROOT / "attacks"
    assert written_in(OnTexts) == {attacks / "llm" / "sequence.py", attacks / "sequence.py"}
    assert written_in(Imitate) == {attacks / "llm" / "imitate.py", attacks / "extract.py"}
    assert attacks / "trajectory.py" in written_in(Permute)


def test_the_files_a_scheme_builds_upon_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "assay_test_ground.py": "def helper() -> int:\n    return 1\n",
        "assay_test_base.py": "from assay_test_ground import helper\nclass Base:\n    number = helper()\n",
        "assay_test_scheme.py": "import math\nfrom assay_test_base import Base\nclass Scheme(Base):\n    pass\n",
        "assay_test_other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    scheme = import_module("assay_test_scheme").Scheme
    assert {path.name for path in written_in(scheme)} == set(files) - {"assay_test_other.py"}
    before = code_digest(scheme)
    (tmp_path / "assay_test_ground.py").write_text("def helper() -> int:\n    return 2\n")
    code_digest.cache_clear()
    assert code_digest(scheme) != before
