"""Rank 0 of a thousand runs in one process: answers /progress at every address that leads to this machine.

usage: python stub.py STEP_SECONDS

Each address has taken another number of steps. From SIGUSR1 on no more steps are done; it still answers.
"""

import asyncio
import signal
import sys
import time

from aiohttp import web

from finetune_contract import Progress, Stage, paths

TOTAL_STEPS = 1_000_000


class Ranks:
    """What every rank 0 says."""

    def __init__(self, step_seconds: float) -> None:
        self._step_seconds = step_seconds
        self._began_at = time.time()
        self._ended_at: float | None = None

    def freeze(self) -> None:
        """No more steps."""
        self._ended_at = time.time()

    async def answer(self, request: web.Request) -> web.Response:
        """By the address that was asked."""
        assert request.transport is not None
        address: str = request.transport.get_extra_info("sockname")[0]
        third, fourth = (int(part) for part in address.split(".")[2:])
        begun_at = self._began_at - (256 * third + fourth) % 997 * 0.013
        steps = int(((self._ended_at or time.time()) - begun_at) / self._step_seconds)
        progress = Progress(
            attempt=1,
            step=steps,
            total_steps=TOTAL_STEPS,
            epoch=steps / TOTAL_STEPS,
            stage=Stage.TRAINING,
            loss=10 / (4 + steps % 1000),
            learning_rate=2e-4,
            tokens_per_second=16_000.0,
            step_seconds=self._step_seconds,
            eta_seconds=(TOTAL_STEPS - steps) * self._step_seconds,
            updated_at=begun_at + steps * self._step_seconds,
        )
        return web.Response(text=progress.model_dump_json(), content_type="application/json")


async def main() -> None:
    """Until SIGTERM."""
    ranks, app = Ranks(float(sys.argv[1])), web.Application()
    app.add_routes([web.get("/progress", ranks.answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", paths.PROGRESS_PORT, backlog=1024).start()  # noqa: S104
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, ranks.freeze)
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
