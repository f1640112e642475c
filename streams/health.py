"""`/healthz`, `/readyz` and `/metrics` over HTTP, on the metrics port."""

from __future__ import annotations

import errno
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from assetstream.streams.processes import PortTaken


class HealthServer:
    """Answers while the event loop turns: `/healthz` 200; `/readyz` 200 when `waiting_for()` is empty, else 503."""

    def __init__(self, host: str, port: int, waiting_for: Callable[[], list[str]]) -> None:
        self.host, self.port, self._waiting_for = host, port, waiting_for
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; `port` is then the real one (0 takes any). Raises PortTaken."""
        app = web.Application()
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError as error:
            await self.stop()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(self.port, f"metrics on {self.host}", "--metrics-port") from error
            raise
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _alive(self, request: web.Request) -> web.Response:
        return web.Response(text="alive\n")

    async def _ready(self, request: web.Request) -> web.Response:
        waiting = self._waiting_for()
        if waiting:
            return web.Response(status=503, text="".join(f"waiting for {what}\n" for what in waiting))
        return web.Response(text="ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
