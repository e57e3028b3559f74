"""Deposits, certificates and bundles: what is refused, what offline verification says, and that secrets stay where they are."""

import hashlib
import json
import os
import shutil
import sys
import traceback
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import ConfigError
from assay.core.secret import Secret
from assay.evidence import bundle as bundles
from assay.evidence import certificates, local_tsa, timestamp
from assay.evidence.canonical import canonical, parsed
from assay.evidence.certificates import issued
from assay.evidence.commitment import Opening, commit, openings, read_opening, root_of
from assay.evidence.deposit import (
    beacon,
    counted,
    deposit_key,
    deposit_model,
    derived,
    derived_key,
    log10_corrected,
    owner_signer,
)
from assay.evidence.log import Log
from assay.evidence.signers import Signer
from assay.evidence.verify import verify
from assay.evidence.witness import Witness
from assay.experiments.cli import main

SECRET = Secret(b"the owner's 32 bytes, in no file")
DIGEST = hashlib.sha256(b"a model").hexdigest()


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@dataclass(frozen=True)
class Deposited:
    """One owner's two deposits in a witnessed log, as a bundle, and the openings of its three subsets."""

    folder: Path
    log: Log
    witness: Witness
    opened: list[Opening]
    key: certificates.Certificate
    bundle: bundles.Bundle
    path: Path


@pytest.fixture(scope="module")
def deposited(tmp_path_factory: pytest.TempPathFactory) -> Deposited:
    folder = tmp_path_factory.mktemp("deposited")
    witness, signer = Witness.create(folder / "witness", "test.local/witness"), Signer.fresh("test.local/log")
    witness.watch(signer.verifier)
    log, owner = (
        Log.create(folder / "log", signer, witness.signer.verifier, witness.answer),
        owner_signer(SECRET),
    )
    found = openings(SECRET, "label", "adi_derived", {"settings": "{}"}, 3)
    log.append(issued(Signer.fresh("somebody"), "work", subjects=(DIGEST,)).content)
    key, first = deposit_key(log, owner, root_of(found), "adi_derived", 100, "1e-6", 3)
    log.append(issued(Signer.fresh("somebody"), "work", subjects=("ab" * 32,)).content)
    _, second = deposit_model(log, owner, key, DIGEST, None, "mine")
    bundle = bundles.collect(log, [first, second])
    bundles.save(bundle, folder / "bundle.zip")
    return Deposited(folder, log, witness, found, key, bundle, folder / "bundle.zip")


def test_values_have_one_form() -> None:
    assert canonical({"b": [1, None, True], "a": "é"}) == b'{"a":"\\u00e9","b":[1,null,true]}'
    for other in (
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'"\xc3\xa9"',
        b"[1.0]",
        b"NaN",
        b"",
        b"[" * 5000,
    ):
        with pytest.raises(ConfigError):
            parsed(other, "this")
    for bad in (1.5, 2**53 + 1, {1: 2}, b"bytes", [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]):
        with pytest.raises(ValueError, match="expected"):
            canonical(bad)


def test_a_commitment_binds_key_parameters_and_salt() -> None:
    salt = bytes(range(32))
    said = {"scheme": "s", "parameters": {}, "key": "00"}
    found = commit(said, salt)
    assert found == hashlib.sha256(b"assay-commit/v1" + canonical(said) + salt).digest()
    assert (
        len(
            {
                found,
                commit({**said, "key": "01"}, salt),
                commit(said, salt[::-1]),
                commit({**said, "scheme": "t"}, salt),
            }
        )
        == 4
    )
    with pytest.raises(ValueError, match="32 bytes"):
        commit(said, b"short")


