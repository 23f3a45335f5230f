"""The operator dies after each single write of a run's life, and the life always ends the same."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from finetune_operator.backends.kubernetes.client import Object
from finetune_operator.backends.kubernetes.kinds import CHILDREN, CONFIG_MAPS, PODS
from finetune_operator.settings import Settings
from support import mortal, stories
from support.control import Control
from support.operator_process import FAST

AT_ONCE = 9
TIMES = ("At", "Since", "Time", "activeSeconds", "cost")
"""Endings of the fields of a status that tell when something happened, or how long it took."""


def test_a_run_lives_on_after_the_operators_death_at_any_write(control: Control) -> None:
    settings = Settings.model_validate(FAST)
    [(writes, unbroken)] = control.do(_lives(control, settings, [None]))
    assert unbroken["status"]["phase"] == "Succeeded"
    assert [attempt["cause"] for attempt in unbroken["status"]["attempts"]] == ["Infrastructure", "Done"]
    assert unbroken["objects"]["Job"] == ["huanhuan-prepare", "huanhuan-push-1", "huanhuan-r1", "huanhuan-r2"]
    deaths = list(range(1, writes + 1))
    ends = control.do(_lives(control, settings, deaths))
    wrong = {death: end[1] for death, end in zip(deaths, ends, strict=True) if end[1] != unbroken}
    assert wrong == {}


async def _lives(control: Control, settings: Settings, deaths: Sequence[int | None]) -> list[tuple[int, Object]]:
    async def one(death: int | None) -> tuple[int, Object]:
        namespace = await control.new_namespace()
        push = {"repository": "me/huanhuan", "tokenSecret": {"name": "hub", "key": "write"}}
        name = await stories.new_run(control, namespace, output={"push": push})
        writes, status = await mortal.live_through(control.api, namespace, name, settings, death)
        return writes, await _end(control, namespace, name, status)

    return await mortal.in_batches([partial(one, death) for death in deaths], AT_ONCE)


async def _end(control: Control, namespace: str, name: str, status: Object) -> Object:
    """All that must be equal: status without its times, the objects by kind, and what was made twice."""
    objects: Object = {}
    for kind in CHILDREN:
        items, _ = await control.api.list_all(kind, namespace)
        found = sorted(item["metadata"]["name"] for item in items if name in item["metadata"]["name"])
        objects[kind.name] = len(found) if kind in (CONFIG_MAPS, PODS) else found  # their names are hashes
    return {"status": _timeless(status), "objects": objects, "made twice": _made_twice(control, namespace)}


def _made_twice(control: Control, namespace: str) -> list[str]:
    writes = [each for each in control.plane.audit.writes() if each.namespace == namespace and each.code == 201]
    made = Counter(f"{each.resource}/{each.name}" for each in writes if each.verb == "create" and each.name)
    return [name for name, times in made.items() if times > 1]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(part) for key, part in value.items() if not key.endswith(TIMES)}
    return [_timeless(part) for part in value] if isinstance(value, list) else value
