"""An S3-compatible store through Arrow's own client, which the preparation needs for Parquet anyway.

Objects can change at any time, unlike a commit on a hub: their versions (ETags) are asked for with every preparation,
and a copy in the cache belongs to the versions it was made of.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finetune_contract import ExitCode, S3Source
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.dataset_files import endings, fixed_part, is_pattern, matching, row_files

BLOCK_BYTES = 16 << 20
ASKED_AT_ONCE = 16
CONNECT_SECONDS, REQUEST_SECONDS = 10, 60
TRIES = 4
_DENIED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "HTTP status 403", "HTTP status 401")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What a store knows a person by."""

    access_key: str
    secret_key: str


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a bucket, in one version."""

    key: str
    """Without the bucket."""
    bytes: int
    version: str
    """Its ETag."""


class ObjectStore:
    """The bucket of a source."""

    def __init__(self, source: S3Source, keys: KeyPair | None) -> None:
        from pyarrow import fs

        self._source = source
        self._bucket, _, self._key = source.url.removeprefix("s3://").partition("/")
        endpoint = urlsplit(source.endpoint) if source.endpoint else None
        self._files = fs.S3FileSystem(
            access_key=keys.access_key if keys else None,
            secret_key=keys.secret_key if keys else None,
            anonymous=keys is None,
            region=source.region,
            scheme=endpoint.scheme if endpoint else "https",
            endpoint_override=endpoint.netloc + endpoint.path.rstrip("/") if endpoint else None,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
        )

    def listing(self) -> list[StoredObject]:
        """The objects that the source's URL stands for, sorted by key. Raises: PreparationError if there are none."""
        with self._told():
            keys = self._keys()
            with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
                return list(pool.map(self._object, keys))

    def download(self, wanted: StoredObject, target: Path) -> None:
        """Fetch an object, going on where an earlier call broke off. Raises: PreparationError."""
        with self._told(), self._files.open_input_file(f"{self._bucket}/{wanted.key}") as stored:
            if _version(stored) != wanted.version:
                raise self._unreachable("it changed while it was being fetched")
            with open(target, "ab") as file:
                stored.seek(file.tell())
                while block := stored.read(BLOCK_BYTES):
                    file.write(block)

    def _keys(self) -> list[str]:
        from pyarrow import fs

        if not is_pattern(self._key) and not self._key.endswith("/"):
            (found,) = self._files.get_file_info([f"{self._bucket}/{self._key}"])
            if found.type is fs.FileType.File:
                return [self._key]
            raise self._missing(f"there is no such object; for everything below it write {self._source.url}/")
        below = fs.FileSelector(f"{self._bucket}/{fixed_part(self._key).rstrip('/')}".rstrip("/"), recursive=True)
        infos = [info for info in self._files.get_file_info(below) if info.type is fs.FileType.File]
        names = [info.path.removeprefix(f"{self._bucket}/") for info in infos]
        chosen = matching(self._key, names) if is_pattern(self._key) else row_files(names)
        if not chosen:
            raise self._missing(f"none of the {len(names):,} objects there has a name that ends with {endings()}")
        return chosen

    def _object(self, key: str) -> StoredObject:
        with self._files.open_input_file(f"{self._bucket}/{key}") as stored:
            return StoredObject(key, stored.size(), _version(stored))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Arrow tells what went wrong in words alone."""
        try:
            yield
        except FileNotFoundError as error:
            raise self._missing(str(error)) from error
        except OSError as error:
            if error.errno is not None and error.filename is not None:
                raise  # of the file that is written
            said = str(error)
            if any(word in said for word in _DENIED):
                raise self._denied(said) from error
            if "NO_SUCH_BUCKET" in said or "NO_SUCH_KEY" in said:
                raise self._missing(said) from error
            raise self._unreachable(said) from error

    def _missing(self, why: str) -> PreparationError:
        return PreparationError(
            "DatasetNotFound", f"dataset.url: {self._source.url}: {why[:300]}; check bucket and key"
        )

    def _denied(self, said: str) -> PreparationError:
        return PreparationError(
            "DatasetDenied",
            f"dataset.url: {self._source.url} may not be read with this key pair, or without one: {said[:300]}; check "
            "dataset.s3: accessKeySecret and secretKeySecret, endpoint and region",
        )

    def _unreachable(self, said: str) -> PreparationError:
        return PreparationError(
            "StoreUnreachable",
            f"dataset.url: {self._source.url} could not be fetched from {self._source.endpoint or 'Amazon S3'}: "
            f"{said[:300]}; check network, proxy and dataset.s3.endpoint, or copy the files to a volume",
            exit_code=ExitCode.INFRASTRUCTURE,
        )


def _version(stored: Any) -> str:
    metadata = stored.metadata()
    return (metadata.get(b"ETag") or b"").decode().strip('"')
