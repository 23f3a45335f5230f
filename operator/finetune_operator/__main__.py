"""`python -m finetune_operator --settings FILE [--namespace NS]...`: the operator as a process, until SIGTERM.

Where settings name a Lease it stands by until it holds that, and reconciles then. A process that has lost the Lease
ends on the spot: what it holds in memory, and every task that is under way, was decided by a leader.
"""

import argparse
import asyncio
import importlib.util
import logging
import os
import random
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import kopf
import prometheus_client

from finetune_operator import handlers  # noqa: F401 - importing it registers the handlers
from finetune_operator.backends.kubernetes.client import Api
from finetune_operator.backends.kubernetes.kinds import CHILDREN, OURS
from finetune_operator.backends.kubernetes.leadership import Leadership
from finetune_operator.controller import Controller
from finetune_operator.health import serving_health
from finetune_operator.resource import GROUP
from finetune_operator.settings import LeaderElection, Settings, load_settings

LONGEST_BACKOFF_SECONDS = 15.0

logger = logging.getLogger(__name__)


class EndlessBackoffs:
    """Seconds between tries of a failing list or watch: rising, spread, and without an end.

    kopf's own backoffs end after 54 s, and then the operator does: an API server may well take longer to come back.
    """

    def __iter__(self) -> Iterator[float]:
        seconds = 1.0
        while True:
            yield seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            seconds = min(LONGEST_BACKOFF_SECONDS, seconds * 1.5)


class NoDiffs(kopf.AnnotationsDiffBaseStorage):
    """Of an object, nothing is compared with what it was before: no handler of ours asks for changes.

    kopf would copy every object that a watch brings for that, which takes longer than all else it does with it.
    """

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> Any:  # noqa: ARG002
        """Nothing."""
        return {}


def main(words: Sequence[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Returns 0 after one of them, 2 for settings that cannot be used, 1 for all else."""
    arguments = _parser().parse_args(words)
    kopf.configure(verbose=arguments.verbose, log_format=kopf.LogFormat.JSON)
    if not arguments.verbose:
        logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # else a line for every event of every pod
    try:
        settings = load_settings(arguments.settings) if arguments.settings else Settings()
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_operate(arguments, settings))
    except Exception:
        logger.exception("the operator ends")
        return 1
    return 0


async def _operate(arguments: argparse.Namespace, settings: Settings) -> None:
    namespaces = tuple(arguments.namespace) or settings.namespaces
    controller = Controller(settings, namespaces)
    if arguments.metrics_port:
        prometheus_client.start_http_server(arguments.metrics_port, registry=controller.metrics.registry)
    stop = _stop_asked_for()
    async with serving_health(arguments.health_port, healthz=controller.stalled, readyz=controller.unready):
        if settings.leader_election is None:
            await _reconcile(controller, namespaces, stop)
        else:
            await _reconcile_while_leading(controller, settings.leader_election, namespaces, stop)


async def _reconcile(controller: Controller, namespaces: tuple[str, ...], stop: asyncio.Event) -> None:
    """Returns when `stop` is set or a signal has come, and nothing runs any more."""
    await kopf.operator(
        memo=kopf.Memo(controller=controller),
        settings=kopf_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
    )


async def _reconcile_while_leading(
    controller: Controller, terms: LeaderElection, namespaces: tuple[str, ...], stop: asyncio.Event
) -> None:
    """Stands by until this process leads; the Lease is given back after the last act. Does not return from its loss."""
    api = await Api.connect(controller.metrics.saw_call)
    leadership = Leadership(api, terms, f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}")
    controller.stand_by(leadership.is_held)
    if await _won(leadership, stop):
        controller.lead()
        keeping = asyncio.create_task(leadership.keep(), name="keep the Lease")
        keeping.add_done_callback(_end_at_once)
        try:
            await _reconcile(controller, namespaces, stop)
        finally:
            keeping.remove_done_callback(_end_at_once)
            keeping.cancel()
        await leadership.release()
    await api.close()


async def _won(leadership: Leadership, stop: asyncio.Event) -> bool:
    """Whether this process leads; False: it is to end."""
    winning, stopping = asyncio.create_task(leadership.win()), asyncio.create_task(stop.wait())
    await asyncio.wait((winning, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in (winning, stopping):
        task.cancel()
    await asyncio.gather(winning, stopping, return_exceptions=True)
    if stop.is_set():
        await leadership.release()
    return not stop.is_set()


def _end_at_once(keeping: "asyncio.Task[None]") -> None:
    """No clean-up: that would act, and another may lead by now."""
    logger.error("the Lease is lost; this operator ends, and comes back as a candidate", exc_info=keeping.exception())
    os._exit(1)


def _stop_asked_for() -> asyncio.Event:
    """Set by SIGTERM or SIGINT, until kopf takes these over."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    return stop


def kopf_settings() -> kopf.OperatorSettings:
    """What kopf is to do otherwise than by default, and why."""
    settings = kopf.OperatorSettings()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = EndlessBackoffs()
    settings.watching.server_timeout = 600  # belt and braces beside kopf's own watchdog for silent streams
    settings.watching.client_timeout = 660
    settings.watching.chunk_size = 500
    for kind in CHILDREN:  # else every pod of the cluster would be streamed to us
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = OURS
    settings.scanning.disabled = True  # needs no rights on CRDs and namespaces; ours must exist at start anyway
    settings.posting.enabled = False  # events are written by the backend
    settings.queueing.idle_timeout = 1.0  # for so long after an event a task of its object is kept
    # Today's handlers make kopf store nothing. Names of our own all the same: a later handler must not start with
    # kopf's, since whoever changes them afterwards has every resource handled again.
    settings.persistence.finalizer = f"{GROUP}/operator"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = NoDiffs(prefix=GROUP)
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune_operator", description="Operator for Qwen3FineTune resources.")
    parser.add_argument("--settings", type=Path, help="YAML file with the admin's settings; default: all defaults")
    parser.add_argument(
        "--namespace", action="append", default=[], help="watch this namespace; may be repeated; default: see settings"
    )
    parser.add_argument("--health-port", type=int, default=8080, help="port of the probes (default: %(default)s)")
    parser.add_argument("--metrics-port", type=int, default=9090, help="port of /metrics; 0: none")
    parser.add_argument("--verbose", action="store_true", help="log more")
    return parser


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed; it is no dependency."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    return factory


if __name__ == "__main__":
    sys.exit(main())
