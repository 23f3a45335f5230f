"""A status as it stands in the resource, whoever wrote it last: another release, or a person."""

from typing import Any

from pydantic import ValidationError

from finetune_operator.status.status import Status

Place = tuple[int | str, ...]


def read_status(body: dict[str, Any]) -> tuple[Status, tuple[str, ...]]:
    """What can be read of it, and what was left out for that, each with its path and what is wrong.

    One word that cannot be read must not stop a run for ever, nor cost the records beside it: of a list the entry goes,
    of the rest the block. What observation can tell comes back by itself.
    """
    problems: list[str] = []
    while True:
        try:
            return Status.model_validate(body), tuple(problems)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
            problems += (f"status.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found)
            body = _without(body, [each["loc"] for each in found])


def _without(body: dict[str, Any], places: list[Place]) -> dict[str, Any]:
    """`body` without the entries and blocks at `places`; the argument stays as it is."""
    left = {}
    for name, value in body.items():
        inside = [place[1:] for place in places if place[0] == name]
        entries = {place[0] for place in inside if place}
        if not inside:
            left[name] = value
        elif isinstance(value, list) and () not in inside:
            left[name] = [entry for at, entry in enumerate(value) if at not in entries]
    return left
