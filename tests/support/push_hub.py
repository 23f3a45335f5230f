"""A hub on 127.0.0.1 that takes pushes as Hugging Face and ModelScope do, with repositories, branches and commits.

It keeps what it is sent: a file of the large kind must have arrived, under the digest of its content, before a commit
may name it. Faults are planted by request.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "write-t0ken"
READ_TOKEN = "read-t0ken"
OWNER = "acme"
LARGE_BYTES = 50_000


@dataclass
class Commit:
    """A commit of a branch: all files after it."""

    message: str
    files: dict[str, bytes]
    paths: tuple[str, ...]
    """That it added, changed or removed."""

    @property
    def id(self) -> str:
        """A name that follows from the content."""
        told = self.message + "".join(f"{path}{_sha256(data)}" for path, data in sorted(self.files.items()))
        return hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """A repository with its branches, each a list of commits."""

    is_private: bool
    branches: dict[str, list[Commit]]

    def files(self, branch: str) -> dict[str, bytes]:
        """The branch's files now."""
        return self.branches[branch][-1].files


@dataclass
class PushHub:
    """What was pushed, and what was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Method and path of every request."""
    tokens: list[str] = field(default_factory=list)
    """Every Authorization header that was sent."""
    faults: list[tuple[str, int]] = field(default_factory=list)
    """(pattern of method and path, status): the first request that matches is answered so, and the fault is gone.
    Status 0 breaks the connection; a negative one is told after the request has been carried out."""
    retry_after: str | None = None
    loses: str | None = None
    """A file that commits are told to hold, and do not."""
    url: str = ""

    def commits(self, name: str, branch: str) -> list[Commit]:
        """What was committed after the repository was made."""
        return self.repositories[name].branches[branch][1:]


@contextmanager
def push_hub(address: str = "127.0.0.1", port: int = 0) -> Iterator[PushHub]:
    """Serve until the block ends; on port 0, at one that is free."""
    hub = PushHub()
    handler = type("Handler", (_Answers,), {"hub": hub})
    server = ThreadingHTTPServer((address, port), handler)
    hub.url = f"http://{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, url: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.url = url


