"""The certificates of one cluster and the kubeconfigs that carry them, made with openssl."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from harness.shell import run

# Elliptic curves, because a dozen RSA keys would take longer than the whole control plane.
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_DAYS = "3650"


class Authority:
    """A certificate authority whose certificates all lie in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self.key = folder / "ca.key"

    def create(self) -> None:
        """Makes the authority itself, and the key that signs the tokens of service accounts."""
        self.folder.mkdir(parents=True)
        new: list[str | Path] = ["openssl", "req", "-x509", *_KEY, "-subj", "/CN=cluster-ca", "-days", _DAYS]
        run([*new, "-keyout", self.key, "-out", self.certificate])
        run(["openssl", "genrsa", "-out", self.token_key, "2048"])

    @property
    def token_key(self) -> Path:
        """Signs the tokens of service accounts."""
        return self.folder / "service-accounts.key"

    def issue(self, name: str, subject: str, alternatives: str = "") -> tuple[Path, Path]:
        """A certificate and its key for a client or a server; `alternatives` as openssl writes subjectAltName."""
        certificate, key, request = (self.folder / f"{name}.{kind}" for kind in ("crt", "key", "csr"))
        run(["openssl", "req", "-new", *_KEY, "-keyout", key, "-subj", subject, "-out", request])
        extensions = self.folder / f"{name}.ext"
        usage = "extendedKeyUsage=clientAuth,serverAuth\n"
        extensions.write_text(usage + (f"subjectAltName={alternatives}\n" if alternatives else ""))
        sign: list[str | Path] = [
            "openssl",
            "x509",
            "-req",
            "-in",
            request,
            "-CA",
            self.certificate,
            "-CAkey",
            self.key,
        ]
        run([*sign, "-CAcreateserial", "-days", _DAYS, "-extfile", extensions, "-out", certificate])
        return certificate, key

    def client_kubeconfig(self, file: Path, server: str, subject: str) -> None:
        """Writes a kubeconfig for a user named by a certificate subject."""
        certificate, key = self.issue(file.stem, subject)
        user = {"client-certificate-data": _inline(certificate), "client-key-data": _inline(key)}
        write_kubeconfig(file, server, self.certificate, user)


def write_kubeconfig(
    file: Path, server: str, authority: Path, user: dict[str, Any], namespace: str = "default"
) -> None:
    """Writes a kubeconfig that stands alone, readable by its owner only."""
    cluster = {"server": server, "certificate-authority-data": _inline(authority)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "it", "context": {"cluster": "cluster", "user": "user", "namespace": namespace}}],
        "current-context": "it",
    }
    file.touch(mode=0o600)
    file.write_text(json.dumps(content, indent=1))


def _inline(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
