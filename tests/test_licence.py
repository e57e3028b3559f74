"""Licences and revocation lists: one text of each statement, nothing outside their terms, no way back to an older list."""

import base64
import hashlib
import itertools
import json
import stat
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.core.errors import ConfigError
from assay.deployments.licence import licence, revocation
from assay.deployments.licence.licence import Licence, issue, permit, terms
from assay.deployments.licence.revocation import Revocations, newest, published
from assay.deployments.licence.token import sign, verified
from assay.deployments.package.identity import Identity, Rejected

OWNER, ALICE, BOB, EVE = (Identity.fresh() for _ in range(4))
NOW, PACKAGE = 1_800_000_000, hashlib.sha256(b"a package").hexdigest()
TERMS = terms(["query"], NOW - 10, NOW + 10, queries=100, revocable=False)
REVOCABLE = terms(["query"], NOW - 10, NOW + 10)


def allowed(token: str, **other: Any) -> Licence:
    asked = {"package": PACKAGE, "licensee": ALICE.public.kid, "operation": "query", "now": NOW, **other}
    return permit(token, OWNER.public, **asked)


def flips(token: str) -> list[str]:
    """Every text one bit away that is ASCII still."""
    raw = token.encode()
    places = itertools.product(range(len(raw)), range(7))
    return [(raw[:i] + bytes([raw[i] ^ 1 << bit]) + raw[i + 1 :]).decode("ascii") for i, bit in places]


def test_a_licence_says_what_was_granted() -> None:
    found = allowed(issue(PACKAGE, ALICE.public, TERMS, OWNER))
    assert found.terms == TERMS
    assert (found.iss, found.sub, found.package) == (OWNER.public.kid, ALICE.public.kid, PACKAGE)


def test_every_single_bit_of_a_licence_counts() -> None:
    """Also those that base64 decoders overlook."""
    token = issue(PACKAGE, ALICE.public, TERMS, OWNER)
    for changed in flips(token):
        with pytest.raises(Rejected):
            allowed(changed)


