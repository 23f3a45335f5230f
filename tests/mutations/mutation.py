"""A guard taken out of the product on purpose, and the test that must notice."""

from dataclasses import dataclass
from pathlib import Path


class StaleMutationError(Exception):
    """The text to replace is not where it was: the code has moved on, and so must the mutation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """`old` becomes `new` in `file`; then at least one of `tests` fails, and the failure says `shows`."""

    guards: str
    """The pitfall or the promise."""
    name: str
    """What is taken out, in a few words."""
    file: str
    """Path from the root of the repository."""
    old: str
    """Stands in the file exactly once."""
    new: str
    tests: tuple[str, ...]
    """Node ids as pytest takes them."""
    shows: str
    """Part of the failing test's message, so that it fails for this reason and not for a broken import."""

    def apply(self, root: Path) -> str:
        """Change the file below `root`; returns what it held before.

        Raises: StaleMutationError.
        """
        path = root / self.file
        if not path.is_file():
            raise StaleMutationError(f"{self.name}: {self.file} does not exist")
        before = path.read_text(encoding="utf-8")
        count = before.count(self.old)
        if count != 1:
            raise StaleMutationError(f"{self.name}: found {count} times in {self.file}, not once:\n{self.old}")
        path.write_text(before.replace(self.old, self.new), encoding="utf-8")
        return before

    def revert(self, root: Path, before: str) -> None:
        """Undo `apply`."""
        (root / self.file).write_text(before, encoding="utf-8")
