"""The owner's secret: standard vectors, literals that must hold on every platform, and nothing that shows the bytes."""

import copy
import dataclasses
import hashlib
import hmac
import itertools
import math
import pickle
import pprint

import numpy as np
import pytest
import torch
from scipy import stats

from assay.core.key import Key
from assay.core.secret import Secret, hkdf, seed_for
from assay.kernels import philox

SECRET = Secret(bytes(range(32)))
OWNERS = [Secret.simulated(seed, "test") for seed in range(200)]


@pytest.mark.parametrize(
    ("secret", "salt", "info", "length", "output"),
    [
        pytest.param(
            "0b" * 22,
            "000102030405060708090a0b0c",
            "f0f1f2f3f4f5f6f7f8f9",
            42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            id="1",
        ),
        pytest.param(
            bytes(range(0x00, 0x50)).hex(),
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            82,
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            id="2: long",
        ),
        pytest.param(
            "0b" * 22,
            "",
            "",
            42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            id="3: no salt, no info",
        ),
    ],
)
def test_hkdf_vectors_of_rfc_5869(secret: str, salt: str, info: str, length: int, output: str) -> None:
    found = hkdf(bytes.fromhex(secret), bytes.fromhex(salt), bytes.fromhex(info), length)
    assert found.hex() == output


def test_hkdf_lengths() -> None:
    longest = hkdf(b"x", b"", b"", 8160)
    assert len(longest) == 8160
    for length in (0, 1, 31, 32, 33, 64):
        assert hkdf(b"x", b"", b"", length) == longest[:length]
    with pytest.raises(ValueError, match="8160"):
        hkdf(b"x", b"", b"", 8161)


# --- the same on every platform, for ever


def test_golden_bytes() -> None:
    assert SECRET.derive("golden", 16).hex() == "627da1f4fda28f619fd6b427eabbc696"
    extracted = hmac.digest(b"assay/secret/v1", bytes(range(32)), "sha256")
    assert SECRET.derive("golden", 16) == hmac.digest(extracted, b"golden\x01", "sha256")[:16]
    assert SECRET.fingerprint == "3215805a62d974c5"
    assert SECRET.stream("golden") == (3292984414, 3396828154)


def test_golden_bits_and_choices() -> None:
    assert SECRET.bits("golden", 19).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0]
    assert SECRET.integers("golden", 12, 10).tolist() == [0, 0, 4, 2, 0, 4, 5, 8, 2, 3, 7, 5]
    assert SECRET.integers("golden", 4, 2**32).tolist() == [1686956860, 3936105150, 2531934004, 2354249322]
    assert SECRET.order("golden", 9).tolist() == [3, 0, 8, 7, 5, 6, 1, 2, 4]


def test_golden_material() -> None:
    expected = ["-0x1.e4f474p+0", "0x1.e95190p-1", "-0x1.031664p-2", "0x1.19a7f2p-1", "-0x1.417894p+0"]
    literals = [float.fromhex(value) for value in expected]
    np.testing.assert_allclose(philox.normals(SECRET.stream("golden"), 5).numpy(), literals, rtol=2**-23)
    grey = (SECRET.images("golden", 2, 3) * 255).round().to(torch.uint8)
    assert grey.tolist() == [[51, 187, 244], [26, 63, 129]]


def test_golden_seeds() -> None:
    assert seed_for(0, "golden") == 6949906412481161977
    assert seed_for(7, "a", 3) == 3610812705404604021
    simulated = "b72a71de61857d611e10513c541a97d729f710ee54f300e61ea79e123663784d"
    assert Secret.simulated(0, "owner").raw.hex() == simulated


def test_names_are_told_apart_from_their_joins() -> None:
    assert seed_for(1, "a/b") != seed_for(1, "a", "b")
    assert Secret.simulated(1, "a/b") != Secret.simulated(1, "a", "b")


# --- shapes and ranges


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 129, 65280])
def test_bits_are_bits(count: int) -> None:
    bits = SECRET.bits("p", count)
    assert (bits.shape, bits.dtype) == ((count,), torch.uint8)
    assert set(bits.tolist()) <= {0, 1}
    assert bits.tolist() == SECRET.bits("p", 65280)[:count].tolist()


def test_bits_end_where_hkdf_does() -> None:
    with pytest.raises(ValueError, match="Philox"):
        SECRET.bits("p", 65281)


