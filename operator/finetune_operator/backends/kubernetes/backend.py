"""The verbs of a Backend on the API server.

Services and ConfigMaps are applied server-side and repaired when somebody changes them; claims and Jobs are created
once and never touched again: a Job's template is immutable, a queue owns other fields of it, and a volume is not ours
to shrink. Names are fixed, so a pass that is repeated, or made by two operators at once, makes nothing twice.

An attempt is stopped by deleting its Job in the foreground. The pods get SIGTERM and their whole grace, the Job stays
until the last of them is gone (so "is anything left of it" has one answer), a queue releases its quota, and it is a
single call. Suspending the Job would keep it as well, but a queue that owns `suspend` would start it again. What a
trainer says as it ends reaches the operator with the pod's last state, which the store keeps until a pass has seen it;
an operator that was down just then still knows the last checkpoint from the progress in the run's status.
"""

from collections.abc import Callable

from finetune_contract import PrepareConfig, PushConfig, RunConfig, paths
from finetune_operator import manifests, names
from finetune_operator.backends import Addressed
from finetune_operator.backends.kubernetes import observe, pods
from finetune_operator.backends.kubernetes.apply import is_applied, stamped
from finetune_operator.backends.kubernetes.claims import Claims
from finetune_operator.backends.kubernetes.client import Api, ConflictError, NotFoundError, Object
from finetune_operator.backends.kubernetes.complaints import Complaints
from finetune_operator.backends.kubernetes.events import Events
from finetune_operator.backends.kubernetes.kinds import CLAIMS, CONFIG_MAPS, JOBS, PODS, RUNS, SERVICES, Kind
from finetune_operator.backends.kubernetes.nodes import Nodes
from finetune_operator.backends.kubernetes.progress import ProgressPoller
from finetune_operator.backends.kubernetes.store import RunKey, Store
from finetune_operator.observation import Observation
from finetune_operator.planning import Locations, Plan
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import Status

_KINDS = {kind.name: kind for kind in (CLAIMS, CONFIG_MAPS, SERVICES, JOBS)}
_CREATED_ONCE = (CLAIMS, JOBS)


