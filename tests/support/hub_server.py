"""A hub on 127.0.0.1 that answers as Hugging Face and ModelScope do, as far as their own clients ask."""

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

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """A repository with one commit; `token` makes it gated for everyone who does not send it."""

    files: dict[str, bytes]
    branch: str = "main"
    token: str | None = None
    cut_after: int | None = None
    """Break the connection once, after so many bytes of the first large enough file."""
    withheld: set[str] = field(default_factory=set)
    """Files that are listed, and missing when they are asked for."""
    claimed_bytes: int | None = None
    """If set, the size that every file is listed with."""

    def size(self, name: str) -> int:
        """Bytes of a file, as the listing tells it."""
        return len(self.files[name]) if self.claimed_bytes is None else self.claimed_bytes


@dataclass
class HubServer:
    """What is served, and what was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Method, path and Range of every request."""
    status: int | None = None
    """If set, every request is answered with it."""
    url: str = ""


@contextmanager
def hub_server(address: tuple[str, int] = ("127.0.0.1", 0), **repos: Repo) -> Iterator[HubServer]:
    """Serve `repos` under the ids `acme/<name>` until the block ends; port 0 is any that is free."""
    hub = HubServer({f"acme/{name.replace('_', '-')}": repo for name, repo in repos.items()})
    server = ThreadingHTTPServer(address, _handler(hub))
    hub.url = f"http://{address[0]}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(_Answers):
        pass

    Handler.hub = hub
    return Handler


class _Answers(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._route(with_body=False)

    def do_GET(self) -> None:
        self._route(with_body=True)

    def log_message(self, *_: Any) -> None:
        """Silence: the tests look at `hub.requests`."""

    def _route(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.hub.requests.append(" ".join(filter(None, (self.command, self.path, self.headers.get("Range")))))
        if self.hub.status:
            self._json(self.hub.status, {"error": "told to fail"})
        elif path.startswith("/api/v1/"):
            self._modelscope(path.removeprefix("/api/v1/"), query, with_body=with_body)
        else:
            self._hugging_face(path, with_body=with_body)

    # Hugging Face: /api/models/ID/revision/REV, /api/models/ID/tree/REV, /ID/resolve/REV/FILE

    def _hugging_face(self, path: str, *, with_body: bool) -> None:
        listing = re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(revision|tree)/(.+)", path)
        resolve = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = listing or resolve
        if match is None:
            return self._json(404, {"error": f"no such endpoint: {path}"})
        name, revision = match[2], match[4] if listing else match[3]
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if repo.token and self.headers.get("Authorization") != f"Bearer {repo.token}":
            status = 403 if self.headers.get("Authorization") else 401
            return self._json(status, {"error": "Access to it is restricted"}, {"X-Error-Code": "GatedRepo"})
        if revision not in (repo.branch, COMMIT):
            return self._json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        if resolve:
            headers = {"X-Repo-Commit": COMMIT}
            return self._file(repo, resolve[4], with_body=with_body, headers=headers)
        if match[3] == "tree":
            return self._json(200, [_hugging_face_entry(name, repo.files[name]) for name in repo.files])
        siblings = [{"rfilename": name, "size": repo.size(name)} for name in repo.files]
        return self._json(200, {"id": name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

    # ModelScope: models/ID, models/ID/repo/files, datasets/ID/repo/tree, models/ID/repo?FilePath=...

    def _modelscope(self, path: str, query: dict[str, str], *, with_body: bool) -> None:
        match = re.fullmatch(r"(model|dataset)s/([^/]+/[^/]+?)(?:/(repo|repo/files|repo/tree))?", path)
        if match is None:
            return self._json(404, {"Code": 404, "Success": False, "Message": f"no such endpoint: {path}"})
        repo = self.hub.repos.get(match[2])
        if repo is None:
            return self._json(404, {"Code": 10010205001, "Success": False, "Message": "model not found"})
        if repo.token and repo.token not in self.headers.get("Authorization", ""):
            return self._json(403, {"Code": 403, "Success": False, "Message": "access denied"})
        if match[3] is None:
            return self._json(200, {"Code": 200, "Success": True, "Data": {"Id": 1, "Name": match[2]}})
        if query.get("Revision") != repo.branch:
            return self._json(404, {"Code": 404, "Success": False, "Message": "revision not found"})
        if match[3] == "repo":
            return self._file(repo, query["FilePath"], with_body=with_body, headers={})
        files = [
            {"Path": name, "Name": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
            for name, data in repo.files.items()
        ]
        data = {"Files": files, "TotalCount": len(files), "LatestCommitter": {"Id": ""}}
        return self._json(200, {"Code": 200, "Success": True, "Data": data, "TotalCount": len(files)})

    def _file(self, repo: Repo, name: str, *, with_body: bool, headers: dict[str, str]) -> None:
        if name not in repo.files or name in repo.withheld:
            return self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        data = repo.files[name]
        begin = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        for key, value in {"ETag": f'"{_sha1(data)}"', "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if with_body:
            self._send(repo, data[begin:])
        return None

    def _send(self, repo: Repo, data: bytes) -> None:
        if repo.cut_after is not None and len(data) > repo.cut_after:
            data, repo.cut_after = data[: repo.cut_after], None
            self.close_connection = True
        self.wfile.write(data)

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, text)
        if error := isinstance(value, dict) and value.get("error"):
            self.send_header("X-Error-Message", str(error))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _hugging_face_entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(data), "oid": _sha1(data)}


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
