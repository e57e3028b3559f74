"""The client's half: a served model as an `Access` (core/theft.py), so that whatever runs in process runs over HTTP too."""

from dataclasses import dataclass, field
from typing import Any

import httpx
from torch import Tensor, nn

from ...core.errors import ConfigError, Denied
from ..gateway import Refused, Reply
from .wire import Want, packed, reply_of


@dataclass(frozen=True)
class Remote:
    """client: with the service's address as its base; key: of one account, never shown."""

    client: httpx.Client
    key: str = field(repr=False)

    def query(self, want: Want, inputs: Tensor) -> Reply:
        """Denied where this is not granted or the licence has ended; ConfigError where the service refuses the request."""
        headers = {**self._headers(), "Content-Type": "application/json"}
        response = self.client.post(f"/v1/{want}", content=packed(inputs), headers=headers)
        said = _said(response)
        if "values" not in said:
            raise _complaint(response, said)
        return reply_of(said, want)

    def scores(self, inputs: Tensor) -> Tensor:
        return self._all(self.query("scores", inputs))

    def labels(self, inputs: Tensor) -> Tensor:
        return self._all(self.query("labels", inputs))

    def weights(self) -> nn.Module:
        raise Denied("a service hands out no weights")

    def texts(self, prompts_NP: Tensor, tokens: int, temperature: float | None = None) -> Tensor:
        raise Denied("this service answers scores and labels, no texts")

    def author(self) -> nn.Module:
        raise Denied("this service answers scores and labels, no texts")

    @property
    def queries(self) -> int:
        """Samples answered to this account."""
        return int(self.account()["used"])

    def account(self) -> dict[str, Any]:
        response = self.client.get("/v1/account", headers=self._headers())
        said = _said(response)
        if "used" not in said:
            raise _complaint(response, said)
        return said

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def _all(self, reply: Reply) -> Tensor:
        if reply.refused is not None:
            raise Refused(self.key.partition(".")[0], reply)
        return reply.values


def _said(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:  # a proxy's page
        found = None
    return found if isinstance(found, dict) else {}


def _complaint(response: httpx.Response, said: dict[str, Any]) -> Exception:
    why = said.get("error", {}).get("message", "no reason given")
    if response.status_code in (402, 403):
        return Denied(why)
    return ConfigError(f"the service refused the request ({response.status_code}): {why}")