def test_every_single_bit_of_a_revocation_list_counts() -> None:
    token = published(OWNER, NOW + 10, ["ab" * 16])
    assert revocation.read(token, OWNER.public).sequence == 1
    for changed in flips(token):
        with pytest.raises(Rejected):
            revocation.read(changed, OWNER.public)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another package": ({"package": "0" * 64}, "another package"),
    "another party": ({"licensee": BOB.public.kid}, "another party"),
    "another operation": ({"operation": "weights"}, "allows query, not weights"),
    "too early": ({"now": NOW - 11}, "does not hold yet"),
    "the last second": ({"now": NOW + 10}, "has expired"),
    "another pinned": ({"pinned": "0" * 64}, "another licence is pinned"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nothing_outside_the_terms(case: str) -> None:
    changed, how = REFUSED[case]
    with pytest.raises(Rejected, match=how):
        allowed(issue(PACKAGE, ALICE.public, TERMS, OWNER), **changed)


def test_times_are_a_half_open_interval() -> None:
    token = issue(PACKAGE, ALICE.public, TERMS, OWNER)
    assert allowed(token, now=NOW - 10) == allowed(token, now=NOW + 9)


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def resigned(change: Callable[[dict[str, Any]], object], head: dict[str, Any] | None = None) -> str:
    """What the owner never said, under his signature: claims changed, or a head that he would not write."""
    claims = jwt.decode(issue(PACKAGE, ALICE.public, TERMS, OWNER), options={"verify_signature": False})
    change(claims)
    headers = {"typ": "wmpkg-licence+jwt", "kid": OWNER.public.kid, **(head or {})}
    return jwt.encode(claims, OWNER.signing, algorithm="EdDSA", headers=headers)


def unsigned(algorithm: str) -> str:
    """With the head that an attacker writes: no signature, or a MAC whose key is what everybody knows."""
    good = issue(PACKAGE, ALICE.public, TERMS, OWNER)
    head = encoded({"alg": algorithm, "typ": "wmpkg-licence+jwt", "kid": OWNER.public.kid})
    return f"{head}.{good.split('.')[1]}." + ("" if algorithm == "none" else good.split(".")[2])


WRONG: dict[str, tuple[Callable[[], str], str]] = {
    "signed by another": (lambda: issue(PACKAGE, ALICE.public, TERMS, EVE), "not signed by"),
    "another kind": (lambda: published(OWNER, NOW + 10), "is no licence"),
    "another kid": (lambda: resigned(lambda c: None, {"kid": EVE.public.kid}), "is no licence"),
    "an unknown critical header": (lambda: resigned(lambda c: None, {"crit": ["x"], "x": 1}), "licence"),
    "another issuer in the claims": (
        lambda: resigned(lambda c: c.update(iss=EVE.public.kid)),
        "is no licence",
    ),
    "no algorithm": (lambda: unsigned("none"), "not signed by"),
    "a MAC under the public key": (lambda: unsigned("HS256"), "not signed by"),
    "no terms": (lambda: resigned(lambda c: c.pop("terms")), "damaged: terms"),
    "no end": (lambda: resigned(lambda c: c["terms"].pop("not_after")), "not_after"),
    "a negative limit": (lambda: resigned(lambda c: c["terms"].update(queries=-1)), "queries"),
    "a limit as text": (lambda: resigned(lambda c: c["terms"].update(queries="100")), "queries"),
    "an unknown operation": (
        lambda: resigned(lambda c: c["terms"].update(operations=["sell"])),
        "operations",
    ),
    "an unknown claim": (lambda: resigned(lambda c: c.update(admin=True)), "admin"),
    "empty": (lambda: "", "damaged"),
    "two parts": (lambda: ".".join(issue(PACKAGE, ALICE.public, TERMS, OWNER).split(".")[:2]), "damaged"),
    "a line end": (lambda: issue(PACKAGE, ALICE.public, TERMS, OWNER) + "\n", "damaged"),
    "endless": (lambda: "a" * 2**21, "damaged"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_tokens_are_no_licence(case: str) -> None:
    make, how = WRONG[case]
    with pytest.raises(Rejected, match=how):
        allowed(make())


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_text_is_a_licence(text: str) -> None:
    with pytest.raises(Rejected):
        licence.read(text, OWNER.public)


@pytest.mark.parametrize(
    ("changed", "how"),
    [
        ({"operations": []}, "operations"),
        ({"operations": ["sell"]}, "operations"),
        ({"not_after": NOW - 10}, "later than"),
        ({"queries": -1}, "queries"),
        ({"output": "gradients"}, "output"),
        ({"decimals": 2}, "labels have none"),
    ],
)
def test_terms_that_cannot_be_are_explained(changed: dict[str, Any], how: str) -> None:
    with pytest.raises(ConfigError, match=how):
        terms(**{"operations": ["query"], "not_before": NOW - 10, "not_after": NOW, **changed})


def test_revocation_needs_a_current_list_of_the_issuer() -> None:
    token = issue(PACKAGE, ALICE.public, REVOCABLE, OWNER)
    number = licence.read(token, OWNER.public).jti
    clean = revocation.read(published(OWNER, NOW + 5), OWNER.public)
    allowed(token, revoked=clean)
    for shown, now, how in (
        (None, NOW, "expected the issuer's revocation list"),
        (clean, NOW + 5, "past its date"),
        (revocation.read(published(EVE, NOW + 5), EVE.public), NOW, "another issuer's"),
        (revocation.read(published(OWNER, NOW + 5, [number]), OWNER.public), NOW, "was revoked"),
    ):
        with pytest.raises(Rejected, match=how):
            allowed(token, revoked=shown, now=now)


def test_what_was_revoked_stays_revoked() -> None:
    first = revocation.read(published(OWNER, NOW, ["ab" * 16]), OWNER.public)
    second = revocation.read(published(OWNER, NOW + 1, ["01" * 16, "ab" * 16], first), OWNER.public)
    assert (second.sequence, second.revoked) == (2, ("01" * 16, "ab" * 16))


def test_an_older_list_is_refused_and_two_of_one_number(tmp_path: Path) -> None:
    state = tmp_path / "seen.json"
    first = published(OWNER, NOW)
    second = published(OWNER, NOW, ["ab" * 16], revocation.read(first, OWNER.public))
    other = published(OWNER, NOW + 1, [], revocation.read(first, OWNER.public))
    for token in (first, first, second, second):
        newest(token, OWNER.public, state)
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    with pytest.raises(Rejected, match="has number 1, number 2 was seen"):
        newest(first, OWNER.public, state)
    with pytest.raises(Rejected, match="two revocation lists of number 2"):
        newest(other, OWNER.public, state)
    newest(published(EVE, NOW), EVE.public, state)
    assert newest(second, OWNER.public, state).sequence == 2
    state.write_text("{}x")
    with pytest.raises(ConfigError, match="is damaged"):
        newest(second, OWNER.public, state)


def test_readers_at_once_never_lose_the_newest(tmp_path: Path) -> None:
    """Eight threads show ten lists in all orders: the newest stays."""
    state, tokens = tmp_path / "seen.json", []
    last: Revocations | None = None
    for _ in range(10):
        tokens.append(published(OWNER, NOW, [], last))
        last = revocation.read(tokens[-1], OWNER.public)

    def show(start: int) -> None:
        for i in range(10):
            try:
                newest(tokens[(start * 3 + i * 7) % 10], OWNER.public, state)
            except Rejected:
                continue

    threads = [threading.Thread(target=show, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert json.loads(state.read_text())[OWNER.public.kid]["sequence"] == 10


def test_an_issuer_cannot_sign_a_list_out_of_order() -> None:
    head = asdict(revocation.read(published(OWNER, NOW, ["ab" * 16]), OWNER.public))
    token = sign({**head, "revoked": ["ab" * 16, "01" * 16]}, "wmpkg-revocations+jwt", OWNER)
    assert verified(token, "wmpkg-revocations+jwt", OWNER.public)["sequence"] == 1
    with pytest.raises(Rejected, match="each licence once, in order"):
        revocation.read(token, OWNER.public)
