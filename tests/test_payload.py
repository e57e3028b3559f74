"""The payload: what was written is read, whatever the pad; and a payload leaves the bits uniform."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from assay.core.errors import ConfigError
from assay.core.payload import decoded, encoded, payload_bits
from assay.core.secret import Secret


@given(st.binary(min_size=1, max_size=8), st.integers(64, 257), st.integers(0, 5))
def test_what_was_written_is_read(payload: bytes, bits: int, seed: int) -> None:
    secret = Secret.simulated(seed)
    found = decoded(encoded(payload.hex(), secret, bits, "p"), payload.hex(), secret, "p")
    assert (found.decoded, found.whole, found.accuracy) == (payload.hex(), True, 1.0)
    assert found.bits == 8 * len(payload)


def test_repetitions_outvote_errors_and_halves_do_not() -> None:
    secret = Secret.simulated(1)
    bits_B = encoded("a5", secret, 40, "p")  # 5 repetitions
    two = bits_B.clone()
    two[:16] ^= 1
    found = decoded(two, "a5", secret, "p")
    assert (found.whole, found.decoded, found.accuracy) == (True, "a5", 0.6)
    three = bits_B.clone()
    three[:24] ^= 1
    assert decoded(three, "a5", secret, "p").decoded == "5a"


def test_without_a_payload_the_message_is_the_pad() -> None:
    secret = Secret.simulated(1)
    pad_B = encoded(None, secret, 12, "p")
    assert torch.equal(pad_B, secret.bits("p", 12))
    assert decoded(pad_B, None, secret, "p").whole
    wrong = pad_B.clone()
    wrong[0] ^= 1
    found = decoded(wrong, None, secret, "p")
    assert (found.whole, found.accuracy, found.decoded) == (False, 11 / 12, "")


def test_a_payload_of_ones_leaves_the_bits_uniform() -> None:
    """Over secrets every embedded bit is fair, so the null stays exact: 2,000 keys of 64 bits."""
    ones = np.array([int(encoded("ff", Secret.simulated(s), 64, "p").sum()) for s in range(2000)])
    counts, _ = np.histogram(stats.binom.cdf(ones, 64, 0.5), bins=[0, 0.1, 0.5, 0.9, 1.0])
    edges = np.array([stats.binom.ppf(q, 64, 0.5) for q in (0.1, 0.5, 0.9)])
    below = [float(stats.binom.cdf(edge - 1, 64, 0.5)) for edge in edges]
    expected = np.diff(np.array([0.0, *below, 1.0]))
    assert stats.chisquare(counts, 2000 * expected).pvalue > 1e-4


def test_bits_are_most_significant_first() -> None:
    assert payload_bits("81").tolist() == [1, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(("payload", "bits"), [("xyz", 64), ("0", 64), ("", 64), ("0011223344", 32)])
def test_bad_payloads_name_the_remedy(payload: str, bits: int) -> None:
    with pytest.raises(ConfigError, match=r"watermark\.payload="):
        encoded(payload, Secret.simulated(0), bits, "p")
