"""What the pod that pushes is told; it answers with a PushOutcome.

It is no part of an attempt: no GPU waits for an upload, and the token is in this pod alone.
"""

from typing import Literal

from pydantic import Field

from finetune_contract.base import CONTRACT_VERSION, ContractModel
from finetune_contract.reports import Artifact
from finetune_contract.run_config import RunIdentity
from finetune_contract.sources import HubKind


class PushTarget(ContractModel):
    """A repository of a hub."""

    hub: HubKind
    repository: str
    """`owner/name`; made if it is not there."""
    private: bool
    """Whether it is made private; one that is there stays as it is."""
    revision: str
    """Branch; made on Hugging Face if it is not there."""


class PushConfig(ContractModel):
    """Everything one push needs; the token arrives in the environment, see `paths.PUSH_TOKEN_ENV`."""

    version: Literal[1] = CONTRACT_VERSION  # type: ignore[assignment]
    run: RunIdentity
    target: PushTarget
    artifacts: tuple[Artifact, ...] = Field(min_length=1, max_length=2)
    """What is pushed. Beside a whole model, which takes the top folder, an adapter goes into a folder of its own."""
