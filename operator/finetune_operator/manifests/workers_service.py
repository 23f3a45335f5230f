"""The headless Service through which the ranks of an attempt find one another."""

from finetune_contract.paths import PROGRESS_PORT, RENDEZVOUS_PORT
from finetune_operator.manifests.metadata import Manifest, object_metadata
from finetune_operator.names import ROLE_LABEL, RUN_LABEL, WORKER_ROLE
from finetune_operator.names import workers_service as service_name
from finetune_operator.resource import Qwen3FineTune


def workers_service(run: Qwen3FineTune) -> Manifest:
    """Gives the workers of every attempt DNS names `<job>-<node rank>.<service>`.

    Published before they are ready: ranks must find one another in order to become so.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": object_metadata(run, service_name(run.metadata.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {RUN_LABEL: run.metadata.name, ROLE_LABEL: WORKER_ROLE},
            "ports": [
                {"name": "rendezvous", "port": RENDEZVOUS_PORT, "protocol": "TCP", "targetPort": RENDEZVOUS_PORT},
                {"name": "progress", "port": PROGRESS_PORT, "protocol": "TCP", "targetPort": PROGRESS_PORT},
            ],
        },
    }