def test_one_subset_opens_and_the_others_stay_closed() -> None:
    found = openings(SECRET, "label", "adi_derived", {"settings": "{}"}, 5)
    root = root_of(found)
    assert all(read_opening(one.content) == one and one.opens(root) for one in found)
    assert not replace(found[1], subset=2).opens(root)
    assert not replace(found[1], key=found[2].key).opens(root)
    assert not replace(found[1], parameters={}).opens(root)
    assert not any(
        one.opens(root) for one in openings(SECRET, "other label", "adi_derived", {"settings": "{}"}, 5)
    )
    hidden = [one.key.raw.hex() for one in found[1:]] + [one.salt.raw.hex() for one in found[1:]]
    assert not any(text in found[0].content.decode() for text in hidden)
    with pytest.raises(ConfigError, match="subsets"):
        openings(SECRET, "label", "s", {}, 0)


@given(st.integers(0))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_changed_bit_of_an_opening_opens_nothing(bit: int) -> None:
    one = openings(SECRET, "label", "adi_derived", {"settings": "{}"}, 4)[2]
    root = root_of(openings(SECRET, "label", "adi_derived", {"settings": "{}"}, 4))
    try:
        changed = read_opening(flip(one.content, bit % (8 * len(one.content))))
    except ConfigError:
        return
    assert not changed.opens(root)


def test_every_changed_bit_of_a_certificate_is_refused(deposited: Deposited) -> None:
    content = deposited.key.content
    assert certificates.read(content) == deposited.key
    for bit in range(8 * len(content)):
        with pytest.raises(ConfigError):
            certificates.read(flip(content, bit))


@pytest.mark.parametrize("name", ["subjects", "previous", "shares"])
@pytest.mark.parametrize("empty", ["", {}])
def test_a_certificate_has_one_text(name: str, empty: object, deposited: Deposited) -> None:
    """Else anybody could log an owner's deposit again under another hash, and it would count twice."""
    said = parsed(deposited.key.content, "it")
    assert said[name] == []
    other = canonical({**said, name: empty})
    with pytest.raises(ConfigError, match="expected lists"):
        certificates.read(other)
    entries = [deposited.key.content, other]
    assert counted(entries, deposited.key.issuer).owner == 3


