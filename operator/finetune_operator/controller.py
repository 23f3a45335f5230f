"""The operator without its framework: the store is filled, runs are woken, passes run, and passes ask for the next.

Level-based: an event only says that a run is worth a look. What the pass acts on is the store, which every pass, watch
and resync makes newer; nothing else is remembered, and a restarted operator finds all of it again by listing. A run
that is finished asks for no further look: thousands of them cost one look at what their objects' versions are, now and
then.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from finetune_operator.backends.kubernetes import KubernetesBackend
from finetune_operator.backends.kubernetes.client import Api, ConflictError, Object
from finetune_operator.backends.kubernetes.kinds import RUNS, Kind
from finetune_operator.backends.kubernetes.pods import created_at
from finetune_operator.backends.kubernetes.refill import refill
from finetune_operator.backends.kubernetes.store import RunKey, Store, key_of
from finetune_operator.metrics import Metrics
from finetune_operator.reconcile import PassResult, run_pass
from finetune_operator.runner import Runner
from finetune_operator.settings import Settings
from finetune_operator.status import TERMINAL_PHASES, Phase

STALLED_AFTER_RESYNCS = 5
"""So many missed resyncs, or a pass that has run for so long, mean that nothing is being reconciled."""

logger = logging.getLogger(__name__)


class Controller:
    """One operator; the API server is its only memory."""

    def __init__(
        self,
        settings: Settings,
        namespaces: tuple[str, ...] = (),
        ticks: Callable[[], float] = time.monotonic,
    ):
        """`namespaces` to look after; empty: the whole cluster. `ticks` are seconds that never jump."""
        self.settings = settings
        self.store = Store()
        self.metrics = Metrics(self._bodies, self._now, ticks)
        self.runner: Runner[RunKey] = Runner(self._one_pass)
        self._scopes: tuple[str | None, ...] = namespaces or (None,)
        self._ticks = ticks
        self._may_act: Callable[[], bool] = lambda: True
        self._stands_by = False
        self._is_started = False
        self._synced_at = ticks()
        self._api: Api | None = None
        self._backend: KubernetesBackend | None = None
        self._resyncing: asyncio.Task[None] | None = None
        self._is_filled = False

    def stand_by(self, may_act: Callable[[], bool]) -> None:
        """Another operator leads; once this one does, `may_act` says for how long."""
        self._may_act = may_act
        self._stands_by = True
        self.metrics.is_leading.set(0)

    def lead(self) -> None:
        """It is this operator's turn: `start` follows."""
        self._stands_by = False
        self._synced_at = self._ticks()
        self.metrics.is_leading.set(1)

    async def start(self, api: Api | None = None) -> None:
        """The store is full, every run is woken, and what watches miss is found in every interval.

        Raises ApiError when the API server does not answer or does not know the resource; it may be called again then.
        """
        if self._api is None:
            self._api = api or await Api.connect(self.metrics.saw_call, self._may_act)
            self._backend = KubernetesBackend(self._api, self.store, self.settings)
        await self.resync()
        self._is_started = True
        self._resyncing = asyncio.get_running_loop().create_task(self._resync_forever(), name="resync")

    async def close(self) -> None:
        """Nothing runs afterwards."""
        if self._resyncing is not None:
            self._resyncing.cancel()
            await asyncio.gather(self._resyncing, return_exceptions=True)
        await self.runner.close()
        if self._backend is not None:
            await self._backend.close()
        if self._api is not None:
            await self._api.close()

    async def resync(self) -> None:
        """The store is as fresh as a list can make it, and the runs of which that brought news are woken.

        All others have a timer of their own, or nothing about them changes by itself any more. Raises ApiError.
        """
        assert self._api is not None, "set by start()"
        async for key in refill(self._api, self.store, self._scopes, is_filled=self._is_filled):
            if self._is_filled:
                self.runner.wake(key)
        if not self._is_filled:  # no pass begins before everything is known
            self._is_filled = True
            for key in self.store.runs():
                self.runner.wake(key)
        self._synced_at = self._ticks()
        self.metrics.saw_success()

    def saw(self, kind: Kind, item: Object, *, is_gone: bool) -> None:
        """A watch told of `item`; if that is news, its run is looked at."""
        is_news = self.store.remove(kind, item) if is_gone else self.store.put(kind, item)
        key = key_of(kind, item)
        if is_news and key is not None:
            self.runner.wake(key)

    def stalled(self) -> str | None:
        """Why nothing is being reconciled any more; None: all is well, which standing by is too."""
        if self._stands_by:
            return None
        limit = STALLED_AFTER_RESYNCS * self.settings.resync_seconds
        if (age := self._ticks() - self._synced_at) > limit:
            return f"the last successful resync was {age:.0f} s ago"
        if (seconds := self.runner.longest_pass_seconds()) > limit:
            return f"a pass has been running for {seconds:.0f} s"
        return None

    def unready(self) -> str | None:
        """Why this operator does not do its part yet; None: it reconciles, or stands by."""
        if self._stands_by or self._is_started:
            return self.stalled()
        return "the API server has not told yet what there is"

    async def _one_pass(self, key: RunKey) -> float | None:
        assert self._api is not None, "passes begin after start()"
        assert self._backend is not None
        body = self.store.run(key)
        if body is None:
            self._backend.forget(key)
            return None
        ended_pods, result = self.store.ended_pods(key), "failed"
        started = time.monotonic()
        try:
            done = await run_pass(body, self._backend, self.settings, self._api.clock())
            if done.run is not None:
                await self._backend.keep_attempts(done.run)
            self._saw_phase(body, done)
            result = "wrote" if done.was_written else "unchanged"
        except ConflictError:
            result = "conflict"
            raise
        except Exception:
            self.metrics.errors.labels("pass").inc()
            raise
        finally:
            self.metrics.pass_seconds.labels(result).observe(time.monotonic() - started)
        self.metrics.saw_success()
        if self.store.told(key, ended_pods):
            self.runner.wake(key)  # the pods that were shown for the last time are gone for the next pass
        elif done.next_look_seconds is None:
            self._backend.forget(key)
        return done.next_look_seconds

    def _now(self) -> float:
        """Unix seconds by the API server; before it has spoken, by this machine."""
        return time.time() if self._api is None else self._api.clock()

    def _saw_phase(self, before: Object, done: PassResult) -> None:
        status = done.status
        is_news = done.was_written and before.get("status", {}).get("phase", Phase.PENDING) != status.phase
        if is_news and (status.restarts == 0 or status.phase in TERMINAL_PHASES):
            self.metrics.saw_phase(status.phase, self._now() - created_at(before))

    async def _resync_forever(self) -> None:
        while True:
            await asyncio.sleep(self.settings.resync_seconds)
            try:
                await self.resync()
            except Exception as error:
                self.metrics.errors.labels("resync").inc()
                logger.warning("resync failed, the next is in %.0f s: %s", self.settings.resync_seconds, error)

    def _bodies(self) -> list[Object]:
        return [body for key in self.store.runs() if (body := self.store.child(RUNS, key, key.name)) is not None]