class KubernetesBackend:
    """A `Backend` whose eyes are the store and whose hands are the API."""

    def __init__(self, api: Api, store: Store, settings: Settings, clock: Callable[[], float]) -> None:
        self._api = api
        self._store = store
        self._settings = settings
        self._complaints = Complaints(api, clock)
        self._claims = Claims(api, store, self._complaints, clock)
        self._nodes = Nodes(api, clock)
        self._events = Events(api, clock)
        self._progress = ProgressPoller(paths.PROGRESS_PORT, settings.progress_interval_seconds, clock)
        self._taken_names: dict[RunKey, str] = {}

    async def close(self) -> None:
        """Closes the connections to pods; the API belongs to the caller."""
        await self._progress.close()

    def forget(self, key: RunKey) -> None:
        """The run is gone, and what was kept for it goes too."""
        self._progress.forget(key)
        self._taken_names.pop(key, None)

    def locations(self, run: Qwen3FineTune) -> Locations:
        """The mount points of the trainer's pods."""
        return manifests.pod_locations(run)

    async def observe(self, run: Qwen3FineTune) -> Observation:
        """From the store, but for claims of others, warnings about what is stuck, and rank 0's progress."""
        key = _key(run)
        jobs, live = self._jobs(run), _pods_of(run, self._store.children(PODS, key))
        departed = _pods_of(run, self._store.departed(key))
        complaints = await self._complaints_about(jobs, live)
        claims = await self._claims.look(run, key)
        return Observation(
            preparation=observe.preparation(jobs, live, complaints),
            attempts=observe.attempts(jobs, (*live, *departed), complaints, await self._progress.look(key, live)),
            push=observe.push(jobs, live, complaints),
            unbound_claims=claims.unbound,
            missing_claims=claims.missing,
            taken_name=self._taken_names.get(key),
            output_claim=manifests.output_claim_name(run),
            gpu_memory_bytes=await self._nodes.gpu_memory_bytes(run),
        )

    async def start_preparation(self, run: Qwen3FineTune, config: PrepareConfig) -> None:
        """Claims, configuration and Job of the preparation are there. Raises ConflictError while a namesake's are."""
        for manifest in manifests.preparation_objects(run, config, self._settings):
            await self._bring_about(run, manifest)

    async def clear_preparation(self, run: Qwen3FineTune) -> None:
        """The preparation's Job goes, and its pod with it."""
        await self._delete_job(run, names.prepare_job(run.metadata.name))

    async def start_attempt(self, run: Qwen3FineTune, plan: Plan, config: RunConfig) -> None:  # noqa: ARG002
        """Service, configuration and Job of the attempt are there. Raises ConflictError while a namesake's are."""
        for manifest in manifests.attempt_objects(run, config, self._settings):
            await self._bring_about(run, manifest)

    async def keep_attempts(self, run: Qwen3FineTune) -> None:
        """What the workers of unfinished attempts find one another by is as it was made, whoever has changed it."""
        jobs = self._jobs(run)
        if any(pods.attempt_number(job) is not None and not observe.is_finished(job) for job in jobs):
            await self._bring_about(run, manifests.workers_service(run))

    async def stop_attempt(self, run: Qwen3FineTune, number: int, *, force: bool) -> None:
        """The attempt's Job goes. With `force` its pods go first, without grace."""
        if force:
            for pod in _pods_of(run, self._store.children(PODS, _key(run))):
                if pods.attempt_number(pod) == number:
                    await self._delete(PODS, pod, grace_seconds=0)
        await self._delete_job(run, names.attempt_job(run.metadata.name, number))

    async def start_push(self, run: Qwen3FineTune, config: PushConfig, number: int) -> None:
        """Configuration and Job of the push are there. Raises ConflictError while a namesake's are."""
        for manifest in manifests.push_objects(run, config, number, self._settings):
            await self._bring_about(run, manifest)

    async def stop_push(self, run: Qwen3FineTune, number: int) -> None:
        """The push's Job goes, and its pod with it."""
        await self._delete_job(run, names.push_job(run.metadata.name, number))

    async def publish_status(self, run: Addressed, status: Status) -> None:
        """One write that replaces the status as it was read. Raises ConflictError when it has changed since."""
        key, body = _key(run), status.to_body()
        known = self._store.run(key)
        if known is None or known["metadata"]["uid"] != run.metadata.uid:
            raise NotFoundError(f"status of {key}", 404, "the run is gone")
        if known.get("status") == body:
            return
        version = known["metadata"]["resourceVersion"]
        change = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/status", "value": body},
        ]
        try:
            written = await self._api.patch(RUNS, change, RUNS.path(*key, "status"))
        except ConflictError:
            self._store.put(RUNS, await self._api.get(RUNS, *key))
            raise
        self._store.put(RUNS, written)

    async def publish_event(self, run: Addressed, *, reason: str, message: str, is_warning: bool) -> None:
        """Never fails: what matters stands in the status."""
        await self._events.publish(run, reason=reason, message=message, is_warning=is_warning)

    async def delete_run(self, run: Qwen3FineTune) -> None:
        """The resource goes, and what it owns goes after it."""
        if (known := self._store.run(_key(run))) is not None and known["metadata"]["uid"] == run.metadata.uid:
            await self._delete(RUNS, known, propagation="Background")

    def _jobs(self, run: Qwen3FineTune) -> tuple[Object, ...]:
        jobs = self._store.children(JOBS, _key(run))
        return tuple(job for job in jobs if observe.is_owned_by(job, run.metadata.uid))

    async def _complaints_about(self, jobs: tuple[Object, ...], live: tuple[Object, ...]) -> dict[str, str]:
        found = {}
        for job in jobs:
            if observe.lacks_pods(job, live) and (message := await self._complaints.about(JOBS, job)):
                found[job["metadata"]["uid"]] = message
        for pod in live:
            if observe.is_set_up(pod) and (message := await self._complaints.about(PODS, pod)):
                found[pod["metadata"]["uid"]] = message
        return found

    async def _bring_about(self, run: Qwen3FineTune, manifest: Object) -> None:
        """The object exists. Raises ConflictError when the name is taken by what belongs to another run."""
        kind = _KINDS[manifest["kind"]]
        live = self._store.child(kind, _key(run), manifest["metadata"]["name"])
        if kind in _CREATED_ONCE:
            live = live or await self._create(kind, manifest)
        elif live is None or not is_applied(live, stamped(manifest)):
            live = await self._api.apply(kind, stamped(manifest))
        self._store.put(kind, live)
        if "ownerReferences" in manifest["metadata"] and not observe.is_owned_by(live, run.metadata.uid):
            self._taken_names[_key(run)] = observe.taken_name(kind.name, live)
            raise ConflictError(f"{kind.name} {live['metadata']['name']}", 409, self._taken_names[_key(run)])
        self._taken_names.pop(_key(run), None)

    async def _create(self, kind: Kind, manifest: Object) -> Object:
        try:
            return await self._api.create(kind, manifest)
        except ConflictError:
            return await self._api.get(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])

    async def _delete_job(self, run: Qwen3FineTune, name: str) -> None:
        for job in self._jobs(run):
            if job["metadata"]["name"] == name and not pods.is_terminating(job):
                await self._delete(JOBS, job, propagation="Foreground")

    async def _delete(
        self, kind: Kind, item: Object, *, propagation: str | None = None, grace_seconds: int | None = None
    ) -> None:
        try:
            answer = await self._api.delete(kind, item, propagation=propagation, grace_seconds=grace_seconds)
        except NotFoundError:
            self._store.remove(kind, item)
            return
        if answer.get("kind") == kind.name:
            self._store.put(kind, answer)  # on its way out


def _key(run: Addressed) -> RunKey:
    return RunKey(run.metadata.namespace, run.metadata.name)


def _pods_of(run: Qwen3FineTune, of_name: tuple[Object, ...]) -> tuple[Object, ...]:
    """Those of the run itself, and not of a namesake that was deleted."""
    return tuple(pod for pod in of_name if pods.run_uid(pod) == run.metadata.uid)
