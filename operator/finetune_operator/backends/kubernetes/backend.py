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
from finetune_operator.backends.kubernetes.pod_groups import PodGroups
from finetune_operator.backends.kubernetes.progress import ProgressPoller
from finetune_operator.backends.kubernetes.queue import KueueQueues
from finetune_operator.backends.kubernetes.store import RunKey, Store
from finetune_operator.observation import Observation, QueuePlace
from finetune_operator.planning import Locations, Plan
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.settings import Settings
from finetune_operator.status import Status

_KINDS = {kind.name: kind for kind in (CLAIMS, CONFIG_MAPS, SERVICES, JOBS)}
_CREATED_ONCE = (CLAIMS, JOBS)


class KubernetesBackend:
    """A `Backend` whose eyes are the store and whose hands are the API."""

    def __init__(self, api: Api, store: Store, settings: Settings) -> None:
        self._api = api
        self._store = store
        self._settings = settings
        self._complaints = Complaints(api, api.clock)
        self._claims = Claims(api, store, self._complaints)
        self._nodes = Nodes(api)
        self._queues = KueueQueues(api)
        self._pod_groups = PodGroups(api)
        self._events = Events(api, api.clock)
        self._taken_names: dict[RunKey, str] = {}
        self._progress = ProgressPoller(paths.PROGRESS_PORT, settings.progress_interval_seconds, api.clock)
        self._intact: dict[RunKey, tuple[str, str | None]] = {}

    async def close(self) -> None:
        """Closes the connections to pods; the API belongs to the caller."""
        await self._progress.close()

    def forget(self, key: RunKey) -> None:
        """The run is gone, or nothing of it is asked for any more: what was kept for it goes too."""
        self._progress.forget(key)
        self._taken_names.pop(key, None)
        self._intact.pop(key, None)

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
            attempts=observe.attempts(
                jobs, (*live, *departed), complaints, await self._progress.look(key, live), await self._places(jobs)
            ),
            push=observe.push(jobs, live, complaints),
            unbound_claims=claims.unbound,
            missing_claims=claims.missing,
            taken_name=self._taken_names.get(key),
            output_claim=manifests.output_claim_name(run),
            gpu_memory_bytes=await self._nodes.gpu_memory_bytes(run),
        )

    async def start_preparation(self, run: Qwen3FineTune, config: PrepareConfig) -> None:
        """Claims, configuration and Job of the preparation are there. Raises ConflictError while a namesake's are."""
        await self._bring_all_about(run, manifests.preparation_objects(run, config, self._settings))

    async def clear_preparation(self, run: Qwen3FineTune) -> None:
        """The preparation's Job goes, and its pod with it."""
        await self._delete_job(run, names.prepare_job(run.metadata.name))

    async def start_attempt(
        self,
        run: Qwen3FineTune,
        plan: Plan,  # noqa: ARG002
        config: RunConfig,
        *,
        avoided_nodes: tuple[str, ...],
    ) -> None:
        """Service, configuration and Job of the attempt are there. Raises ConflictError while a namesake's are."""
        objects = manifests.attempt_objects(run, config, self._settings, avoided_nodes=avoided_nodes)
        await self._bring_all_about(run, objects)

    async def keep_attempts(self, run: Qwen3FineTune) -> None:
        """What unfinished attempts need beside their Jobs is there, whoever has changed it.

        That is the Service by which workers find one another, and the PodGroup of a gang scheduler: it goes with its
        Job, so it can only be made after it, and a pass that dies in between leaves it to the next.
        """
        unfinished = {
            number: job
            for job in self._jobs(run)
            if (number := pods.attempt_number(job)) is not None and not observe.is_finished(job)
        }
        if unfinished and not self._is_intact(run):
            await self._bring_about(run, manifests.workers_service(run))
            self._intact[_key(run)] = (run.metadata.uid, self._service_version(run))
        for number, job in unfinished.items():
            group = manifests.pod_group(run, number, job["metadata"]["uid"])
            if group is not None and not pods.is_terminating(job):
                await self._pod_groups.keep(group)

    async def stop_attempt(self, run: Qwen3FineTune, number: int, *, force: bool) -> None:
        """The attempt's Job goes. With `force` its pods go first, without grace."""
        if force:
            for pod in _pods_of(run, self._store.children(PODS, _key(run))):
                if pods.attempt_number(pod) == number:
                    await self._delete(PODS, pod, grace_seconds=0)
        await self._delete_job(run, names.attempt_job(run.metadata.name, number))

    async def start_push(self, run: Qwen3FineTune, config: PushConfig, number: int) -> None:
        """Configuration and Job of the push are there. Raises ConflictError while a namesake's are."""
        await self._bring_all_about(run, manifests.push_objects(run, config, number, self._settings))

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

    def _is_intact(self, run: Qwen3FineTune) -> bool:
        """Whether the Service is the very one that was found to be as it was made."""
        version = self._service_version(run)
        return version is not None and self._intact.get(_key(run)) == (run.metadata.uid, version)

    def _service_version(self, run: Qwen3FineTune) -> str | None:
        live = self._store.child(SERVICES, _key(run), names.workers_service(run.metadata.name))
        return None if live is None else live["metadata"]["resourceVersion"]

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

    async def _places(self, jobs: tuple[Object, ...]) -> dict[str, QueuePlace]:
        """Of the Jobs that wait in Kueue, by uid."""
        if not self._settings.gangs.kueue.enabled:
            return {}
        return {job["metadata"]["uid"]: await self._queues.place(job) for job in jobs if observe.waits_in_kueue(job)}

    async def _bring_all_about(self, run: Qwen3FineTune, wanted: list[Object]) -> None:
        """The objects exist. Raises ConflictError for a name that is somebody else's; the next observation tells it."""
        for manifest in wanted:
            await self._bring_about(run, manifest)
        self._taken_names.pop(_key(run), None)

    async def _bring_about(self, run: Qwen3FineTune, manifest: Object) -> None:
        """The object exists. What is not the run's own is never touched: ConflictError."""
        kind = _KINDS[manifest["kind"]]
        wanted = manifest if kind in _CREATED_ONCE else stamped(manifest)
        live, is_new = self._store.child(kind, _key(run), manifest["metadata"]["name"]), False
        if live is None:
            live, is_new = await self._create(kind, wanted)
        if (whose := _not_ours(run, manifest, live)) is not None:
            self._store.put(kind, live)
            self._taken_names[_key(run)] = f"{kind.name} {live['metadata']['name']} {whose}"
            raise ConflictError(f"{kind.name} {live['metadata']['name']}", 409, whose)
        if not is_new and kind not in _CREATED_ONCE and not is_applied(live, wanted):
            live = await self._api.apply(kind, wanted)
        self._store.put(kind, live)

    async def _create(self, kind: Kind, manifest: Object) -> tuple[Object, bool]:
        """The object of that name, and whether it is new."""
        try:
            return await self._api.create(kind, manifest), True
        except ConflictError:
            return await self._api.get(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"]), False

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


def _not_ours(run: Qwen3FineTune, manifest: Object, live: Object) -> str | None:
    """Whose `live` is, in words, if it is not what `manifest` made; None: it is ours."""
    if "ownerReferences" not in manifest["metadata"]:
        return None  # an output volume that outlives its run may be taken up by the next of that name
    if not observe.is_owned_by(live, run.metadata.uid):
        if names.RUN_LABEL in live["metadata"].get("labels", {}):
            return "belongs to an earlier run of the same name, and is still on its way out"
        return "exists and is not this run's; delete it, or create the run under another name"
    if manifest["kind"] == "Job" and names.RUN_LABEL not in live["metadata"].get("labels", {}):
        return f"has lost its label {names.RUN_LABEL}, so it cannot be watched; delete it, and it is made again"
    return None


def _key(run: Addressed) -> RunKey:
    return RunKey(run.metadata.namespace, run.metadata.name)


def _pods_of(run: Qwen3FineTune, of_name: tuple[Object, ...]) -> tuple[Object, ...]:
    """Those of the run itself, and not of a namesake that was deleted."""
    return tuple(pod for pod in of_name if pods.run_uid(pod) == run.metadata.uid)
