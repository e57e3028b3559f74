"""The log: trees against the definition, every changed bit refused, witnesses, audits, and a process killed in the middle."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import ConfigError
from assay.evidence import merkle, notes
from assay.evidence.audit import audit
from assay.evidence.log import Log
from assay.evidence.reach import as_process, over_http, reached, server
from assay.evidence.signers import COSIGNATURE, Signer, Verifier, load_verifier
from assay.evidence.witness import CONFLICT, DENIED, INCONSISTENT, OK, UNKNOWN, Witness, request

ENTRIES = [f"entry {i}".encode() for i in range(65)]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
TREE = merkle.in_memory(LEAVES)


def defined(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return merkle.EMPTY
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return merkle.node_hash(defined(leaves[:split]), defined(leaves[split:]))


ROOTS = [defined(LEAVES[:n]) for n in range(65)]


def flipped(content: bytes) -> Iterator[bytes]:
    """Every change of one bit."""
    for bit in range(8 * len(content)):
        yield flip(content, bit)


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_roots_are_those_of_certificate_transparency() -> None:
    """The published test vectors of RFC 6962's implementations, whose trees RFC 9162 keeps."""
    inputs = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    tree = merkle.in_memory([merkle.leaf_hash(bytes.fromhex(text)) for text in inputs])
    assert merkle.root(tree, 1).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert merkle.root(tree, 3).hex() == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
    assert merkle.root(tree, 8).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_every_inclusion_proof_of_sizes_0_to_64() -> None:
    for size in range(65):
        assert merkle.root(TREE, size) == ROOTS[size]
        for index in range(size):
            path = merkle.inclusion(TREE, index, size)
            assert merkle.included(ENTRIES[index], index, size, path, ROOTS[size])
            for other in {(index + 1) % size, size - 1, 0} - {index}:
                assert not merkle.included(ENTRIES[index], other, size, path, ROOTS[size])
                assert not merkle.included(ENTRIES[other], index, size, path, ROOTS[size])
            assert not merkle.included(ENTRIES[index], index, size, [*path, LEAVES[0]], ROOTS[size])
            assert not path or not merkle.included(ENTRIES[index], index, size, path[:-1], ROOTS[size])


def test_every_consistency_proof_of_sizes_0_to_64() -> None:
    for new in range(65):
        for old in range(new + 1):
            path = merkle.consistency(TREE, old, new)
            assert merkle.consistent(old, ROOTS[old], new, ROOTS[new], path)
            assert not merkle.consistent(old, ROOTS[old], new, ROOTS[new], [*path, LEAVES[0]])
            assert not path or not merkle.consistent(old, ROOTS[old], new, ROOTS[new], path[:-1])
            if old:
                assert not merkle.consistent(old, LEAVES[64], new, ROOTS[new], path)
                assert not merkle.consistent(old, ROOTS[old], new, LEAVES[64], path)
            with pytest.raises(ValueError, match="expected an old size"):
                merkle.consistency(TREE, new + 1, new)


