"""Gas of the contract's operations (evidence/rights.vy), as a table: `python benchmarks/rights.py`. Needs the extra `chain`.

The EVM in this process never ends its first transaction, so what it has touched once stays cheap. Every operation is therefore
measured on a fresh machine into which code, balances, time and all slots written so far were copied: there it is a transaction of
its own.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from assay.evidence.chain import SOURCE
from assay.evidence.evm import Contract, compile_file, hexed

DAY = 86_400


@dataclass
class Measured:
    """slots: of the contract's storage that some call has written."""

    contract: Contract
    slots: set[int] = field(default_factory=set)

    def gas(self, who: str, function: str, words: Sequence[int], value: int = 0) -> int:
        """Done on the contract, measured on the copy."""
        caller = hexed(self.contract.account(who))
        copy = self._copy()
        data = self.contract.data(function, words)
        answer = copy.message_call(caller, self.contract.address, calldata=data, value=value)
        trace = io.StringIO()
        self.contract.evm.tracing = True
        with redirect_stdout(trace):
            done = self.contract.call(who, function, words, value)
        self.contract.evm.tracing = False
        assert done == [int.from_bytes(answer, "big")], f"{function}: the copy is none"
        self.slots |= set(_written(trace.getvalue()))
        return int(copy.result.gas_used)

    def _copy(self) -> Any:
        pyrevm, contract = import_module("pyrevm"), self.contract
        made, source = pyrevm.EVM(spec_id="Cancun"), contract.evm
        made.set_block_env(source.env.block)
        for address in contract.accounts.values():
            info = pyrevm.AccountInfo(balance=source.get_balance(hexed(address)))
            made.insert_account_info(hexed(address), info)
        code = bytes(source.get_code(contract.address))
        info = pyrevm.AccountInfo(nonce=1, balance=contract.balance(), code=code)
        made.insert_account_info(contract.address, info)
        for slot in self.slots:
            before = made.snapshot()
            made.insert_account_storage(contract.address, slot, source.storage(contract.address, slot))
            made.revert(before)  # the value is in the database; that it was touched is forgotten
        return made


def _written(trace: str) -> Iterator[int]:
    """The slots of every SSTORE, on top of the stack; some lines are no steps."""
    for line in trace.splitlines():
        step = json.loads(line) if line.startswith('{"pc"') else {}
        if step.get("opName") == "SSTORE":
            yield int(step["stack"][-1], 16)


def _offer(contract: Contract, request: int, shares: int) -> list[int]:
    """The words of an offer at 1000 for 500 queries in 30 days, with a royalty of 5 %."""
    accounts = [contract.account(f"holder{i}") for i in range(shares)]
    points = [10_000 // shares] * (shares - 1)
    flat = [word for share in zip(accounts, [*points, 10_000 - sum(points)], strict=True) for word in share]
    return [request, 2**255, 2**254, 1000, 500, 30 * DAY, 500, 256, shares, *flat]


def table() -> dict[str, int]:
    """Gas by operation."""
    contract = Contract(SOURCE)
    deployed = {"deploy": int(contract.evm.result.gas_used)}
    for name in ("ann", "dot", "eve", *(f"holder{i}" for i in range(16))):
        contract.account(name)
    contract.at(1)
    run, first, many = Measured(contract).gas, _offer(contract, 1, 2), _offer(contract, 2, 16)
    found = deployed | {
        "offer, 2 shares": run("ann", "offer", first),
        "offer, 16 shares": run("ann", "offer", many),
        "buy, 2 shares, the offer's first": run("dot", "buy", [3, 1], 1000),
        "buy, 2 shares": run("dot", "buy", [4, 1], 1000),
        "buy, 16 shares, the offer's first": run("dot", "buy", [5, 2], 1000),
        "buy, 16 shares": run("dot", "buy", [6, 2], 1000),
        "buy, asked again": run("dot", "buy", [6, 2], 1000),
        "meter, a licence's first": run("dot", "meter", [7, 1, 2]),
        "meter": run("dot", "meter", [8, 1, 2]),
        "ask": run("dot", "ask", [9, 1, 700, contract.account("eve")]),
        "take, 2 shares": run("eve", "take", [10, 1], 700),
        "withdraw": run("holder1", "withdraw", [11]),
        "revoke": run("ann", "revoke", [12, 2]),
        "close": run("ann", "close", [13, 1]),
    }
    contract.at(31 * DAY)
    return found | {"expire": run("anybody", "expire", [3])}


if __name__ == "__main__":
    print(f"| operation ({len(compile_file(SOURCE).code):,} bytes of code) | gas |\n|---|---|")
    for name, gas in table().items():
        print(f"| {name} | {gas:,} |")
