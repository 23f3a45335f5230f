"""Which spooled documents are trained on, how often, and which are held out, for the shards of one dataset."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finetune_contract import DatasetConfig
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.data.selection import Hashes, Selection, place_hashes, smallest, split_hashes
from finetune_trainer.data.spool import ShardFacts, Spool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shard stands."""

    source: int
    first: int
    """Number of its first document within the source."""


@dataclass(frozen=True, slots=True)
class Splitting:
    """What is done with the documents of every shard."""

    spool: Spool
    selection: Selection
    places: tuple[Place, ...]

    def training(self) -> dict[int, list[int]]:
        """The shards of every source to train on."""
        return {source: self.shards_of(source) for source in range(len(self.selection.weights))}

    def validation(self) -> dict[int, list[int]]:
        """The shards of every source that may hold rows of the validation."""
        sources = {place.source for place in self.places}
        return {source: self.shards_of(source) for source in sorted(sources)}

    @property
    def holds_out(self) -> bool:
        """Whether there is a validation split."""
        own = len(self.selection.weights)
        return self.selection.held_out_up_to >= 0 or any(place.source == own for place in self.places)

    def copies(self, shard: int) -> NDArray[np.int64]:
        """How often each document of a shard stands in an epoch."""
        place = self.places[shard]
        return self.selection.copies(place.source, place.first, self.spool.contents(shard))

    def held_out(self, shard: int) -> NDArray[np.int64]:
        """1 for each document of a shard that belongs to the validation split, else 0."""
        contents = self.spool.contents(shard)
        if self.places[shard].source == len(self.selection.weights):
            return np.ones(len(contents), dtype=np.int64)
        return self.selection.is_held_out(contents).astype(np.int64)

    def left_out_duplicates(self) -> int:
        """Documents that are not trained on since the validation's own source has equal ones."""
        shards = [shard for shards in self.training().values() for shard in shards]
        return sum(int(self.selection.is_left_out(self.spool.contents(shard)).sum()) for shard in shards)

    def shards_of(self, source: int) -> list[int]:
        """The shards of one source, in order."""
        return [shard for shard, place in enumerate(self.places) if place.source == source]


def split_documents(
    shards: Sequence[ShardFacts], files: Sequence[InputFile], config: DatasetConfig, spool: Spool
) -> Splitting:
    """The splitting that these options ask for.

    Raises: PreparationError if a fraction is to be held out of a single document.
    """
    selection = Selection(config.seed, tuple(source.weight for source in config.sources))
    splitting = Splitting(spool, selection, tuple(_places(shards, files)))
    splitting = replace(splitting, selection=_with_validation(splitting, config))
    extra = tuple(_extra_up_to(splitting, source) for source in range(len(config.sources)))
    return replace(splitting, selection=replace(splitting.selection, extra_up_to=extra))


def _places(shards: Sequence[ShardFacts], files: Sequence[InputFile]) -> Iterator[Place]:
    seen: dict[int, int] = {}
    for facts in shards:
        source = files[facts.file].source
        yield Place(source, seen.get(source, 0))
        seen[source] = seen.get(source, 0) + facts.documents


def _with_validation(splitting: Splitting, config: DatasetConfig) -> Selection:
    selection, spool = splitting.selection, splitting.spool
    if config.validation.source is not None:
        own = [spool.contents(shard) for shard in splitting.shards_of(len(config.sources))]
        return replace(selection, held_out=np.unique(np.concatenate([*own, np.zeros(0, dtype=np.uint64)])))
    if not config.validation.fraction:
        return selection
    total = sum(len(spool.contents(shard)) for shard in range(len(splitting.places)))
    if total < 2:
        raise PreparationError(
            "EmptyDataset",
            f"dataset.validation.fraction: {config.validation.fraction} of {total} row leaves none to train on; "
            "set it to 0 or bring more rows",
        )
    wanted = min(max(1, round(total * config.validation.fraction)), total - 1)

    def hashes() -> Iterator[Hashes]:
        return (split_hashes(config.seed, spool.contents(shard)) for shard in range(len(splitting.places)))

    return replace(selection, held_out_up_to=smallest(hashes, wanted))


def _extra_up_to(splitting: Splitting, source: int) -> int:
    """Up to which hash of their places the documents of a source stand in an epoch once more than its whole weight."""
    weight = splitting.selection.weights[source]
    shards = splitting.shards_of(source)
    share = weight - math.floor(weight)

    def hashes() -> Iterator[Hashes]:
        for shard in shards:
            place, contents = splitting.places[shard], splitting.spool.contents(shard)
            out = splitting.selection.is_held_out(contents) | splitting.selection.is_left_out(contents)
            yield place_hashes(splitting.selection.seed, source, place.first, len(contents))[~out]

    wanted = round(share * sum(map(len, hashes()))) if share else 0
    return smallest(hashes, max(wanted, 1) if share and weight < 1 else wanted)
