"""The volume claims of a run: those that it names, and those that are made for it."""

from finetune_operator import names
from finetune_operator.manifests.metadata import Manifest, object_metadata, without_empty
from finetune_operator.resource import Qwen3FineTune, Retention


def cache_claim_name(run: Qwen3FineTune) -> str:
    """The claim that models and tokens lie on."""
    return run.spec.storage.cache.claim_name or names.cache_claim(run.metadata.name)


def output_claim_name(run: Qwen3FineTune) -> str:
    """The claim that checkpoints and results lie on."""
    return run.spec.storage.output.claim_name or names.output_claim(run.metadata.name)


def named_claims(run: Qwen3FineTune) -> tuple[str, ...]:
    """The claims that must exist before the run can start: those that the user names."""
    storage = run.spec.storage
    given = (storage.inputs.claim_name if storage.inputs else None, storage.cache.claim_name, storage.output.claim_name)
    return tuple(dict.fromkeys(name for name in given if name is not None))


def own_claims(run: Qwen3FineTune) -> list[Manifest]:
    """The claims that are made for the run.

    The cache goes with the run. The output does so only if the user says `onDelete: Delete`; else it has no owner, and
    whoever deletes the run keeps the results.
    """
    storage, made = run.spec.storage, []
    if storage.cache.claim_name is None:
        made.append(_claim(run, cache_claim_name(run), storage.cache.size, storage.cache.storage_class, owned=True))
    if storage.output.claim_name is None:
        owned = storage.output.on_delete is Retention.DELETE
        made.append(_claim(run, output_claim_name(run), storage.output.size, storage.output.storage_class, owned=owned))
    return made


def _claim(run: Qwen3FineTune, name: str, size: str, storage_class: str | None, *, owned: bool) -> Manifest:
    # Preparation, attempts and their pods follow one another, so a run on one node never mounts a claim on two, and
    # takes what every storage class offers. Several nodes read and write at the same time.
    access_mode = "ReadWriteOnce" if run.spec.parallelism.nodes == 1 else "ReadWriteMany"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": object_metadata(run, name, owned=owned),
        "spec": without_empty(
            {
                "accessModes": [access_mode],
                "resources": {"requests": {"storage": size}},
                "storageClassName": storage_class,
            }
        ),
    }
