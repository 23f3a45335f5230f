"""An S3 store on 127.0.0.1 that answers as far as Arrow's client asks, and checks who signs."""

import hashlib
import hmac
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

ACCESS_KEY, SECRET_KEY = "me", "s3cret"


@dataclass
class Store:
    """Buckets, and what was asked."""

    objects: dict[str, bytes]
    """By bucket/key."""
    is_public: bool = False
    requests: list[str] = field(default_factory=list)
    """Method, path and Range of every request."""
    url: str = ""


@contextmanager
def s3_server(store: Store) -> Iterator[Store]:
    """Serve `store` until the block ends."""
    handler = type("Handler", (_Answers,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def log_message(self, *_: Any) -> None:
        """Silence: the tests look at `store.requests`."""

    def _route(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        self.store.requests.append(" ".join(filter(None, (self.command, path, self.headers.get("Range")))))
        if not self.store.is_public and not self._is_signed(url.path, url.query):
            return self._error(403, "AccessDenied")
        if "/" not in path:
            return self._list(path, {key: values[0] for key, values in parse_qs(url.query).items()})
        data = self.store.objects.get(path)
        return self._error(404, "NoSuchKey") if data is None else self._object(data)

    def _object(self, data: bytes) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = (int(match[1]), min(int(match[2] or len(data) - 1) + 1, len(data))) if match else (0, len(data))
        self.send_response(206 if match else 200)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:32]}"')
        self.send_header("Last-Modified", "Tue, 24 Nov 2026 12:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[begin:end])

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix = query.get("prefix", "")
        keys = [path.partition("/")[2] for path in self.store.objects if path.startswith(f"{bucket}/{prefix}")]
        if not any(path.startswith(f"{bucket}/") for path in self.store.objects):
            return self._error(404, "NoSuchBucket")
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.store.objects[f'{bucket}/{key}'])}</Size>"
            "<LastModified>2026-11-24T12:00:00.000Z</LastModified></Contents>"
            for key in sorted(keys)
        )
        return self._xml(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>")

    def _error(self, status: int, code: str) -> None:
        self._xml(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")

    def _xml(self, status: int, text: str) -> None:
        body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _is_signed(self, path: str, query: str) -> bool:
        """Whether the signature (AWS Signature Version 4) is that of our key pair."""
        words = re.findall(r"(Credential|SignedHeaders|Signature)=([^,]+)", self.headers.get("Authorization", ""))
        if len(words) != 3:
            return False
        (_, credential), (_, names), (_, signature) = words
        access_key, *scope = credential.split("/")
        headers = "".join(f"{name}:{' '.join(self.headers.get(name, '').split())}\n" for name in names.split(";"))
        pairs = sorted((part.partition("=")[0], part.partition("=")[2]) for part in query.split("&") if part)
        ordered = "&".join(f"{quote(unquote(k), safe='')}={quote(unquote(v), safe='')}" for k, v in pairs)
        payload = self.headers.get("x-amz-content-sha256", "")
        request = "\n".join((self.command, path, ordered, headers, names, payload))
        text = "\n".join(
            (
                "AWS4-HMAC-SHA256",
                self.headers["x-amz-date"],
                "/".join(scope),
                hashlib.sha256(request.encode()).hexdigest(),
            )
        )
        key = f"AWS4{SECRET_KEY}".encode()
        for word in scope:
            key = hmac.digest(key, word.encode(), "sha256")
        expected: str = hmac.digest(key, text.encode(), "sha256").hex()
        return bool(access_key == ACCESS_KEY and expected == signature)
