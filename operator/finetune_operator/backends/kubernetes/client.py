"""A thin client of the API server: dicts in, dicts out, every call with a time limit and never repeated here.

It borrows connections, TLS and credentials from kubernetes.aio and leaves its generated models aside: the operator
builds its manifests as dicts and reads few fields, and a thousand pods would be validated on every list for nothing.
Retries are the caller's, who runs the whole pass again: a write that is repeated blindly could act on a world that has
moved on.
"""

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from finetune_operator.backends.kubernetes.clock import ServerClock
from finetune_operator.backends.kubernetes.kinds import Kind
from finetune_operator.names import MANAGER

Object = dict[str, Any]
CallObserver = Callable[[str, str, int, float], None]
"""Is told verb, plural, HTTP status (0: no answer) and seconds of every call."""

TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
PAGE_SIZE = 500
JSON = "application/json"
METADATA_ONLY = f"{JSON};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
"""What a list is asked for as when only names and versions matter: a tenth of the bytes."""


class ApiError(RuntimeError):
    """The API server refused, or did not answer (`status` 0)."""

    def __init__(self, what: str, status: int, message: str, reason: str = "") -> None:
        super().__init__(f"{what}: {status} {message}" if status else f"{what}: {message}")
        self.status = status
        self.reason = reason


class NotFoundError(ApiError):
    """404: the object, or its namespace, does not exist."""


class ConflictError(ApiError):
    """409: the name is taken, or the object has changed since it was read."""


class ForbiddenError(ApiError):
    """403: the operator's roles do not allow it, or an admission plug-in (a quota) refuses it."""


_ERRORS = {403: ForbiddenError, 404: NotFoundError, 409: ConflictError}


class Api:
    """The verbs that the operator needs, on one shared pool of connections."""

    def __init__(
        self,
        client: ApiClient,
        observe_call: CallObserver | None = None,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        """While `may_act` says no, no request leaves this process."""
        self._client = client
        self._observe_call = observe_call
        self._may_act = may_act
        self.clock = ServerClock()
        """Set by every answer."""

    @classmethod
    async def connect(
        cls, observe_call: CallObserver | None = None, may_act: Callable[[], bool] = lambda: True
    ) -> "Api":
        """By KUBECONFIG where it is set, else as the pod's own ServiceAccount. Raises ConfigException for neither."""
        settings = Configuration(retries=None, connection_pool_maxsize=64)
        if path := os.environ.get("KUBECONFIG"):
            await config.load_kube_config(path, client_configuration=settings, persist_config=False)
        else:
            config.load_incluster_config(client_configuration=settings)
        return cls(ApiClient(configuration=settings), observe_call, may_act)

    async def close(self) -> None:
        """Closes every connection."""
        await self._client.close()

    async def list_all(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> tuple[list[Object], int]:
        """All such objects, and the version of the list as a whole."""
        pages = [page async for page in self.pages(kind, namespace, labels=labels, fields=fields)]
        return [item for items, _ in pages for item in items], pages[-1][1]

    async def pages(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        metadata_only: bool = False,
    ) -> AsyncIterator[tuple[list[Object], int]]:
        """All such objects, some hundreds at a time, and the version of the list as a whole; never all in memory."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE_SIZE)}
        accept = METADATA_ONLY if metadata_only else JSON
        while True:
            page = await self.call("list", kind, kind.path(namespace), query=query, accept=accept)
            yield page.get("items") or [], int(page["metadata"].get("resourceVersion") or 0)
            query["continue"] = page["metadata"].get("continue")
            if not query["continue"]:
                return

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object:
        """The object. Raises NotFoundError."""
        return await self.call("get", kind, kind.path(namespace, name))

    async def create(self, kind: Kind, body: Object) -> Object:
        """The new object. Raises ConflictError when there is one of that name."""
        path = kind.path(body["metadata"]["namespace"])
        return await self.call("create", kind, path, query={"fieldManager": MANAGER}, body=body)

    async def apply(self, kind: Kind, body: Object) -> Object:
        """The object after a server-side apply that takes over whatever fields somebody else has changed."""
        path = kind.path(body["metadata"]["namespace"], body["metadata"]["name"])
        query = {"fieldManager": MANAGER, "force": "true"}
        return await self.call("apply", kind, path, query=query, body=body, content="application/apply-patch+yaml")

    async def patch(self, kind: Kind, body: Object | list[Object], path: str) -> Object:
        """The object after a JSON patch (a list) or a merge patch (a dict)."""
        content = "application/json-patch+json" if isinstance(body, list) else "application/merge-patch+json"
        return await self.call("patch", kind, path, query={"fieldManager": MANAGER}, body=body, content=content)

    async def delete(
        self, kind: Kind, item: Object, *, propagation: str | None = None, grace_seconds: int | None = None
    ) -> Object:
        """Deletes exactly this object. Raises NotFoundError, and ConflictError for a namesake made since."""
        metadata = item["metadata"]
        options: Object = {"preconditions": {"uid": metadata["uid"]}}
        if propagation:
            options["propagationPolicy"] = propagation
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        return await self.call("delete", kind, kind.path(metadata["namespace"], metadata["name"]), body=options)

    async def call(
        self,
        verb: str,
        kind: Kind,
        path: str,
        *,
        query: dict[str, str | None] | dict[str, str] | None = None,
        body: Object | list[Object] | None = None,
        content: str = JSON,
        accept: str = JSON,
    ) -> Object:
        """One request. Raises the ApiError that fits the answer, or one of status 0 when there was none."""
        if not self._may_act():
            raise ApiError(f"{verb} {path}", 0, "not sent, since this operator does not lead")
        started = time.monotonic()
        status = 0
        try:
            status, text = await self._request(_METHODS[verb], path, query or {}, body, content, accept)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(f"{verb} {path}", 0, f"no answer: {error or type(error).__name__}") from error
        finally:
            if self._observe_call:
                self._observe_call(verb, kind.plural, status, time.monotonic() - started)
        if status >= 400:
            raise _error(f"{verb} {path}", status, text)
        answer: Object = json.loads(text)
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, Any],
        body: Object | list[Object] | None,
        content: str,
        accept: str,
    ) -> tuple[int, bytes]:
        headers = {"Accept": accept, "Content-Type": content}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path
        if words := {key: value for key, value in query.items() if value}:
            url += "?" + urlencode(words)
        asked_at = self.clock.ticks()
        answer = await self._client.call_api(method, url, headers, body, _request_timeout=TIMEOUT)
        if answer.status < 500:  # else it may be a proxy that speaks
            self.clock.heard(answer.headers.get("Date"), asked_at)
        return answer.status, await answer.read()


_METHODS = {
    "list": "GET",
    "get": "GET",
    "create": "POST",
    "apply": "PATCH",
    "patch": "PATCH",
    "delete": "DELETE",
}


def _error(what: str, status: int, text: bytes) -> ApiError:
    try:
        answer = json.loads(text)
        message, reason = str(answer["message"]), str(answer.get("reason", ""))
    except (ValueError, KeyError, TypeError):
        message, reason = text[:200].decode(errors="replace"), ""
    return _ERRORS.get(status, ApiError)(what, status, message, reason)
