"""Rank 0 of an attempt, as the operator sees it: an address that answers with progress."""

import random

from aiohttp import web

from finetune_contract import Progress, paths


class Rank0:
    """Serves /progress where a pod would: on the contract's port, at a loopback address of its own."""

    def __init__(self) -> None:
        self.address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"  # noqa: S311
        self.progress: Progress | None = None
        self.asked = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Until `stop`."""
        app = web.Application()
        app.add_routes([web.get("/progress", self._answer)])
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, paths.PROGRESS_PORT).start()

    async def stop(self) -> None:
        """Nothing answers any more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.progress is None:
            return web.Response(status=503)
        return web.Response(text=self.progress.model_dump_json(), content_type="application/json")
