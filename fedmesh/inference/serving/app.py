"""The endpoint as a FastAPI application: `/predict`, `/healthz`, `/readyz`, `/metrics`.

Bodies are read here, bounded in bytes and time, and not by FastAPI's models: an image is a hundred thousand numbers,
which pydantic would look at one by one. Refusals are ``{"got", "wanted", "do"}`` in JSON.
"""

import asyncio
import logging
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException

from fedmesh.errors import RequestError
from fedmesh.inference.handoff import HANDED_OFF
from fedmesh.inference.serving.answers import encode
from fedmesh.inference.serving.service import Service, told

__all__ = ["build"]

_log = logging.getLogger(__name__)


def build(service: Service, registry: CollectorRegistry) -> FastAPI:
    """The application of `service`; `registry` is what `/metrics` shows."""
    app = FastAPI(title="fedmesh inference", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(StarletteHTTPException, _no_such_thing)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        status = 500
        try:
            with service.admitted():
                body = await _body(request, service.limits.body_bytes, service.limits.body_s)
                kind = request.headers.get("content-type", "")
                found = await service.predict(kind, body, hand_off=HANDED_OFF not in request.headers)
            media_type, answer = encode(found, accept=request.headers.get("accept", ""))
            status = 200
            return Response(answer, media_type=media_type)
        except RequestError as error:
            status = error.status
            raise
        finally:
            service.counts[str(status)] += 1

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        found = service.readiness()
        ready = not any(found.values())
        checks = {name: reason or "ok" for name, reason in found.items()}
        return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _body(request: Request, max_bytes: int, seconds: float) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_long(f"{announced[:20]} bytes", max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > max_bytes:
                    raise _too_long(f"more than {max_bytes} bytes", max_bytes)
    except TimeoutError as error:
        raise RequestError(
            408, got=f"{len(body)} bytes in {seconds:g} s", wanted="the whole body", do="send it faster"
        ) from error
    return bytes(body)


def _too_long(got: str, max_bytes: int) -> RequestError:
    return RequestError(413, got=got, wanted=f"at most {max_bytes}", do="send fewer examples at once")


def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    if error.status == 500:
        _log.error("a model failed: %s", error.__cause__)
    headers = {"connection": "close"} if error.status in (408, 413) else {}
    if error.status == 503:
        headers["retry-after"] = "1"
    return JSONResponse(told(error), error.status, headers)


def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException | HTTPException)
    answer: dict[str, Any] = {
        "got": f"{request.method} {request.url.path[:100]}",
        "wanted": "POST /predict, GET /healthz, /readyz or /metrics",
        "do": "correct the method or the path",
    }
    return JSONResponse(answer, error.status_code, dict(error.headers or {}))
