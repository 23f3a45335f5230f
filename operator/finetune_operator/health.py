"""/healthz and /readyz: served from the process's first moment on, whether it leads or stands by."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Trouble = Callable[[], str | None]
"""What is wrong; None: all is well."""


@asynccontextmanager
async def serving_health(port: int, *, healthz: Trouble, readyz: Trouble) -> AsyncIterator[None]:
    """Answers 200, or 503 with what is wrong, until the block ends."""
    app = web.Application()
    app.add_routes([web.get("/healthz", _answering(healthz)), web.get("/readyz", _answering(readyz))])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104 - the kubelet asks from outside the pod
        yield
    finally:
        await runner.cleanup()


def _answering(trouble: Trouble) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_: web.Request) -> web.StreamResponse:
        wrong = trouble()
        return web.Response(text=wrong or "ok", status=503 if wrong else 200)

    return answer
