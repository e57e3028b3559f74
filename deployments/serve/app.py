"""The gateway over HTTP (FastAPI, extra `serve`): POST /v1/scores and /v1/labels, GET /v1/account.

A key comes as `Authorization: Bearer KEY`. Nothing is read of a request without one, nothing beyond the limit of one with it.
200: all answered; 429: the budget ended within or before it; 403: the account is revoked (both with the values answered before),
or the deployment does not grant it; 402: the licence under which the model is served has ended. Other errors are
`{"error": {code, message}}`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from ...core.errors import Denied
from ..package.identity import Rejected
from .service import Service
from .wire import Problem, Want, inputs_of, replied

WANTS = ("scores", "labels")


def app(service: Service) -> FastAPI:
    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.gateway.book.close()

    api = FastAPI(title="assay", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    api.add_exception_handler(Problem, _problem)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _broken)

    @api.post("/v1/{want}")
    async def ask(want: str, request: Request) -> JSONResponse:
        if want not in WANTS:
            raise Problem(404, "path", f"expected /v1/scores or /v1/labels, got /v1/{want[:32]}")
        account = _account(service, request)
        body = await _body(request, service.limits.body)
        return await run_in_threadpool(_answered, service, cast(Want, want), account, body)

    @api.get("/v1/account")
    async def account(request: Request) -> JSONResponse:
        return JSONResponse(await run_in_threadpool(service.about, _account(service, request)))

    return api


def _answered(service: Service, want: Want, account: str, body: bytes) -> JSONResponse:
    """In a thread: the gateway waits for its book."""
    inputs = inputs_of(body, service.shape, service.limits)
    try:
        status, said = replied(service.query(want, inputs, account))
    except Rejected as error:
        raise Problem(402, "licence", f"{error}") from None
    except Denied as error:
        raise Problem(403, "denied", str(error)) from None
    return JSONResponse(said, status)


def _account(service: Service, request: Request) -> str:
    """Whose key the request brings; the key itself is not repeated, whatever is wrong with it."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    account = service.keyring.account(key) if kind.lower() == "bearer" else None
    if account is None:
        raise Problem(401, "key", "expected `Authorization: Bearer KEY` with a key that was issued here")
    return account


async def _body(request: Request, most: int) -> bytes:
    """Read piece by piece: what a client says of its length binds nobody."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "type", f"expected application/json, got {kind[:64] or 'nothing'}")
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise Problem(413, "size", f"expected a body of at most {most} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _problem(_: Request, error: Exception) -> JSONResponse:
    found = cast(Problem, error)
    headers = {"WWW-Authenticate": "Bearer"} if found.status == 401 else None
    return JSONResponse(found.said(), found.status, headers)


async def _http(_: Request, error: Exception) -> JSONResponse:
    """No such path, no such method."""
    found = cast(HTTPException, error)
    said = Problem(found.status_code, "http", str(found.detail)).said()
    return JSONResponse(said, found.status_code, found.headers)


async def _broken(_: Request, error: Exception) -> JSONResponse:
    """Our own fault; the client is told no more."""
    return JSONResponse(Problem(500, "internal", "the service failed").said(), 500)