class _Answers(BaseHTTPRequestHandler):
    hub: PushHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def log_message(self, *_: Any) -> None:
        """Silence: the tests look at `hub.requests`."""

    def _route(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {unquote(url.path)}"
        self.hub.requests.append(request)
        self.hub.tokens.append(self.headers.get("Authorization", ""))
        fault = next((each for each in self.hub.faults if re.search(each[0], request)), None)
        if fault is not None:
            self.hub.faults.remove(fault)
            if fault[1] == 0:
                self.close_connection = True
                return None
            if fault[1] > 0:
                return self._answer(fault[1], {"error": "told to fail", "Message": "told to fail"})
        try:
            answer = self._answer_to(request)
        except _RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            told = {"error": str(refusal), "Success": False, "Code": refusal.status, "Message": str(refusal)}
            told |= {"url": refusal.url} if refusal.url else {}
            return self._answer(refusal.status, told, headers)
        if fault is not None:
            return self._answer(-fault[1], {"error": "told to fail after all"})
        return self._answer(200, answer)

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        more = {"Retry-After": self.hub.retry_after} if status in (429, 503) and self.hub.retry_after else {}
        for key, text in {"Content-Type": "application/json", **more, **(headers or {})}.items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer_to(self, request: str) -> Any:
        for pattern, answer in _ENDPOINTS:
            if (match := re.fullmatch(pattern, request)) is not None:
                return answer(self, *match.groups())
        raise _RefusalError(404, f"no such endpoint: {request}")

    # what both hubs share

    def token(self) -> str:
        """The token that was sent; refuses one that nobody has."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (TOKEN, READ_TOKEN):
            raise _RefusalError(401, "Invalid credentials in Authorization header")
        return token

    def repository(self, name: str, *, writing: bool = False) -> Repository:
        """The repository, for the token that was sent."""
        token = self.token()
        if name not in self.hub.repositories:
            raise _RefusalError(404, "Repository not found", "RepoNotFound")
        if writing and (token != TOKEN or not name.startswith(f"{OWNER}/")):
            raise _RefusalError(403, f"You don't have write access to {name}")
        return self.hub.repositories[name]

    def create(self, owner: str, name: str, *, is_private: bool, branch: str) -> None:
        """Make a repository with one commit, as the hubs do."""
        if f"{owner}/{name}" in self.hub.repositories:
            raise _RefusalError(409, "You already created this model repo", url=f"{self.hub.url}/{owner}/{name}")
        if self.token() != TOKEN or owner != OWNER:
            raise _RefusalError(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        first = Commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"}, ())
        self.hub.repositories[f"{owner}/{name}"] = Repository(is_private, {branch: [first]})

    def branch(self, repository: Repository, name: str) -> list[Commit]:
        """The commits of a branch."""
        if name not in repository.branches:
            raise _RefusalError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return repository.branches[name]

    def stored(self, digest: str, size: int) -> bytes:
        """A large file that has arrived."""
        if len(self.hub.large.get(digest, b"")) != size:
            raise _RefusalError(400, f"LFS file {digest} has not been uploaded")
        return self.hub.large[digest]

    def commit(self, branch: list[Commit], message: str, changes: dict[str, bytes | None]) -> Commit:
        """Add a commit; None removes a file."""
        files = branch[-1].files | {path: data for path, data in changes.items() if data is not None}
        removed = {path for path, data in changes.items() if data is None} | {self.hub.loses}
        kept = {path: data for path, data in files.items() if path not in removed}
        branch.append(Commit(message, kept, tuple(sorted(changes))))
        return branch[-1]

    def json(self) -> Any:
        """The request's body."""
        return json.loads(self.body)

    def put_large(self, digest: str) -> Any:
        """Take a large file."""
        if _sha256(self.body) != digest:
            raise _RefusalError(400, "content does not match its digest")
        self.hub.large[digest] = self.body
        return {}

    def upload_actions(self, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Where to send large files; nothing for those that are there."""
        return [
            each
            if each["oid"] in self.hub.large
            else each | {"actions": {"upload": {"href": f"{self.hub.url}/large/{each['oid']}", "header": {}}}}
            for each in objects
        ]


# Hugging Face


def _hf_create(on: _Answers) -> Any:
    told = on.json()
    on.create(told["organization"], told["name"], is_private=told.get("visibility") == "private", branch="main")
    return {"url": f"{on.hub.url}/{told['organization']}/{told['name']}"}


def _hf_branch(on: _Answers, name: str, branch: str) -> Any:
    repository = on.repository(name, writing=True)
    if branch in repository.branches:
        raise _RefusalError(409, "Reference already exists")
    repository.branches[branch] = list(repository.branches["main"])
    return {}


def _hf_info(on: _Answers, name: str, branch: str | None = None) -> Any:
    repository = on.repository(name)
    sha = on.branch(repository, branch or "main")[-1].id
    return {"id": name, "sha": sha, "private": repository.is_private, "tags": [], "siblings": []}


def _hf_tree(on: _Answers, name: str, branch: str) -> Any:
    files = on.branch(on.repository(name), branch)[-1].files
    return [_hf_entry(path, data) for path, data in files.items()]


def _hf_entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_sha1(data)}
    if _is_large(path, len(data)):
        entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 130}
    return entry


def _hf_yaml(on: _Answers) -> Any:
    head = re.match(r"---\n(.*?)\n---\n", on.json()["content"], flags=re.DOTALL)
    metadata = yaml.safe_load(head[1]) if head else None
    if not isinstance(metadata, dict) or not re.fullmatch(r"[\w.-]+/[\w.-]+", metadata.get("base_model", "a/b")):
        raise _RefusalError(400, "Invalid metadata")
    return {"errors": [], "warnings": []}


def _hf_preupload(on: _Answers, name: str, branch: str) -> Any:
    files = on.branch(on.repository(name, writing=True), branch)[-1].files
    told = []
    for each in on.json()["files"]:
        mode = "lfs" if _is_large(each["path"], each["size"]) else "regular"
        there = files.get(each["path"])
        oid = None if there is None else (_sha256(there) if mode == "lfs" else _git_sha1(there))
        told.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return {"files": told}


def _hf_batch(on: _Answers, name: str) -> Any:
    on.repository(name, writing=True)
    return {"transfer": "basic", "objects": on.upload_actions(on.json()["objects"])}


def _hf_commit(on: _Answers, name: str, branch: str) -> Any:
    commits = on.branch(on.repository(name, writing=True), branch)
    changes: dict[str, bytes | None] = {}
    message = ""
    for line in on.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        match item["key"]:
            case "header":
                message = value["summary"]
            case "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                changes[value["path"]] = on.stored(value["oid"], value["size"])
            case "deletedFile":
                changes[value["path"]] = None
    commit = on.commit(commits, message, changes)
    return {"commitUrl": f"{on.hub.url}/{name}/commit/{commit.id}", "commitOid": commit.id, "success": True}


# ModelScope


def _ms_info(on: _Answers, name: str) -> Any:
    on.repository(name)
    return _ms({"Id": 1, "Name": name.partition("/")[2], "Path": OWNER})


def _ms_create(on: _Answers) -> Any:
    told = on.json()
    on.create(told["Path"], told["Name"], is_private=told["Visibility"] == 1, branch="master")
    return _ms({"Id": 1, "Name": told["Name"], "Path": told["Path"]})


def _ms_files(on: _Answers, name: str) -> Any:
    files = on.branch(on.repository(name), on.query["Revision"])[-1].files
    told = [
        {"Path": path, "Name": path.rpartition("/")[2], "Type": "blob", "Size": len(data), "Sha256": _sha256(data)}
        for path, data in files.items()
    ]
    return _ms({"Files": told})


def _ms_batch(on: _Answers, name: str) -> Any:
    on.repository(name, writing=True)
    return _ms({"objects": on.upload_actions(on.json()["objects"])})


def _ms_commit(on: _Answers, name: str, branch: str) -> Any:
    commits = on.branch(on.repository(name, writing=True), branch)
    told = on.json()
    changes: dict[str, bytes | None] = {}
    for action in told["actions"]:
        if action["action"] == "delete":
            changes[action["path"]] = None
        elif action["type"] == "lfs":
            changes[action["path"]] = on.stored(action["sha256"], action["size"])
        else:
            changes[action["path"]] = base64.b64decode(action["content"])
    on.commit(commits, told["commit_message"], changes)
    return _ms({})


def _ms(data: Any) -> Any:
    return {"Code": 200, "Success": True, "Data": data}


_ID = r"([^/]+/[^/]+)"
_ENDPOINTS: list[tuple[str, Any]] = [
    (r"POST /api/repos/create", _hf_create),
    (r"POST /api/validate-yaml", _hf_yaml),
    (rf"POST /api/models/{_ID}/branch/(.+)", _hf_branch),
    (rf"GET /api/models/{_ID}", _hf_info),
    (rf"GET /api/models/{_ID}/revision/(.+)", _hf_info),
    (rf"GET /api/models/{_ID}/tree/(.+)", _hf_tree),
    (rf"POST /api/models/{_ID}/preupload/(.+)", _hf_preupload),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", _hf_batch),
    (rf"POST /api/models/{_ID}/commit/(.+)", _hf_commit),
    (rf"GET /openapi/v1/models/{_ID}", _ms_info),
    (rf"GET /api/v1/models/{_ID}", _ms_info),
    (r"POST /api/v1/models", _ms_create),
    (rf"GET /api/v1/models/{_ID}/repo/files", _ms_files),
    (rf"POST /api/v1/repos/models/{_ID}/info/lfs/objects/batch", _ms_batch),
    (rf"POST /api/v1/repos/models/{_ID}/commit/(.+)", _ms_commit),
    (r"PUT /large/(.+)", _Answers.put_large),
]


def _is_large(path: str, size: int) -> bool:
    return path.endswith(".safetensors") or size > LARGE_BYTES


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
