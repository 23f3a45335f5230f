"""A finished run's artifacts, brought to a hub: `python -m finetune_trainer.push /config/push.json`.

    contents                     what goes where in the repository
    hugging_face, model_scope    the hubs through their own client libraries, with the same functions:
                                     push(target, contents, message, token)   make the repository hold it; the commit
                                     differing(target, contents, token)       what it does not hold
                                     page(target, folder)                     where people see it
    retrying                     what may pass is tried again; what may not, in words

A push may be repeated: what stands in the repository already is not sent again, and where nothing differs there is no
new commit. Nothing here needs torch.
"""

from collections.abc import Callable
from types import ModuleType

from finetune_contract import ExitCode, HubKind, PushConfig, Pushed, PushOutcome
from finetune_trainer.push import hugging_face, model_scope
from finetune_trainer.push.contents import Contents, contents_of
from finetune_trainer.push.errors import PushError, named
from finetune_trainer.push.retrying import retried

HUBS: dict[HubKind, ModuleType] = {HubKind.HUGGING_FACE: hugging_face, HubKind.MODEL_SCOPE: model_scope}


def pushed(config: PushConfig, token: str, sleep: Callable[[float], None]) -> PushOutcome:
    """Push what `config` asks for, and look that it is there; `sleep` waits between two tries.

    Raises: PushError when it cannot be done, or not now.
    """
    target, hub = config.target, HUBS[config.target.hub]
    with contents_of(config) as contents:

        def push() -> str | None:
            commit: str | None = hub.push(target, contents, _message(config), token)
            _check(hub.differing(target, contents, token), config)
            return commit

        commit = retried(push, target, token, sleep)
        places = [
            Pushed(kind=kind, url=hub.page(target, folder), commit=commit) for kind, folder in contents.kinds.items()
        ]
    return PushOutcome(exit_code=ExitCode.DONE, pushed=tuple(places))


def _message(config: PushConfig) -> str:
    kinds = " and ".join(artifact.kind for artifact in config.artifacts)
    return f"{kinds} of run {config.run.name}"


def _check(missing: list[str], config: PushConfig) -> None:
    if missing:
        raise PushError(
            "PushIncomplete",
            f"{named(config.target)}: after the push {len(missing)} files are not there as they were sent, such as "
            f"{missing[0]}",
            ExitCode.INFRASTRUCTURE,
        )


__all__ = ["Contents", "PushError", "pushed"]
