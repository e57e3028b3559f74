"""A Vyper contract on an EVM in this process (pyrevm, Rust's revm). Needs the extra `chain`.

There is no network, no key and no fee: an account's address is a digest of its name, its funds are without end, and the block has
the time it is told. What the EVM checks is the rules, and where every wei is.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import ConfigError

FUNDS = 2**200
"""Wei that every account has when it is first named."""


class Reverted(RuntimeError):
    """The contract refused; nothing has changed. Says why."""


class Compiled(NamedTuple):
    code: bytes
    functions: dict[str, bytes]
    """Selectors, by name."""


class Contract:
    """Deployed to a machine of its own. accounts: addresses by name."""

    def __init__(self, source: Path) -> None:
        compiled = compile_file(source)
        self.functions = compiled.functions
        self.evm: Any = import_module("pyrevm").EVM(spec_id="Cancun")
        self.accounts: dict[str, int] = {}
        self.address: str = self.evm.deploy(hexed(self.account("deployer")), compiled.code)

    def call(self, who: str, function: str, words: Sequence[int], value: int = 0) -> list[int]:
        """The answer's words of 32 bytes; who: a name."""
        return self.send(hexed(self.account(who)), self.address, self.data(function, words), value)

    def send(self, caller: str, to: str, data: bytes, value: int = 0) -> list[int]:
        """A transaction between any two addresses."""
        try:
            answer = self.evm.message_call(caller, to, calldata=data, value=value)
        except RuntimeError as error:
            raise Reverted(_reason(str(error))) from None
        finally:
            self.evm.reset_transient_storage()  # which lasts for one transaction
        return [int.from_bytes(answer[i : i + 32], "big") for i in range(0, len(answer), 32)]

    def data(self, function: str, words: Sequence[int]) -> bytes:
        return self.functions[function] + b"".join(word.to_bytes(32, "big") for word in words)

    def at(self, seconds: int) -> None:
        """The time of the block from now on."""
        self.evm.set_block_env(import_module("pyrevm").BlockEnv(timestamp=seconds))

    def account(self, name: str) -> int:
        """The address of a name, funded when it is first used."""
        if name not in self.accounts:
            self.accounts[name] = int(
                hashlib.sha256(b"assay-account/v1" + name.encode()).hexdigest()[-40:], 16
            )
            self.evm.set_balance(hexed(self.accounts[name]), FUNDS)
        return self.accounts[name]

    def balance(self, name: str | None = None) -> int:
        """In wei; the contract's without a name."""
        return int(self.evm.get_balance(self.address if name is None else hexed(self.account(name))))


@cache
def compile_file(source: Path) -> Compiled:
    try:
        import_module("pyrevm")
        compile_code = import_module("vyper.compiler").compile_code
    except ModuleNotFoundError as error:
        raise ConfigError(f"--ledger chain needs {error.name}: pip install 'assay[chain]'") from None
    made = compile_code(source.read_text(), output_formats=["bytecode", "method_identifiers"])
    names = made["method_identifiers"].items()
    functions = {name.split("(")[0]: int(selector, 16).to_bytes(4, "big") for name, selector in names}
    return Compiled(bytes.fromhex(made["bytecode"][2:]), functions)


def hexed(address: int) -> str:
    return f"0x{address:040x}"


def _reason(error: str) -> str:
    """A revert's text, which stands behind the selector of Error(string), an offset and a length. A lock says nothing."""
    output = error.partition("output: 0x")[2].partition(" ")[0]
    return bytes.fromhex(output)[68:].rstrip(b"\0").decode() or f"no reason given: {error[:100]}"
