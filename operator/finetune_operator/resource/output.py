"""What a finished run leaves behind, and where it is brought."""

import re
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import model_validator

from finetune_operator.resource.base import HubId, ResourceModel, Revision, Rule, SecretKeyRef

_REFUSED_BY_HUGGING_FACE = re.compile(r"\.\.|--|[.-](/|$)|\.git$")


class PushHub(StrEnum):
    """Where artifacts are pushed to."""

    HUGGING_FACE = "HuggingFace"
    MODEL_SCOPE = "ModelScope"


class PushWhat(StrEnum):
    """Which artifacts are pushed."""

    ADAPTER = "Adapter"
    MERGED = "Merged"
    BOTH = "Both"


class Push(ResourceModel):
    """Brings what the run made to a hub, by a pod of its own, once it has been checked."""

    hub: PushHub = PushHub.HUGGING_FACE
    repository: HubId
    """`owner/name`; made if it is not there. Other weights in the folders that are filled are removed."""
    private: bool = True
    """Whether a repository that is made is private. One that is there stays as it is."""
    revision: Revision | None = None
    """Branch; default: `main` on Hugging Face, `master` on ModelScope. Made on Hugging Face if it is not there."""
    token_secret: SecretKeyRef
    """Token that may write. It is in the environment of the pod that pushes, and nowhere else."""
    what: PushWhat | None = None
    """With an adapter: the adapter (default), the merged model, or the merged model with the adapter in the folder
    `adapter` beside it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.hub != 'HuggingFace' || !(self.repository.contains('..') || self.repository.contains('--')"
            " || self.repository.matches('[.-](/|$)') || self.repository.endsWith('.git'))",
            "repository is {self.repository}, and a name on HuggingFace ends in neither - nor . nor .git and holds"
            " neither -- nor ..; choose another",
            ".repository",
        ),
    )

    @model_validator(mode="after")
    def _repository_may_be_made(self) -> Self:
        if self.hub is PushHub.HUGGING_FACE and _REFUSED_BY_HUGGING_FACE.search(self.repository):
            raise ValueError(
                f"repository is {self.repository}, and a name on HuggingFace ends in neither - nor . nor .git and "
                "holds neither -- nor ..; choose another"
            )
        return self


class Output(ResourceModel):
    """What a finished run leaves behind."""

    merge_adapter: bool = False
    """Write the base model with the adapter merged in besides the adapter."""
    push: Push | None = None
    """May be set, changed and removed at any time: a run whose training is complete pushes when this names a place
    that it has not been pushed to, and any change of the spec repeats a push that has failed."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.mergeAdapter || !has(self.push) || !has(self.push.what) || self.push.what == 'Adapter'",
            "push.what is {has(self.push) && has(self.push.what) ? self.push.what : ''}, and there is no merged model;"
            " set mergeAdapter: true, or push the adapter",
            ".push.what",
        ),
    )

    @model_validator(mode="after")
    def _pushed_is_made(self) -> Self:
        if self.push is not None and self.push.what in (PushWhat.MERGED, PushWhat.BOTH) and not self.merge_adapter:
            raise ValueError(
                f"push.what is {self.push.what}, and there is no merged model; set mergeAdapter: true, or push the "
                "adapter"
            )
        return self
