"""Packages: what was sealed comes back for recipients alone, and every change of a file is refused, bit by bit."""

import itertools
import json
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from assay.core.errors import ConfigError, Denied
from assay.core.secret import Secret
from assay.deployments.licence.licence import issue, terms
from assay.deployments.package import package
from assay.deployments.package.header import LENGTH, MAGIC, MIB, TAG, canonical, check, read, signed
from assay.deployments.package.identity import Identity, Rejected, load_identity, load_public, same, save
from assay.deployments.package.package import (
    Grantee,
    Proof,
    begun,
    create,
    inspect,
    open_to,
    rewrap,
    tensors,
    unsealed,
)
from assay.deployments.package.seal import fresh_key, unwrapped

OWNER, ALICE, BOB, EVE = (Identity.fresh() for _ in range(4))
NOW = 1_800_000_000
TERMS = terms(["query", "weights"], NOW - 10, NOW + 10, revocable=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a hundred bytes."""
    path = tmp_path_factory.mktemp("small") / "model.safetensors"
    save_file({"w": torch.arange(6.0)}, path)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of more than three chunks of 1 MiB."""
    path = tmp_path_factory.mktemp("large") / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file(
        {"w": torch.randn(850_000, generator=generator), "b": torch.randn(3, generator=generator)}, path
    )
    return path


@pytest.fixture(scope="module")
def sealed(small: Path) -> Path:
    path = small.with_name("small.wmpkg")
    create(small, path, OWNER, [ALICE.public])
    return path


@pytest.fixture(scope="module")
def chunked(large: Path) -> Path:
    path = large.with_name("large.wmpkg")
    create(large, path, OWNER, [ALICE.public], chunk=MIB)
    return path


def proof(path: Path, who: Identity = ALICE) -> Proof:
    return Proof(who, issue(inspect(path).content.id, who.public, TERMS, OWNER))


def refused(path: Path, how: str, shown: Proof | None = None) -> None:
    """It is, and nothing is left of what was decrypted."""
    target = path.parent / "out" / "model.safetensors"
    shown = shown or proof(path)
    with pytest.raises(Rejected, match=how):
        open_to(path, target, shown, OWNER.public, now=NOW)
    assert not target.parent.exists() or list(target.parent.iterdir()) == []
    with pytest.raises(Rejected, match=how):
        tensors(path, shown, OWNER.public, now=NOW)


@pytest.mark.parametrize("who", [OWNER, ALICE])
def test_recipients_read_what_was_sealed(who: Identity, large: Path, chunked: Path, tmp_path: Path) -> None:
    shown = Proof(OWNER) if who is OWNER else proof(chunked)
    out = tmp_path / "model.safetensors"
    licence = open_to(chunked, out, shown, OWNER.public, now=NOW)
    assert out.read_bytes() == large.read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert (licence is None) == (who is OWNER)
    found, _, _ = tensors(chunked, shown, OWNER.public, now=NOW)
    assert all(torch.equal(found[name], t) for name, t in load_file(large).items())
    assert large.read_bytes()[100:200] not in chunked.read_bytes()
    assert inspect(chunked).content.chunks == 4


def test_every_single_bit_of_a_package_counts(sealed: Path) -> None:
    """Header, recipients, signature, chunks, tags: no flip of a bit opens."""
    whole, shown = sealed.read_bytes(), proof(sealed)

    def opened(content: bytes | bytearray) -> object:
        file = BytesIO(content)
        return unsealed(file, begun(file, len(content)), shown, OWNER.public, "query", NOW)

    opened(whole)
    content = bytearray(whole)
    for place, bit in itertools.product(range(len(whole)), range(8)):
        content[place] ^= 1 << bit
        with pytest.raises(Rejected):
            opened(content)
        content[place] = whole[place]


def test_any_other_change_of_a_package_is_refused_and_leaves_no_file(sealed: Path, tmp_path: Path) -> None:
    """Several bytes at once, through the file."""
    whole, shown, draw = sealed.read_bytes(), proof(sealed), random.Random(0)
    path, target = tmp_path / "x.wmpkg", tmp_path / "out"
    for _ in range(50):
        start, count = draw.randrange(len(whole)), draw.randint(1, 40)
        changed = whole[:start] + draw.randbytes(count) + whole[start + count :]
        path.write_bytes(changed)
        with pytest.raises(Rejected):
            open_to(path, target, shown, OWNER.public, now=NOW)
    assert list(tmp_path.iterdir()) == [path]


def parts(path: Path) -> tuple[bytes, list[bytes]]:
    """Header and chunks."""
    with path.open("rb") as file:
        read(file)
        start, body = file.tell(), file.read()
    size = MIB + TAG
    return path.read_bytes()[:start], [body[i : i + size] for i in range(0, len(body), size)]


TAMPERED: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "swapped": (lambda c: [c[1], c[0], *c[2:]], "chunk 0 of 4 was changed, moved"),
    "repeated": (lambda c: [c[0], c[0], *c[2:]], "chunk 1 of 4"),
    "dropped": (lambda c: [c[0], *c[2:]], "cut off or extended"),
    "truncated": (lambda c: c[:3], "cut off or extended"),
    "cut in a chunk": (lambda c: [*c[:3], c[3][:-1]], "cut off or extended"),
    "extended": (lambda c: [*c, b"x"], "cut off or extended"),
    "appended": (lambda c: [*c, c[0]], "cut off or extended"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_chunks_keep_their_places(case: str, chunked: Path, tmp_path: Path) -> None:
    change, how = TAMPERED[case]
    head, chunks = parts(chunked)
    path = tmp_path / "x.wmpkg"
    path.write_bytes(head + b"".join(change(chunks)))
    refused(path, how, proof(chunked))


def test_what_a_signed_header_says_of_length_is_held_against_the_stream(
    chunked: Path, tmp_path: Path
) -> None:
    """Truncation at a chunk, with a header that its owner signed to fit: the final flag and the digest refuse it."""
    _, chunks = parts(chunked)
    content = replace(inspect(chunked).content, size=2 * MIB)
    path = tmp_path / "x.wmpkg"
    forged = signed(content, inspect(chunked).recipients, OWNER)
    path.write_bytes(forged.encoded() + b"".join(chunks[:2]))
    refused(path, "not wrapped for this key")


def test_nothing_fits_another_package(large: Path, chunked: Path, tmp_path: Path) -> None:
    """The same model sealed twice for the same party: headers, chunks and keys cannot be exchanged."""
    other = tmp_path / "other.wmpkg"
    create(large, other, OWNER, [ALICE.public], chunk=MIB)
    (head, chunks), (head2, chunks2) = parts(chunked), parts(other)
    path = tmp_path / "x.wmpkg"
    path.write_bytes(head2 + b"".join(chunks))
    refused(path, "chunk 0 of 4")
    path.write_bytes(head + chunks[0] + chunks2[1] + b"".join(chunks[2:]))
    refused(path, "chunk 1 of 4")
    mixed = signed(inspect(chunked).content, inspect(other).recipients, OWNER)
    path.write_bytes(mixed.encoded() + b"".join(chunks))
    refused(path, "not wrapped for this key")
    refused(other, "another package", proof(chunked))


def test_only_recipients_with_their_own_key_open(sealed: Path) -> None:
    refused(sealed, "is no recipient", proof(sealed, BOB))
    refused(sealed, "expected a licence", Proof(ALICE))
    refused(sealed, "another party", Proof(ALICE, proof(sealed, BOB).licence))
    with pytest.raises(Rejected, match="unknown issuer"):
        tensors(sealed, proof(sealed), EVE.public, now=NOW)
    half = Identity(ALICE.signing, BOB.receiving)
    with pytest.raises(Rejected, match="is no recipient"):
        tensors(sealed, Proof(half, proof(sealed).licence), OWNER.public, now=NOW)
    entry = inspect(sealed).recipient(ALICE.public.kid)
    assert entry is not None
    with pytest.raises(Rejected, match="not wrapped for this key"):
        unwrapped(entry, inspect(sealed).content, BOB)
    with pytest.raises(Rejected, match="not wrapped"):  # a point of low order
        unwrapped(replace(entry, ephemeral="00" * 32), inspect(sealed).content, ALICE)
    assert issubclass(Rejected, Denied)


def rewritten(path: Path, target: Path, change: Callable[[dict], object]) -> Path:  # type: ignore[type-arg]
    """The header edited as plain JSON, in canonical form."""
    with path.open("rb") as file:
        values = json.loads(json.dumps(asdict(read(file))))
        rest = file.read()
    change(values)
    body = canonical(values)
    target.write_bytes(MAGIC + LENGTH.pack(len(body)) + body + rest)
    return target


EDITED: dict[str, tuple[Callable[[dict], object], str]] = {  # type: ignore[type-arg]
    "a recipient taken out": (lambda h: h["recipients"].pop(), "changed since its issuer signed it"),
    "recipients in another order": (lambda h: h["recipients"].reverse(), "changed since"),
    "another buyer": (lambda h: h["content"].update(buyer=4), "changed since"),
    "another issuer": (lambda h: h["content"].update(issuer=EVE.public.kid), "unknown issuer"),
    "another format": (lambda h: h["content"].update(format="wmpkg/2"), "content.format"),
    "another cipher": (lambda h: h["content"].update(cipher="none"), "content.cipher"),
    "tiny chunks": (lambda h: h["content"].update(chunk=1), "content.chunk"),
    "huge chunks": (lambda h: h["content"].update(chunk=2**30), "content.chunk"),
    "a number as text": (lambda h: h["content"].update(size="96"), "content.size"),
    "a digest of the wrong length": (lambda h: h["content"].update(digest="00"), "content.digest"),
    "an unknown field": (lambda h: h.update(note="x"), "note"),
    "no signature": (lambda h: h.pop("signature"), "signature"),
}


@pytest.mark.parametrize("case", EDITED)
def test_edited_headers_are_refused(case: str, sealed: Path, tmp_path: Path) -> None:
    change, how = EDITED[case]
    shown = proof(sealed)
    refused(rewritten(sealed, tmp_path / "x.wmpkg", change), how, shown)


def test_a_header_signed_by_another_is_foreign(sealed: Path, tmp_path: Path) -> None:
    """Eve signs the owner's content as her own, or under his kid."""
    header = inspect(sealed)
    own = replace(header.content, issuer=EVE.public.kid)
    with pytest.raises(Rejected, match="unknown issuer"):
        check(signed(own, header.recipients, EVE), OWNER.public)
    with pytest.raises(Rejected, match="changed since"):
        check(signed(header.content, header.recipients, EVE), OWNER.public)
    with pytest.raises(Rejected, match="names a recipient twice"):
        check(signed(header.content, header.recipients * 2, OWNER), OWNER.public)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_anything_else_is_no_package(content: bytes) -> None:
    for start in (b"", MAGIC, MAGIC + LENGTH.pack(len(content)), MAGIC + LENGTH.pack(2**32 - 1)):
        with pytest.raises(Rejected, match=r"no \.wmpkg file|header"):
            begun(BytesIO(start + content), len(start + content))


def test_the_same_json_in_another_form_is_refused(sealed: Path, tmp_path: Path) -> None:
    with sealed.open("rb") as file:
        body, rest = json.dumps(asdict(read(file)), indent=1).encode(), file.read()
    path = tmp_path / "x.wmpkg"
    path.write_bytes(MAGIC + LENGTH.pack(len(body)) + body + rest)
    with pytest.raises(Rejected, match="canonical"):
        inspect(path)


def test_rewrapping_changes_recipients_and_touches_no_data(chunked: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.wmpkg"
    rewrap(chunked, path, OWNER, add=[Grantee(BOB.public)], drop=[ALICE.public.kid])
    assert parts(path)[1] == parts(chunked)[1]
    assert inspect(path, OWNER.public).content == inspect(chunked).content
    tensors(path, proof(path, BOB), OWNER.public, now=NOW)
    refused(path, "is no recipient", proof(path, ALICE))
    tensors(chunked, proof(chunked), OWNER.public, now=NOW)  # the file as it was
    rewrap(path, path, OWNER, add=[Grantee(ALICE.public)])
    tensors(path, proof(path), OWNER.public, now=NOW)
    assert len(rewrap(path, path, OWNER, add=[Grantee(BOB.public), Grantee(BOB.public)]).recipients) == 3
    for who in (ALICE, BOB):  # a party that is named twice is one recipient, and the package opens still
        tensors(path, proof(path, who), OWNER.public, now=NOW)
    for who, how in ((OWNER, "must stay"), (EVE, "no recipient")):
        with pytest.raises(ConfigError, match=how):
            rewrap(chunked, path, OWNER, drop=[who.public.kid])
    with pytest.raises(Rejected, match="unknown issuer"):
        rewrap(chunked, path, EVE, add=[Grantee(EVE.public)])


def test_a_pinned_licence_is_the_only_one(sealed: Path, tmp_path: Path) -> None:
    path, first, second = tmp_path / "x.wmpkg", proof(sealed).licence, proof(sealed).licence
    assert first != second
    rewrap(sealed, path, OWNER, add=[Grantee(ALICE.public, first)])
    tensors(path, Proof(ALICE, first), OWNER.public, now=NOW)
    refused(path, "another licence is pinned", Proof(ALICE, second))


@pytest.mark.parametrize(
    "content", [b"", b"text", pickle.dumps({"w": [1.0]}), b"\x00" * 64, b"PK\x03\x04" * 9]
)
def test_only_safetensors_are_sealed(content: bytes, tmp_path: Path) -> None:
    source, target = tmp_path / "model", tmp_path / "x.wmpkg"
    source.write_bytes(content)
    with pytest.raises(ConfigError, match="no whole safetensors file"):
        create(source, target, OWNER)
    assert not target.exists()


def test_what_an_issuer_sealed_by_other_means_is_not_written(
    sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An issuer who means ill seals a pickle: recipients get no file and no tensors, and nothing is run."""
    source, path = tmp_path / "evil", tmp_path / "x.wmpkg"
    source.write_bytes(pickle.dumps(Path.cwd))
    with monkeypatch.context() as patch:
        patch.setattr(package, "why_no_model", lambda _: None)
        create(source, path, OWNER, [ALICE.public])
    refused(path, "holds no whole safetensors file")


def test_a_file_that_changes_while_it_is_sealed_leaves_no_package(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "model.safetensors", tmp_path / "x.wmpkg"
    source.write_bytes(small.read_bytes())

    def late() -> Secret:
        source.write_bytes(small.read_bytes()[:-1] + b"!")
        return fresh_key()

    monkeypatch.setattr(package, "fresh_key", late)
    with pytest.raises(ConfigError, match="changed while it was sealed"):
        create(source, target, OWNER)
    assert list(tmp_path.iterdir()) == [source]


APART = """
import json, resource, struct, sys, time
from pathlib import Path
from assay.deployments.package import package
from assay.deployments.package.identity import Identity
folder, owner = Path(sys.argv[1]), Identity.fresh()
def peak(mib):
    head = json.dumps({"w": {"dtype": "U8", "shape": [mib << 20], "data_offsets": [0, mib << 20]}}).encode()
    with open(folder / "m", "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _ in range(mib):
            file.write(bytes(1 << 20))
    package.create(folder / "m", folder / "p", owner, chunk=1 << 20)
    package.open_to(folder / "p", folder / "o", package.Proof(owner), owner.public)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps([peak(3), peak(48)]), flush=True)
def slow(file, content, key, write):
    write(memoryview(b"half of a chunk"))
    print("writing", flush=True)
    time.sleep(60)
package.encrypt = slow
package.create(folder / "m", folder / "x.wmpkg", owner)
"""


def test_memory_is_bounded_and_a_killed_creation_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    """In a process of its own: 48 MiB take less than 16 MiB more than 3 MiB do, sealed and opened by the MiB."""
    command = [sys.executable, "-c", APART, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        few, many = json.loads(process.stdout.readline())
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert many - few < 16
    left = {path.name for path in tmp_path.iterdir()} - {"m", "p", "o"}
    assert len(left) == 1
    assert next(iter(left)).startswith(".x.wmpkg.")


def test_keys_are_private_and_never_shown(tmp_path: Path, small: Path) -> None:
    """Neither representations nor errors nor tracebacks hold a private key or a data key."""
    private, public = save(ALICE, tmp_path / "alice")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert load_identity(private).public.kid == load_public(public).kid == ALICE.public.kid
    assert b"PRIVATE" not in public.read_bytes()
    with pytest.raises(ConfigError, match="overwritten is lost"):
        save(ALICE, tmp_path / "alice")
    raw = [ALICE.signing.private_bytes_raw(), ALICE.receiving.private_bytes_raw()]
    path = tmp_path / "x.wmpkg"
    header = create(small, path, OWNER, [ALICE.public])
    key = unwrapped(header.recipients[1], header.content, ALICE)
    said = [repr(ALICE), repr(Proof(ALICE)), repr(key), repr(header), str(ALICE.public)]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Rejected) as caught:
        tensors(path, proof(path), OWNER.public, now=NOW)
    said += ["".join(traceback.format_exception(caught.value))]
    for secret in [*raw, key.raw]:
        for line in said:
            assert secret.hex() not in line
            assert repr(secret)[2:-1] not in line


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_key_files_are_checked(tmp_path: Path) -> None:
    private, public = save(BOB, tmp_path / "bob")
    private.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_identity(private)
    private.chmod(0o600)
    public.chmod(0o600)
    with pytest.raises(ConfigError, match="private"):
        load_identity(public)
    with pytest.raises(ConfigError, match="public"):
        load_public(private)
    private.write_bytes(private.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="expected two PEM blocks, found 1"):
        load_identity(private)
    with pytest.raises(ConfigError, match="assay package keys NAME"):
        load_public(tmp_path / "none.pub")


def test_the_comparison_of_kids_takes_one_time() -> None:
    """Of equal lengths: a difference at the front or at the end, medians within 2 x of each other."""
    kid = ALICE.public.kid * 200
    early, late = "!" + kid[1:], kid[:-1] + "!"

    def median(other: str) -> float:
        times = []
        for _ in range(301):
            start = time.perf_counter_ns()
            same(kid, other)
            times.append(time.perf_counter_ns() - start)
        return sorted(times)[150]

    assert 0.5 < median(early) / median(late) < 2