@pytest.mark.parametrize(
    ("kind", "said", "wrong"),
    [
        ("key", {}, "needs commitment"),
        ("key", {"commitment": "zz"}, "64 hexadecimal"),
        ("key", {"commitment": DIGEST, "facts": {"n": 1}}, "wrong or missing: alpha"),
        ("model", {"subjects": (DIGEST,)}, "needs previous"),
        ("licence", {"subjects": (DIGEST,)}, "needs terms"),
        ("transfer", {"previous": (DIGEST,), "shares": (("a", 9999),)}, "10000 points"),
        ("transfer", {"previous": (DIGEST,), "shares": (("a", 5000), ("a", 5000))}, "different holders"),
        ("transfer", {"previous": (DIGEST,), "shares": (("a", 0), ("b", 10000))}, "1 to 10000"),
        ("deed", {}, "expected a kind"),
        ("work", {"subjects": ("0x",)}, "64 hexadecimal"),
    ],
)
def test_certificates_say_what_their_kind_needs(kind: str, said: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        issued(Signer.fresh("somebody"), kind, **said)


def test_a_certificate_cannot_be_made_in_anothers_name(deposited: Deposited) -> None:
    forged = replace(deposited.key, issuer=Signer.fresh("thief").verifier.public.hex())
    with pytest.raises(ConfigError, match="not its issuer's"):
        certificates.read(forged.content)
    kinds = {"key", "model", "work", "licence", "infringement", "revocation", "transfer"}
    assert set(certificates.NEEDS) == kinds


def test_keys_follow_from_the_checkpoint_that_ends_with_the_deposit(deposited: Deposited) -> None:
    log, index = deposited.log, 1
    keys = (log.signer.verifier, log.witness)
    drawn = [derived_key(one, log.checkpoint(2), index, *keys) for one in deposited.opened]
    assert len({secret.raw for secret in drawn}) == 3
    assert drawn[0] == derived_key(deposited.opened[0], log.checkpoint(2), index, *keys)
    for size in (1, 3, 4):
        with pytest.raises(ConfigError, match="checkpoint of size 2"):
            derived_key(deposited.opened[0], log.checkpoint(size), index, *keys)
    assert beacon(log.checkpoint(2), *keys) != beacon(log.checkpoint(3), *keys)
    with pytest.raises(ConfigError):  # a witness of the same name with another key
        beacon(
            log.checkpoint(2),
            keys[0],
            Witness.create(deposited.folder / "liar", "test.local/witness").signer.verifier,
        )


def test_keys_are_drawn_anew_for_every_entry_and_subset(deposited: Deposited) -> None:
    """An owner of two deposits under one R1 has two draws, and says so by their places."""
    beacon_ = bytes(32)
    drawn = {derived(SECRET, beacon_, index, subset).raw for index in (1, 2, 256) for subset in (0, 1)}
    assert len(drawn) == 6


def test_the_beacon_is_the_witness_signature_where_there_is_one(deposited: Deposited) -> None:
    """The log's own could be ground by whoever runs it."""
    note, own = deposited.log.checkpoint(2), deposited.log.signer.verifier
    assert beacon(note, own, deposited.log.witness) != beacon(note, own, None)


def test_every_deposit_counts(deposited: Deposited) -> None:
    entries = deposited.log.entries()
    mine = deposited.key.issuer
    assert (counted(entries, mine).owner, counted(entries, mine).everybody) == (3, 3)
    assert (counted(entries, "").owner, counted([b"junk"], mine).everybody) == (0, 0)
    assert log10_corrected(1e-6, 1000) == pytest.approx(-9)
    assert -324 > log10_corrected(5e-324, 1000) > -327
    with pytest.raises(ValueError, match="at least one"):
        log10_corrected(1e-6, 0)
    flood = {"scheme": "adi_derived", "n": 1, "alpha": "1e-6", "subsets": 2**53}
    spoiler = issued(Signer.fresh("spoiler"), "key", commitment=DIGEST, facts=flood).content
    assert counted([*entries, spoiler], mine).everybody == 3 + 1024
    with pytest.raises(ConfigError, match="1 to 1024 subsets"):
        deposit_key(deposited.log, owner_signer(SECRET), DIGEST, "adi_derived", 1, "1e-6", 1025)


def test_a_bundle_verifies_offline_and_says_what_it_assumes(deposited: Deposited) -> None:
    loaded = bundles.load(deposited.path)
    assert loaded == deposited.bundle
    keys = (deposited.log.signer.verifier, deposited.witness.signer.verifier)
    found = verify(loaded, *keys, deposited.opened[1], [DIGEST])
    assert found.valid
    assert found.draws == 3
    names = [check.name for check in found.checks]
    assert {"head", "entry 1", "entry 3", "beacon of entry 1", "whole log", "not revoked", "opening"} <= set(
        names
    )
    assert any("given this witness" in line for line in found.assumptions)
    assert not any("bundle's own word" in line for line in found.assumptions)
    assert sum("bundle's own word" in line for line in verify(loaded).assumptions) == 2
    smaller = replace(loaded, everything=None)
    assert verify(smaller).draws == 4 * 1024
    words = " ".join([*found.assumptions, *(check.found for check in found.checks)]).lower()
    assert not any(word in words for word in ("tamper-proof", "admissible", "decentralised", "guilty"))


def test_a_bundle_that_lies_is_not_valid(deposited: Deposited) -> None:
    good, stranger = deposited.bundle, Signer.fresh("test.local/log")

    def wrong(bundle: bundles.Bundle, **more: Any) -> list[str]:
        return [check.name for check in verify(bundle, **more).checks if not check.holds]

    item, one = good.items[0], good.beacons[0]
    assert wrong(replace(good, items=(replace(item, index=2), good.items[1]))) == ["entry 2"]
    assert wrong(replace(good, items=(replace(item, path=item.path[::-1]), good.items[1]))) == ["entry 1"]
    assert wrong(replace(good, beacons=(replace(one, note=deposited.log.checkpoint(3)),))) == [
        "beacon of entry 1"
    ]
    assert wrong(replace(good, beacons=())) == ["entry 1"]
    assert wrong(replace(good, everything=(good.everything or ())[:-1])) == ["whole log"]
    assert wrong(replace(good, items=good.items[1:])) == ["deposits in order"]
    assert wrong(good, log=stranger.verifier) == ["log's key"]
    assert wrong(replace(good, log=stranger.verifier)) == ["head"]
    assert wrong(good, digests=["00" * 32]) == ["model 0000000000000000"]
    foreign = openings(Secret(b"x" * 32), "label", "adi_derived", {"settings": "{}"}, 3)[0]
    assert wrong(good, opening=foreign) == ["opening"]


def test_a_revocation_in_the_log_is_seen(deposited: Deposited, tmp_path: Path) -> None:
    log = Log.create(tmp_path / "log", Signer.fresh("test.local/log"), None, None)
    key, index = deposit_key(
        log, owner_signer(SECRET), root_of(deposited.opened), "adi_derived", 100, "1e-6", 3
    )
    facts = {"reason": "lost"}
    log.append(issued(Signer.fresh("stranger"), "revocation", previous=(key.id,), facts=facts).content)
    assert verify(bundles.collect(log, [index])).valid  # nobody else takes it back
    log.append(issued(owner_signer(SECRET), "revocation", previous=(key.id,), facts=facts).content)
    found = verify(bundles.collect(log, [index]))
    assert [check.name for check in found.checks if not check.holds] == ["not revoked"]
    assert any("No witness" in line for line in found.assumptions)
    stripped = verify(replace(bundles.collect(log, [index]), everything=None))
    assert stripped.valid
    assert any("a revocation that the bundle leaves out is not seen" in line for line in stripped.assumptions)
    carried = verify(replace(bundles.collect(log, [index, log.size - 1]), everything=None))
    assert [check.name for check in carried.checks if not check.holds] == ["not revoked"]


@given(st.integers(0))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_changed_bit_of_a_bundle_is_refused_or_changes_nothing(deposited: Deposited, bit: int) -> None:
    content = deposited.path.read_bytes()
    path = deposited.folder / "changed.zip"
    path.write_bytes(flip(content, bit % (8 * len(content))))
    try:
        found = bundles.load(path)
    except ConfigError:
        return
    assert (
        found == deposited.bundle
        or not verify(found, deposited.log.signer.verifier, deposited.log.witness).valid
    )


def test_what_a_stranger_says_is_shown_and_not_obeyed(
    deposited: Deposited, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A claim that would move a terminal's cursor, begin a line of its own, or that no file in UTF-8 can hold."""
    log = Log.create(tmp_path / "log", Signer.fresh("test.local/log"), None, None)
    owner = owner_signer(SECRET)
    key, _ = deposit_key(log, owner, root_of(deposited.opened), "adi_derived", 100, "1e-6", 3)
    deposit_model(log, owner, key, hashlib.sha256(b"a model").hexdigest(), None, "mine\x1b[2K\nok  \ud800")
    bundles.save(bundles.collect(log, [0, 1]), tmp_path / "bundle.zip")
    (tmp_path / "model").write_bytes(b"a model")
    assert main(["evidence", "verify", str(tmp_path / "bundle.zip"), "--model", str(tmp_path / "model")]) == 0
    assert "deposited as entry 1: mine\\x1b[2K\\nok  \\ud800\n" in capsys.readouterr().out
    opening = parsed(deposited.opened[0].content, "it")
    (tmp_path / "opening").write_bytes(canonical({**opening, "\x1b[2K": 1}))
    assert (
        main(["evidence", "verify", str(tmp_path / "bundle.zip"), "--opening", str(tmp_path / "opening")])
        == 2
    )
    assert "wrong or missing: \\x1b[2K" in capsys.readouterr().err


def test_a_folder_is_a_bundle_too_and_extra_files_are_refused(deposited: Deposited, tmp_path: Path) -> None:
    with zipfile.ZipFile(deposited.path) as archive:
        archive.extractall(tmp_path / "folder")
    assert bundles.load(tmp_path / "folder") == deposited.bundle
    (tmp_path / "folder" / "entry-9.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match=r"does not name: entry-9\.json"):
        bundles.load(tmp_path / "folder")
    (tmp_path / "folder" / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ConfigError, match="wrong or missing"):
        bundles.load(tmp_path / "folder")


def test_the_commands_exit_codes(
    deposited: Deposited, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(deposited.path)
    keys = [
        "--log-key",
        str(deposited.folder / "log/log.pub"),
        "--witness-key",
        str(deposited.folder / "witness/witness.pub"),
    ]
    assert main(["evidence", "verify", bundle, *keys, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["valid"] is True
    assert said["assumptions"]
    model = tmp_path / "model"
    model.write_bytes(b"another model")
    assert main(["evidence", "verify", bundle, "--model", str(model)]) == 1
    model.write_bytes(b"a model")
    assert main(["evidence", "verify", bundle, "--model", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "NOT valid" in shown
    assert "own word" in shown
    assert main(["evidence", "verify", str(tmp_path / "none.zip")]) == 2
    assert main(["evidence", "verify", str(model)]) == 2
    assert main(["evidence", "audit", str(deposited.folder / "log")]) == 0
    assert main(["evidence", "audit", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert "3 key(s) deposited" in captured.out


def test_a_case_keeps_what_was_checked(deposited: Deposited, tmp_path: Path) -> None:
    """A bundle may be a folder; what the case holds is private, and what was read once."""
    with zipfile.ZipFile(deposited.path) as archive:
        archive.extractall(tmp_path / "folder")
    (tmp_path / "opening").write_bytes(deposited.opened[0].content)
    (tmp_path / "model").write_bytes(b"a model")
    words = ["--bundle", "folder", "--opening", "opening", "--model", "model", "--suspect", "model"]
    paths = [word if word.startswith("--") else str(tmp_path / word) for word in words]
    case = tmp_path / "case"
    assert main(["evidence", "dispute", "open", str(case), *paths[:-1], str(tmp_path / "none")]) == 2
    assert not case.exists()
    assert main(["evidence", "dispute", "open", str(case), *paths]) == 0
    assert bundles.load(case / "claimant.bundle") == deposited.bundle
    assert (case / "claimant.opening").read_bytes() == deposited.opened[0].content
    assert (case / "claimant.model").read_bytes() == (case / "suspect.model").read_bytes() == b"a model"
    (case / "case.json").write_text("[]")
    (case / "result.json").write_text("{")
    for action in ("run", "report"):
        assert main(["evidence", "dispute", action, str(case)]) == 2
    assert (case.stat().st_mode | (case / "claimant.opening").stat().st_mode) & 0o077 == 0


def test_a_deposit_stays_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def assay(*words: str) -> int:
        return main(["evidence", *words])

    assert assay("init", "log", "--no-witness") == assay("owner", "alice") == assay("owner", "bob") == 0
    key = ["deposit", "key", "log", "folder", "--owner"]
    assert assay(*key, "alice", "watermark=adi_derived", "model=mlp") == 0
    before = {path: path.read_bytes() for path in Path("folder").iterdir()}
    assert assay(*key, "bob") == 2  # his keys would take the place of hers
    Path("model").write_bytes(b"a model")
    model = ["deposit", "model", "log", "folder", "model", "--owner"]
    assert assay(*model, "bob") == 2
    assert assay("prove", "log", "folder", "bundle.zip", "--open", "0", "--owner", "bob") == 2
    Path("dna.json").write_text('{"share": 0.5}')
    assert assay(*model, "alice", "--dna", "dna.json") == 2
    told = capsys.readouterr().err
    assert told.count("pass the secret that made it") == 3
    assert "write fractions as text" in told
    assert {path: path.read_bytes() for path in Path("folder").iterdir()} == before
    assert not Path("bundle.zip").exists()
    assert assay(*key, "alice") == assay(*model, "alice") == 0
    assert assay("prove", "log", "folder", "bundle.zip", "--open", "0", "--owner", "alice") == 0
    assert assay("verify", "bundle.zip", "--opening", "bundle.zip.opening.json", "--model", "model") == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl is installed")
def test_a_timestamp_is_over_the_head_and_a_test_authority_says_so(
    deposited: Deposited, tmp_path: Path
) -> None:
    decode = pytest.importorskip("rfc3161_client").decode_timestamp_response
    root = local_tsa.create(tmp_path / "tsa")
    token = local_tsa.token(tmp_path / "tsa", timestamp.query(deposited.bundle.head))
    found = timestamp.checked(token, deposited.bundle.head, root)
    assert found.test
    assert not found.authority.endswith("root")
    assert "proves nothing" in found.authority
    signed = decode(token).signed_data
    files = (root, tmp_path / "tsa" / "tsa.pem")
    chain = [x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(Encoding.DER) for file in files]
    with pytest.raises(ConfigError, match="cannot be reached"):
        timestamp.from_authority("http://[::1", b"a head")
    for order in (chain, chain[::-1]):  # real authorities send their chain, in any order
        carried = SimpleNamespace(certificates=order, signer_infos=signed.signer_infos)
        assert timestamp._signer(carried) == found.authority
    for bad, message in (
        (token, b"another head"),
        (token[:-5], deposited.bundle.head),
        (b"junk", deposited.bundle.head),
    ):
        with pytest.raises(ConfigError, match="not valid"):
            timestamp.checked(bad, message, root)
    with pytest.raises(ConfigError, match="not valid"):
        timestamp.checked(token, deposited.bundle.head, local_tsa.create(tmp_path / "other"))


def test_without_the_extra_timestamp_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'assay\[timestamp\]'"):
        timestamp.query(b"a head")


def test_secrets_are_in_no_log_bundle_repr_or_traceback(deposited: Deposited) -> None:
    """Raw, hexadecimal or base64, the owner's and every subset's."""
    hidden = [SECRET, *(secret for one in deposited.opened for secret in (one.key, one.salt))]
    forms = [
        form
        for secret in hidden
        for form in (secret.raw, secret.raw.hex().encode(), repr(secret.raw)[2:-1].encode())
    ]
    shown = [
        path.read_bytes() for path in deposited.folder.rglob("*") if path.is_file() and path.suffix != ".pem"
    ]
    with zipfile.ZipFile(deposited.path) as archive:
        shown += [archive.read(name) for name in archive.namelist()]
    shown += [
        repr(thing).encode()
        for thing in (deposited.opened, deposited.bundle, deposited.log, owner_signer(SECRET))
    ]
    for content in (
        b"{}",
        deposited.opened[0].content[:-9],
        deposited.opened[0].content.replace(b"adi", b"\xff"),
    ):
        try:
            read_opening(content)
        except ConfigError as error:
            shown.append("".join(traceback.format_exception(error)).encode())
    assert len(shown) > 10
    assert not [form for form in forms for content in shown if form in content]


def test_private_files_are_the_owners_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "owner.secret"
    assert main(["evidence", "owner", str(path)]) == 0
    assert path.read_text().strip() not in capsys.readouterr().out
    assert os.stat(path).st_mode & 0o077 == 0  # noqa: PTH116
    assert main(["evidence", "owner", str(path)]) == 2
