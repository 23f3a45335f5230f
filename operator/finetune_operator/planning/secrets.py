"""Secrets that open a run's model and data: where the resource names them, and where the preparation looks for them.

The one that opens the hub for writing is no input: only the pod that pushes is given it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_contract.paths import HUB_TOKEN_ENV, dataset_access_key_env, dataset_secret_key_env, dataset_token_env
from finetune_operator.resource import Push, Qwen3FineTune, SecretKeyRef

_OWN_VARIABLE = {"HuggingFace": "HF_TOKEN", "ModelScope": "MODELSCOPE_API_TOKEN"}


@dataclass(frozen=True, slots=True)
class InputSecret:
    """A key of a Secret that the preparation needs."""

    field: str
    """Of the resource, from `spec` on."""
    key: SecretKeyRef
    variable: str
    """That the preparation reads."""
    own_variable: str
    """That the hub's or the store's own tools read, where there is no cluster to hold Secrets."""


def input_secrets(run: Qwen3FineTune) -> tuple[InputSecret, ...]:
    """All of a run's, each for one source."""
    return tuple(_of_model(run)) + tuple(_of_dataset(run))


def push_own_variable(push: Push) -> str:
    """The variable of the hub's own tools, where there is no cluster to hold the Secret of `push`."""
    return _OWN_VARIABLE[push.hub]


def _of_model(run: Qwen3FineTune) -> Iterator[InputSecret]:
    model = run.spec.model
    if model.token_secret is not None:
        yield InputSecret("spec.model.tokenSecret", model.token_secret, HUB_TOKEN_ENV, _OWN_VARIABLE[model.source])


def _of_dataset(run: Qwen3FineTune) -> Iterator[InputSecret]:
    dataset = run.spec.dataset
    fields = [f"spec.dataset.mix[{number}]" for number in range(len(dataset.mix))] or ["spec.dataset"]
    sources = [*zip(fields, dataset.sources, strict=True), ("spec.dataset.validation", dataset.validation)]
    for number, (field, source) in enumerate(sources):
        if source.token_secret is not None:
            variable = dataset_token_env(number)
            yield InputSecret(f"{field}.tokenSecret", source.token_secret, variable, _OWN_VARIABLE[source.source])
        if source.s3 is not None and source.s3.access_key_secret and source.s3.secret_key_secret:
            access, secret = source.s3.access_key_secret, source.s3.secret_key_secret
            variables = dataset_access_key_env(number), dataset_secret_key_env(number)
            yield InputSecret(f"{field}.s3.accessKeySecret", access, variables[0], "AWS_ACCESS_KEY_ID")
            yield InputSecret(f"{field}.s3.secretKeySecret", secret, variables[1], "AWS_SECRET_ACCESS_KEY")