@given(st.integers(1, 64), st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_changed_bit_of_any_proof_is_refused(size: int, data: st.DataObject) -> None:
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    path = merkle.inclusion(TREE, index, size)
    whole = b"".join([ENTRIES[index], *path, ROOTS[size]])
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    changed, ends = flip(whole, bit), len(ENTRIES[index])
    steps = [changed[i : i + 32] for i in range(ends, len(changed), 32)]
    assert not merkle.included(changed[:ends], index, size, steps[:-1], steps[-1])
    proof = merkle.consistency(TREE, old, size)
    whole = b"".join([ROOTS[old], *proof, ROOTS[size]])
    changed = flip(whole, data.draw(st.integers(0, 8 * len(whole) - 1)))
    steps = [changed[i : i + 32] for i in range(0, len(changed), 32)]
    assert not merkle.consistent(old, steps[0], size, steps[-1], steps[1:-1])


@contextmanager
def watched(folder: Path) -> Iterator[tuple[Log, Witness]]:
    witness, signer = Witness.create(folder / "witness", "test.local/witness"), Signer.fresh("test.local/log")
    witness.watch(signer.verifier)
    yield Log.create(folder / "log", signer, witness.signer.verifier, witness.answer), witness


def test_every_changed_bit_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with watched(tmp_path) as (log, witness):
        log.append(b"one")
        note, keys = log.checkpoint(), (log.signer.verifier, witness.signer.verifier)
        assert notes.opened(note, *keys)[0].size == 1
        for changed in flipped(note):
            with pytest.raises(ConfigError):
                notes.opened(changed, *keys)


def test_a_log_keeps_its_promises(tmp_path: Path) -> None:
    with watched(tmp_path) as (log, witness):
        assert [log.append(entry) for entry in ENTRIES[:11]] == list(range(11))
        assert log.append(ENTRIES[3]) == 3  # the same entry is the same entry
        assert log.size == 11
        assert log.entries() == ENTRIES[:11]
        for size in range(12):
            assert log.root(size) == ROOTS[size]
        assert log.inclusion(4, 9) == merkle.inclusion(TREE, 4, 9)
        assert log.consistency(5, 11) == merkle.consistency(TREE, 5, 11)
        seen = witness.seen("test.local/log")
        assert seen is not None
        assert (seen.size, seen.root) == (11, ROOTS[11])
        assert all(check.holds for check in audit(log)[:2])
        again = Log.load(tmp_path / "log")
        assert again.witness == witness.signer.verifier
        with pytest.raises(ConfigError, match="witness's signature"):
            again.append(b"nobody to cosign")
        assert Log.load(tmp_path / "log", witness.answer).append(b"nobody to cosign") == 11
        for bad in (b"", b"x" * 65537):
            with pytest.raises(ConfigError, match="1 to 65536 bytes"):
                log.append(bad)


def test_an_audit_finds_changes_to_the_stored_log(tmp_path: Path) -> None:
    def changed(words: str) -> list[bool]:
        name = f"log {len(list(tmp_path.iterdir()))}"
        log = Log.create(tmp_path / name, Signer.fresh("test.local/log"), None, None)
        for entry in ENTRIES[:5]:
            log.append(entry)
        seen = log.checkpoint(3)
        with closing(sqlite3.connect(tmp_path / name / "log.db")) as db:
            db.execute(words)
            db.commit()
        return [check.holds for check in audit(log, [seen])][:3]

    assert changed("SELECT 1") == [True, True, True]
    assert changed("UPDATE leaves SET entry = x'00' WHERE place = 1") == [False, False, False]
    assert changed("UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND place = 0") == [
        False,
        True,
        True,
    ]
    assert changed("DELETE FROM leaves WHERE place = 4")[1] is False
    assert (
        changed("UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 2) WHERE size = 3")[
            1
        ]
        is False
    )


def test_a_witness_signs_one_history(tmp_path: Path) -> None:
    witness, signer = Witness.create(tmp_path / "w", "test.local/witness"), Signer.fresh("test.local/log")

    def ask(leaves: list[bytes], old: int, size: int, key: Signer = signer) -> tuple[int, bytes]:
        tree = merkle.in_memory(leaves)
        note = notes.signed(notes.Checkpoint(key.verifier.name, size, merkle.root(tree, size)), key)
        return witness.answer(request(note, old, merkle.consistency(tree, old, size)))

    assert ask(LEAVES, 0, 4)[0] == UNKNOWN
    witness.watch(signer.verifier)
    first = ask(LEAVES, 0, 4)
    assert first[0] == OK
    time.sleep(1.1)  # a second later: the time in a new signature would differ
    assert ask(LEAVES, 4, 4) == first
    assert ask(LEAVES, 0, 4) == (CONFLICT, b"4\n")
    rewritten = [LEAVES[9], *LEAVES[1:]]
    assert ask(rewritten, 4, 4)[0] == ask(rewritten, 4, 7)[0] == INCONSISTENT
    assert ask(LEAVES, 4, 9, Signer.fresh("test.local/log"))[0] == DENIED
    assert ask(LEAVES, 4, 9)[0] == OK
    for content in (b"", b"old x\n\n", b"old 9\nAAAA\n\n", b"old 9\n\nnote", b"x" * 40000):
        assert witness.answer(content)[0] == 400
    with pytest.raises(ConfigError, match="another key"):
        witness.watch(Signer.fresh("test.local/log").verifier)


def test_a_witness_answers_over_http_and_from_its_own_process(tmp_path: Path) -> None:
    with watched(tmp_path) as (_, witness), server(witness, "127.0.0.1", 0) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{http.server_address[1]}"
        assert Log.load(tmp_path / "log", over_http(address)).append(b"over http") == 0
        assert Log.load(tmp_path / "log", reached(str(tmp_path / "witness"))).append(b"a process") == 1
        assert over_http(address)(b"nonsense")[0] == 400
        http.shutdown()
        thread.join()
    with pytest.raises(ConfigError, match="cannot be reached"):
        over_http(address)(b"anybody?")
    with pytest.raises(ConfigError, match="gave no answer"):
        as_process([sys.executable, "-c", "raise SystemExit(3)"])(b"")


def test_a_witness_that_answers_nonsense_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"no HTTP\r\n\r\n")

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        with pytest.raises(ConfigError, match="cannot be reached"):
            over_http(f"http://127.0.0.1:{listening.getsockname()[1]}")(b"anybody?")
        thread.join()
    for address in ("http://[::1", "http://a b"):
        with pytest.raises(ConfigError, match="cannot be reached"):
            over_http(address)(b"anybody?")
    monkeypatch.setattr("assay.evidence.reach.PATIENCE", 0.1)
    with pytest.raises(ConfigError, match="no answer within"):
        as_process([sys.executable, "-c", "import time; time.sleep(60)"])(b"")
    with watched(tmp_path) as (log, _), pytest.raises(ConfigError, match="refuses the checkpoint"):
        Log.load(log.folder, lambda _: (409, b"9" * 5000)).append(b"one")


