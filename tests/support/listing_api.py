"""An API server of ten lines: lists what it is given, and remembers what was asked for one by one."""

from collections.abc import AsyncIterator

from finetune_operator.backends.kubernetes.client import NotFoundError, Object
from finetune_operator.backends.kubernetes.kinds import Kind


class ListingApi:
    """Objects by kind; what is in `gone` is listed and no longer there."""

    def __init__(self, objects_of: dict[Kind, list[Object]]) -> None:
        self.objects_of = objects_of
        self.asked: list[str] = []
        self.gone: set[str] = set()

    async def pages(
        self, kind: Kind, namespace: str | None, *, labels: str | None, metadata_only: bool
    ) -> AsyncIterator[tuple[list[Object], int]]:
        for item in self.objects_of.get(kind, []):
            yield [{"metadata": item["metadata"]} if metadata_only else item], 1000
        yield [], 1000

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        self.asked.append(name)
        if name in self.gone:
            raise NotFoundError(name, 404, "gone")
        return next(item for item in self.objects_of[kind] if item["metadata"]["name"] == name)

    async def close(self) -> None:
        """Nothing is open."""