@pytest.mark.parametrize("count", [0, 1, 7, 512, 513, 2000])
def test_integers_at_every_length(count: int) -> None:
    """512 draws are one chunk; the next follow on it."""
    found = SECRET.integers("p", count, 7)
    assert (found.shape, found.dtype) == ((count,), torch.int64)
    assert found.tolist() == SECRET.integers("p", 2000, 7)[:count].tolist()


def test_integers_at_every_range() -> None:
    assert SECRET.integers("p", 5, 1).tolist() == [0] * 5
    for below in (2, 3, 255, 2**31 + 1, 2**32):
        found = SECRET.integers("p", 600, below)
        assert 0 <= int(found.min()) <= int(found.max()) < below
    for below in (0, -1, 2**32 + 1):
        with pytest.raises(ValueError, match="below"):
            SECRET.integers("p", 5, below)


def test_integers_reject_instead_of_folding() -> None:
    """3 x 2^30 of 2^32: folding would make the first third twice as likely; rejection keeps thirds."""
    counts = np.bincount(SECRET.integers("thirds", 6000, 3 * 2**30).numpy() >> 30, minlength=3)
    assert stats.chisquare(counts).pvalue > 1e-3
    words = [int.from_bytes(SECRET.derive("integers/golden/0", 12)[i : i + 4], "big") for i in (0, 4, 8)]
    assert words[1] >= 3 * 2**30  # so the second word is passed over
    assert SECRET.integers("golden", 2, 3 * 2**30).tolist() == [words[0], words[2]]


@pytest.mark.parametrize("count", [0, 1, 2, 129])
def test_an_order_is_a_permutation(count: int) -> None:
    order = SECRET.order("p", count)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(count))


def test_material_has_its_shape() -> None:
    images = SECRET.images("p", 2, 1, 5, 5)
    assert (images.shape, images.dtype) == ((2, 1, 5, 5), torch.float32)
    assert torch.equal(
        (images * 255).round().flatten().to(torch.uint8), philox.octets(SECRET.stream("p"), 50)
    )
    assert 0 <= images.min() <= images.max() <= 1


# --- fairness over many owners


def test_choices_are_uniform_over_owners() -> None:
    draws = torch.stack([owner.integers("labels", 50, 10) for owner in OWNERS])
    assert stats.chisquare(np.bincount(draws.flatten().numpy(), minlength=10)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(draws[:, 0].numpy(), minlength=10)).pvalue > 1e-3
    pairs = 10 * draws[:, :-1] + draws[:, 1:]
    assert stats.chisquare(np.bincount(pairs.flatten().numpy(), minlength=100)).pvalue > 1e-3


def test_bits_are_fair_over_owners() -> None:
    bits = torch.stack([owner.bits("message", 256) for owner in OWNERS]).double()
    ones = bits.sum(1).numpy()
    assert abs(float(bits.mean()) - 0.5) < 4 * 0.5 / math.sqrt(bits.numel())
    assert (np.abs(ones - 128) < 5 * 8).all()
    middle = stats.binom.pmf(128, 256, 0.5)
    expected = np.array([(1 - middle) / 2, middle, (1 - middle) / 2]) * len(OWNERS)
    assert (
        stats.chisquare([(ones < 128).sum(), (ones == 128).sum(), (ones > 128).sum()], expected).pvalue > 1e-3
    )
    by_position = bits.mean(0)
    assert float((by_position - 0.5).abs().max()) < 5 * 0.5 / math.sqrt(len(OWNERS))


