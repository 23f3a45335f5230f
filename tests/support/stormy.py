"""A road to the API server that can be closed: in a storm every request is refused, and streams break."""

import asyncio
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import yaml
from aiohttp import web

_HOP_BY_HOP = frozenset({"transfer-encoding", "content-length", "connection", "content-encoding"})


_OUR_OWN = frozenset({"host", "accept-encoding"})


class StormyRoad:
    """A reverse proxy on 127.0.0.1 with a kubeconfig that leads through it; runs in a thread of its own."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._config = yaml.safe_load(kubeconfig.read_text())
        self._target = self._config["clusters"][0]["cluster"]["server"]
        self.kubeconfig = folder / "stormy.kubeconfig"
        self.refused = 0
        self._refusals: tuple[int, ...] = ()
        self._delay_seconds = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._streams: set[asyncio.Transport] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()
        self._config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        self.kubeconfig.write_text(yaml.safe_dump(self._config))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def storm(self, *refusals: int) -> None:
        """From now on nothing comes through; these statuses take turns as answers (default: 503)."""
        self._refusals = refusals or (503,)
        self._loop.call_soon_threadsafe(self._break_streams)

    def calm(self, delay_seconds: float = 0.0) -> None:
        """Everything comes through again, each request so late."""
        self._refusals, self._delay_seconds = (), delay_seconds

    async def _serve(self) -> int:
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE  # our own server, on this machine
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=0), auto_decompress=False, timeout=aiohttp.ClientTimeout()
        )
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _close(self) -> None:
        self._break_streams()
        await self._runner.cleanup()
        await self._session.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _break_streams(self) -> None:
        for stream in self._streams:
            stream.abort()
        self._streams.clear()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self._refusals:
            self.refused += 1
            # nobody answers a read with a conflict
            fitting = [each for each in self._refusals if request.method != "GET" or each in (429, 500, 503)]
            return web.Response(status=fitting[self.refused % len(fitting)], text="a storm")
        await asyncio.sleep(self._delay_seconds)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OUR_OWN}
        body = await request.read()
        url = f"{self._target}{request.rel_url}"
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            if request.transport is not None:
                self._streams.add(request.transport)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            self._streams.discard(request.transport)
            await response.write_eof()
            return response
