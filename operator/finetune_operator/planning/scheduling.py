"""What a run is refused for since the cluster does not offer it: its queue, its gang, its priority, its fabric."""

from collections.abc import Iterable, Iterator

from finetune_operator.resource import Gang, Qwen3FineTune
from finetune_operator.settings import Settings


def scheduling_problems(run: Qwen3FineTune, settings: Settings) -> Iterator[str]:
    """A line for every thing that the spec names and the admin does not offer, with what is offered."""
    wanted, limits = run.spec.scheduling, settings.limits
    gangs = [str(gang) for gang in Gang if gang is Gang.NONE or _is_offered(gang, settings)]
    fabric = run.spec.parallelism.fabric
    yield from _not_among("spec.scheduling.gang", wanted.gang, gangs)
    if "*" not in limits.queues:
        yield from _not_among("spec.scheduling.queue", wanted.queue, limits.queues)
    yield from _not_among(
        "spec.scheduling.queuePriorityClass", wanted.queue_priority_class, limits.queue_priority_classes
    )
    yield from _not_among("spec.scheduling.priorityClass", wanted.priority_class, limits.priority_classes)
    yield from _not_among("spec.parallelism.fabric", fabric, settings.fabrics)


def _is_offered(gang: Gang, settings: Settings) -> bool:
    gangs = settings.gangs
    offered = {
        Gang.KUEUE: gangs.kueue.enabled,
        Gang.VOLCANO: gangs.volcano.enabled,
        Gang.COSCHEDULING: gangs.coscheduling.enabled,
    }
    return offered[gang]


def _not_among(field: str, wanted: str | None, allowed: Iterable[str]) -> Iterator[str]:
    if wanted is not None and wanted not in allowed:
        yield f"{field}: {str(wanted)!r} is not allowed here; allowed: {', '.join(allowed) or 'none'}"