def test_a_logs_key_is_no_witness(tmp_path: Path) -> None:
    """Its signature holds no time: its first bytes would be read as one."""
    log, other = Signer.fresh("test.local/log"), Signer.fresh("test.local/other")
    checkpoint = notes.Checkpoint("test.local/log", 1, bytes(32))
    line = notes.signature_line(other.verifier, other.sign(checkpoint.body))
    for watcher in (other.verifier, log.verifier):
        with pytest.raises(ConfigError, match="of kind 4"):
            notes.opened(notes.signed(checkpoint, log) + line.encode(), log.verifier, watcher)
        with pytest.raises(ConfigError, match="of kind 4"):
            Log.create(tmp_path / "log", log, watcher, None)
    assert not (tmp_path / "log").exists()


def test_a_log_that_was_not_finished_says_so(tmp_path: Path) -> None:
    with watched(tmp_path) as (log, _), closing(sqlite3.connect(log.folder / "log.db")) as db:
        db.execute("DELETE FROM meta")
        db.commit()
    with pytest.raises(ConfigError, match="who its witness is"):
        Log.load(log.folder)


def test_an_unwitnessed_entry_is_not_acknowledged_and_not_lost(tmp_path: Path) -> None:
    with watched(tmp_path) as (log, witness):
        log.append(b"one")

        def away(_: bytes) -> tuple[int, bytes]:
            raise ConfigError("the witness cannot be reached")

        with pytest.raises(ConfigError, match="cannot be reached"):
            Log.load(tmp_path / "log", away).append(b"two")
        with pytest.raises(ConfigError, match="no checkpoint of size 2"):
            log.checkpoint()
        assert Log.load(tmp_path / "log", witness.answer).append(b"two") == 1
        assert log.size == 2


KILLED = """
import sys
from pathlib import Path
from assay.evidence.log import Log
from assay.evidence.witness import Witness
folder = Path(sys.argv[1])
log = Log.load(folder / "log", Witness.load(folder / "witness").answer)
for i in range(1000):
    print(i, log.append(f"entry {i}".encode()), flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: dict[int, int] = {}
    with watched(tmp_path) as (log, witness):
        for wait in (2, 5, 9):  # acknowledgements before the kill
            child = subprocess.Popen(
                [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
            )
            assert child.stdout is not None
            for _ in range(wait):
                number, index = map(int, child.stdout.readline().split())
                assert acknowledged.setdefault(number, index) == index
            os.kill(child.pid, signal.SIGKILL)
            rest, _ = child.communicate()
            for line in rest.splitlines(keepends=True):
                if line.endswith("\n"):
                    number, index = map(int, line.split())
                    assert acknowledged.setdefault(number, index) == index
        assert Log.load(tmp_path / "log", witness.answer).append(b"after") == log.size - 1
        entries = log.entries()
        assert len(set(entries)) == len(entries)
        assert all(entries[index] == f"entry {number}".encode() for number, index in acknowledged.items())
        assert all(check.holds for check in audit(log)[:2])


def test_keys_are_kept_apart_from_what_is_shown(tmp_path: Path) -> None:
    signer = Signer.fresh("test.local/log")
    signer.save(tmp_path / "log.pem")
    assert (tmp_path / "log.pem").stat().st_mode & 0o077 == 0
    again = Signer.load(tmp_path / "log.pem")
    assert again.verifier == signer.verifier == load_verifier(tmp_path / "log.pub")
    assert repr(again) == f"Signer({again.verifier.text})"
    with pytest.raises(ConfigError, match="a key already"):
        signer.save(tmp_path / "log.pem")
    (tmp_path / "log.pub").write_text(Signer.fresh("test.local/log").verifier.text)
    with pytest.raises(ConfigError, match="different keys"):
        Signer.load(tmp_path / "log.pem")
    (tmp_path / "log.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="no private key"):
        Signer.load(tmp_path / "log.pem")


@given(st.integers(0, 8 * len(Verifier("a.b/c", COSIGNATURE, b"k" * 32).text) - 1))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_changed_bit_of_a_public_key_is_refused_or_another_name(bit: int) -> None:
    text = Verifier("a.b/c", COSIGNATURE, b"k" * 32).text
    with pytest.raises(ConfigError):
        Verifier.parse(flip(text.encode(), bit).decode(errors="replace"))
