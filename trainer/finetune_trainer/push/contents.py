"""What goes where in the repository: artifacts as exported and checked, with cards that name the repository."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from finetune_contract import Artifact, ArtifactKind, HubKind, PushConfig, PushTarget
from finetune_trainer.artifacts import artifact_digest, files_of
from finetune_trainer.push.errors import PushError
from finetune_trainer.usage import USE, Place, usage

CARD: Final = "README.md"
ADAPTER_FOLDER: Final = "adapter"
"""Where an adapter goes whose repository's top folder belongs to a whole model."""
DEFAULT_BRANCH: Final = {HubKind.HUGGING_FACE: "main", HubKind.MODEL_SCOPE: "master"}
WEIGHTS: Final = (".safetensors", ".safetensors.index.json")
"""Endings of files that an earlier push may have left, and that would be taken for a part of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The files of a repository, as they are to be."""

    folder: Path
    """Holds them all, most as links."""
    kinds: dict[ArtifactKind, str]
    """Folder of each artifact in the repository; empty for the top."""

    @property
    def files(self) -> dict[str, Path]:
        """Path in the repository -> file."""
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in paths}

    def stale(self, remote: set[str]) -> list[str]:
        """Weights in the repository that this push does not know, in the folders that it fills."""
        ours = set(self.kinds.values())
        return sorted(
            path for path in remote - self.files.keys()
            if path.endswith(WEIGHTS) and path.rpartition("/")[0] in ours
        )  # fmt: skip


@contextmanager
def contents_of(config: PushConfig) -> Iterator[Contents]:
    """The contents for `config`, in a temporary folder.

    Raises: PushError when an artifact is gone, or is no longer what was exported and checked.
    """
    kinds = {artifact.kind: _place_of(artifact, config) for artifact in config.artifacts}
    with tempfile.TemporaryDirectory(prefix="push-") as temporary:
        folder = Path(temporary)
        for artifact in config.artifacts:
            _check_unchanged(artifact)
            target = folder / kinds[artifact.kind]
            target.mkdir(exist_ok=True)
            for file in files_of(Path(artifact.path)):
                (target / file.name).symlink_to(file)
            (target / CARD).unlink()
            text = published_card(artifact, config.target, kinds[artifact.kind], config.run.name)
            (target / CARD).write_text(text, encoding="utf-8")
        yield Contents(folder=folder, kinds=kinds)


def _place_of(artifact: Artifact, config: PushConfig) -> str:
    return ADAPTER_FOLDER if artifact.kind == "Adapter" and len(config.artifacts) > 1 else ""


def _check_unchanged(artifact: Artifact) -> None:
    folder = Path(artifact.path)
    again = "a run of the same name on the same volume exports it again from its last checkpoint"
    if not files_of(folder):
        raise PushError("ArtifactMissing", f"storage.output: {folder} is not there any more; {again}")
    if artifact_digest(folder) != artifact.digest:
        raise PushError(
            "ArtifactChanged",
            f"storage.output: {folder} is not what was exported and checked ({artifact.digest}): a file was changed, "
            f"added or removed since; put it back, or remove the folder: {again}",
        )


def published_card(artifact: Artifact, target: PushTarget, subfolder: str, name: str) -> str:
    """The artifact's card, with the repository in place of the folder on the volume."""
    folder = Path(artifact.path)
    before, _, rest = (folder / CARD).read_text(encoding="utf-8").partition(f"{USE}\n")
    after = rest[rest.index("\n## ") :]
    place = Place(
        name=target.repository,
        hub=target.hub,
        revision=None if target.revision == DEFAULT_BRANCH[target.hub] else target.revision,
        subfolder=subfolder or None,
    )
    return f"{before}{usage(artifact.kind, folder, place, name)}{after}"


def git_sha1(path: Path) -> str:
    """As git names a file."""
    data = path.read_bytes()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
