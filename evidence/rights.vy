# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title A book of rights
@license Apache-2.0
@notice The twin of evidence/rights.py: the same offers, purchases, resales, metered queries and pulled payments, refused for the
    same reasons. Amounts are wei, where the book in SQLite counts minor units; time is the block's.
@dev Every request has the caller's own id (a digest). Asked again with the same contents, not counting time, it gives the first
    answer, changes nothing and returns what was sent along. An id with other contents is refused. No function may be entered
    while another runs, and money leaves last.
"""

struct Share:
    account: address
    points: uint256  # of WHOLE

struct Terms:
    certificate: bytes32
    conditions: bytes32
    price: uint256
    quota: uint256
    seconds: uint256
    royalty: uint256  # of WHOLE: of a resale's price, to the shares

struct Licence:
    offer: uint256
    holder: address
    quota: uint256
    used: uint256
    expires: uint256
    status: uint256
    asked: uint256
    buyer: address  # who may take it at the price asked; empty: nobody

struct First:
    content: bytes32
    answer: uint256

WHOLE: constant(uint256) = 10_000
LARGEST: constant(uint256) = 2**53
SHARES: constant(uint256) = 16
ACTIVE: constant(uint256) = 0
EXHAUSTED: constant(uint256) = 1
EXPIRED: constant(uint256) = 2
REVOKED: constant(uint256) = 3

sellers: public(HashMap[uint256, address])
closed: public(HashMap[uint256, bool])
terms: public(HashMap[uint256, Terms])
shares: HashMap[uint256, DynArray[Share, SHARES]]
licences: public(HashMap[uint256, Licence])
firsts: public(HashMap[bytes32, First])
due: public(HashMap[address, uint256])
offers: public(uint256)
sold: public(uint256)
paid: public(uint256)
withdrawn: public(uint256)


@external
def offer(request: bytes32, terms: Terms, shares: DynArray[Share, SHARES]) -> uint256:
    """
    @return The new offer's number, from 1.
    """
    assert terms.price <= LARGEST, "out of bounds"
    assert 1 <= terms.quota and terms.quota <= LARGEST, "out of bounds"
    assert 1 <= terms.seconds and terms.seconds <= LARGEST, "out of bounds"
    assert terms.royalty <= WHOLE, "bad royalty"
    total: uint256 = 0
    for share: Share in shares:
        assert share.account != empty(address) and 1 <= share.points and share.points <= WHOLE, "bad shares"
        total += share.points
    assert total == WHOLE, "bad shares"
    content: bytes32 = keccak256(abi_encode("offer", msg.sender, terms, shares))
    if self._again(request, content, 0):
        return self.firsts[request].answer
    self.offers += 1
    self.sellers[self.offers] = msg.sender
    self.terms[self.offers] = terms
    self.shares[self.offers] = shares
    return self._answered(request, content, self.offers)


@external
def close(request: bytes32, offer: uint256) -> uint256:
    """
    @notice No more purchases; licences that were bought stay.
    """
    content: bytes32 = keccak256(abi_encode("close", msg.sender, offer))
    if self._again(request, content, 0):
        return self.firsts[request].answer
    self._sellers(offer)
    self.closed[offer] = True
    return self._answered(request, content, offer)


@external
@payable
def buy(request: bytes32, offer: uint256) -> uint256:
    """
    @notice For exactly the price.
    @return The new licence's number, from 1.
    """
    content: bytes32 = keccak256(abi_encode("buy", msg.sender, offer, msg.value))
    if self._again(request, content, msg.value):
        return self.firsts[request].answer
    assert self.sellers[offer] != empty(address), "no such offer"
    assert not self.closed[offer], "offer closed"
    terms: Terms = self.terms[offer]
    assert msg.value == terms.price, "wrong price"
    self.paid += msg.value
    self._shared(offer, msg.value)
    self.sold += 1
    self.licences[self.sold] = Licence(
        offer=offer,
        holder=msg.sender,
        quota=terms.quota,
        used=0,
        expires=block.timestamp + terms.seconds,
        status=ACTIVE,
        asked=0,
        buyer=empty(address),
    )
    return self._answered(request, content, self.sold)


@external
def ask(request: bytes32, licence: uint256, price: uint256, buyer: address) -> uint256:
    """
    @notice The holder lets `buyer` take the licence at a price; a later ask replaces it.
    """
    assert price <= LARGEST, "out of bounds"
    assert buyer != empty(address), "no buyer"
    content: bytes32 = keccak256(abi_encode("ask", msg.sender, licence, price, buyer))
    if self._again(request, content, 0):
        return self.firsts[request].answer
    self._holders(licence)
    self._usable(licence)
    self.licences[licence].asked = price
    self.licences[licence].buyer = buyer
    return self._answered(request, content, licence)


@external
@payable
def take(request: bytes32, licence: uint256) -> uint256:
    """
    @notice The licence changes hands with what is left of it: the royalty goes to the offer's shares, the rest to the holder.
    """
    content: bytes32 = keccak256(abi_encode("take", msg.sender, licence, msg.value))
    if self._again(request, content, msg.value):
        return self.firsts[request].answer
    self._usable(licence)
    found: Licence = self.licences[licence]
    assert found.buyer == msg.sender, "not for sale to you"
    assert msg.value == found.asked, "wrong price"
    royalty: uint256 = msg.value * self.terms[found.offer].royalty // WHOLE
    self.paid += msg.value
    self._shared(found.offer, royalty)
    self.due[found.holder] += msg.value - royalty
    self.licences[licence].holder = msg.sender
    self.licences[licence].asked = 0
    self.licences[licence].buyer = empty(address)
    return self._answered(request, content, licence)


@external
def revoke(request: bytes32, licence: uint256) -> uint256:
    """
    @notice By the seller of its offer; what was paid stays paid.
    """
    content: bytes32 = keccak256(abi_encode("revoke", msg.sender, licence))
    if self._again(request, content, 0):
        return self.firsts[request].answer
    assert self.licences[licence].holder != empty(address), "no such licence"
    self._sellers(self.licences[licence].offer)
    self.licences[licence].status = REVOKED
    return self._answered(request, content, licence)


@external
def meter(request: bytes32, licence: uint256, queries: uint256) -> uint256:
    """
    @notice Counts queries before they are answered: all of them, or none.
    @return What is left.
    """
    assert 1 <= queries and queries <= LARGEST, "out of bounds"
    content: bytes32 = keccak256(abi_encode("meter", msg.sender, licence, queries))
    if self._again(request, content, 0):
        return self.firsts[request].answer
    self._holders(licence)
    self._usable(licence)
    used: uint256 = self.licences[licence].used + queries
    quota: uint256 = self.licences[licence].quota
    assert used <= quota, "too few queries left"
    self.licences[licence].used = used
    if used == quota:
        self.licences[licence].status = EXHAUSTED
    return self._answered(request, content, quota - used)


@external
def expire(licence: uint256) -> bool:
    """
    @notice Marks a licence past its time, which no longer answers in any case. Anybody may.
    """
    found: Licence = self.licences[licence]
    if found.holder == empty(address) or found.status != ACTIVE or block.timestamp <= found.expires:
        return False
    self.licences[licence].status = EXPIRED
    return True


@external
def withdraw(request: bytes32) -> uint256:
    """
    @notice Pays the caller all that it is due.
    """
    content: bytes32 = keccak256(abi_encode("withdraw", msg.sender))
    if self._again(request, content, 0):
        return self.firsts[request].answer
    amount: uint256 = self.due[msg.sender]
    assert amount > 0, "nothing due"
    self.due[msg.sender] = 0
    self.withdrawn += amount
    self._answered(request, content, amount)
    raw_call(msg.sender, b"", value=amount)
    return amount


@internal
def _again(request: bytes32, content: bytes32, sent: uint256) -> bool:
    """
    @notice Whether this was asked before; what was sent along then goes back.
    """
    first: bytes32 = self.firsts[request].content
    if first == empty(bytes32):
        return False
    assert first == content, "request id in use"
    if sent > 0:
        raw_call(msg.sender, b"", value=sent)
    return True


@internal
def _answered(request: bytes32, content: bytes32, answer: uint256) -> uint256:
    self.firsts[request] = First(content=content, answer=answer)
    return answer


@internal
def _shared(offer: uint256, amount: uint256):
    """
    @notice Every part is rounded down; the last share gets the rest.
    """
    shares: DynArray[Share, SHARES] = self.shares[offer]
    rest: uint256 = amount
    for i: uint256 in range(len(shares) - 1, bound=SHARES):
        part: uint256 = amount * shares[i].points // WHOLE
        rest -= part
        self.due[shares[i].account] += part
    self.due[shares[len(shares) - 1].account] += rest


@internal
@view
def _sellers(offer: uint256):
    assert self.sellers[offer] != empty(address), "no such offer"
    assert self.sellers[offer] == msg.sender, "not the seller"


@internal
@view
def _holders(licence: uint256):
    assert self.licences[licence].holder != empty(address), "no such licence"
    assert self.licences[licence].holder == msg.sender, "not the holder"


@internal
@view
def _usable(licence: uint256):
    """
    @notice Refused unless the licence is active and not past its time.
    """
    found: Licence = self.licences[licence]
    assert found.holder != empty(address), "no such licence"
    assert found.status != EXHAUSTED, "licence exhausted"
    assert found.status != REVOKED, "licence revoked"
    assert found.status != EXPIRED and block.timestamp <= found.expires, "licence expired"