def test_orders_are_uniform_over_owners() -> None:
    orders = [tuple(Secret.simulated(seed).order("p", 3).tolist()) for seed in range(1200)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


# --- one purpose, one output


def test_purposes_are_independent() -> None:
    size = 2**16 - 256
    bits = {purpose: SECRET.bits(purpose, size).double() * 2 - 1 for purpose in ("a", "b", "a/0", "a/1", "")}
    for one, other in itertools.combinations(bits.values(), 2):
        assert abs(float((one * other).mean())) < 4 / math.sqrt(size)


def test_methods_of_one_purpose_share_no_bytes() -> None:
    """Bits, choices and streams called by the same name, or by a name that spells out a chunk, are different outputs."""
    kinds: dict[str, bytes] = {}
    for purpose in ("a", "a/0", "philox/a", "bits/a", "fingerprint"):
        bits = np.packbits(SECRET.bits(purpose, 64).numpy()).tobytes()
        words = SECRET.integers(purpose, 2, 2**32).tolist()
        kinds |= {
            f"bits {purpose}": bits,
            f"integers {purpose}": b"".join(word.to_bytes(4, "big") for word in words),
            f"stream {purpose}": b"".join(word.to_bytes(4, "big") for word in SECRET.stream(purpose)),
        }
    assert len(set(kinds.values())) == len(kinds)


def test_no_purpose_yields_the_public_fingerprint() -> None:
    public = bytes.fromhex(SECRET.fingerprint)
    for purpose in ("fingerprint", "", "assay/fingerprint/v1"):
        assert SECRET.derive(purpose, 8) != public
        assert np.packbits(SECRET.bits(purpose, 64).numpy()).tobytes() != public


def test_another_secret_gives_other_material() -> None:
    neighbour = Secret(bytes([1, *range(1, 32)]))
    assert neighbour.fingerprint != SECRET.fingerprint
    agreement = (neighbour.bits("p", 4096) == SECRET.bits("p", 4096)).double().mean()
    assert float(agreement) == pytest.approx(0.5, abs=4 * 0.5 / 64)


# --- secrecy


def test_a_secret_is_never_shown() -> None:
    for thing in (SECRET, [SECRET], {"secret": SECRET}, (SECRET,), Key(SECRET), [Key(SECRET)]):
        for shown in (repr(thing), str(thing), f"{thing}", f"{thing!r:>200}", pprint.pformat(thing)):
            assert SECRET.raw.hex() not in shown
            assert repr(SECRET.raw)[2:20] not in shown
            assert "fingerprint=" in shown
    assert SECRET.fingerprint in repr(SECRET)


def test_no_dump_of_fields_shows_a_secret() -> None:
    dump = repr(dataclasses.asdict(Key(SECRET)))
    assert repr(SECRET.raw)[2:20] not in dump
    assert "fingerprint=" in dump
    assert not dataclasses.is_dataclass(Secret)
    with pytest.raises(TypeError):
        vars(SECRET)


def test_errors_do_not_show_a_secret() -> None:
    with pytest.raises(ValueError, match="32 bytes, got 31") as caught:
        Secret(SECRET.raw[:31])
    assert repr(SECRET.raw)[2:20] not in repr(caught.value)
    with pytest.raises(AttributeError):
        SECRET.raw = b"x" * 32  # type: ignore[misc]


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_secret_is_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, got {length}"):
        Secret(bytes(length))


def test_the_fingerprint_is_not_a_plain_hash() -> None:
    assert len(SECRET.fingerprint) == 16
    assert SECRET.fingerprint not in SECRET.raw.hex()
    assert SECRET.fingerprint != hashlib.sha256(SECRET.raw).hexdigest()[:16]
    assert len({owner.fingerprint for owner in OWNERS}) == len(OWNERS)


def test_equality_is_of_bytes() -> None:
    same = Secret(bytes(bytearray(range(32))))
    assert same == SECRET
    assert hash(same) == hash(SECRET)
    assert SECRET not in (SECRET.raw, Secret(bytes(32)))
    for copied in (copy.deepcopy(SECRET), pickle.loads(pickle.dumps(SECRET))):
        assert copied == SECRET


# --- seeds and owners


def test_fresh_secrets_differ() -> None:
    assert len({Secret.fresh() for _ in range(50)}) == 50


def test_simulated_owners_are_reproducible_and_distinct() -> None:
    assert Secret.simulated(3, "owner", 4) == Secret.simulated(3, "owner", 4)
    names: list[tuple[int, tuple[str | int, ...]]] = [
        (3, ("owner",)),
        (4, ("owner",)),
        (3, ("rival",)),
        (3, ("owner", 0)),
    ]
    assert len({Secret.simulated(seed, *rest) for seed, rest in names}) == len(names)


def test_a_public_seed_reveals_nothing_of_a_simulated_owner() -> None:
    assert seed_for(3, "owner").to_bytes(8, "big") not in Secret.simulated(3, "owner").raw


def test_seeds_are_63_bits_and_independent() -> None:
    seeds = np.array([seed_for(seed, "name", i) for seed in range(50) for i in range(40)])
    assert (seeds >= 0).all()
    assert seeds.max() < 2**63
    assert len(set(seeds.tolist())) == 2000
    assert stats.kstest(seeds / 2**63, "uniform").pvalue > 1e-3
    neighbours = seeds.reshape(50, 40) / 2**63
    assert abs(np.corrcoef(neighbours[:, :-1].ravel(), neighbours[:, 1:].ravel())[0, 1]) < 0.1
    assert torch.Generator().manual_seed(int(seeds.max())).initial_seed() == seeds.max()
