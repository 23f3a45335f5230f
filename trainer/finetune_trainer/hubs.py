"""The two public hubs through their own client libraries: what a repository holds, and fetching chosen files of it.

Every error of a client becomes a PreparationError that names the repository and the remedy. A hub that cannot be
reached is INFRASTRUCTURE, since the same run may work a minute later; everything else would fail again.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Literal, Protocol

from finetune_contract import ExitCode, HubKind, HubSource
from finetune_trainer.data.errors import PreparationError

RepoType = Literal["model", "dataset"]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one revision."""

    revision: str
    """The commit, where the hub tells it (Hugging Face does); else the revision as it was asked for."""
    sizes: dict[str, int]
    """Bytes by path in the repository."""


class Hub(Protocol):
    """What the preparation needs of a hub."""

    def listing(self, source: HubSource, repo_type: RepoType) -> Listing:
        """What `source` holds. Raises: PreparationError."""

    def download(
        self, source: HubSource, repo_type: RepoType, revision: str, names: Sequence[str], folder: Path
    ) -> None:
        """Fetch the named files into `folder`, going on where an earlier call broke off. Raises: PreparationError."""


def hub_client(kind: HubKind, token: str | None) -> Hub:
    """The client of a hub; without a token it sees what is public."""
    return HuggingFace(token) if kind is HubKind.HUGGING_FACE else ModelScope(token)


class HuggingFace:
    """huggingface.co, or the mirror that HF_ENDPOINT names."""

    def __init__(self, token: str | None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # a pod's log is no terminal; progress is logged by `sources`
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)

    def listing(self, source: HubSource, repo_type: RepoType) -> Listing:
        with self._told(source, repo_type):
            ask = self._api.model_info if repo_type == "model" else self._api.dataset_info
            info = ask(source.id, revision=source.revision, files_metadata=True, timeout=30)
        return Listing(info.sha or source.revision, {file.rfilename: file.size or 0 for file in info.siblings or ()})

    def download(
        self, source: HubSource, repo_type: RepoType, revision: str, names: Sequence[str], folder: Path
    ) -> None:
        with self._told(source, repo_type):
            self._api.snapshot_download(
                source.id,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=[escape(name) for name in names],
                local_dir=folder,
            )

    @contextmanager
    def _told(self, source: HubSource, repo_type: RepoType) -> Iterator[None]:
        from huggingface_hub import errors

        try:
            yield
        except (errors.GatedRepoError, errors.DisabledRepoError) as error:
            raise _refused(source, repo_type) from error
        except errors.RevisionNotFoundError as error:
            raise _revision_missing(source, repo_type) from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise _missing(source, repo_type) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            raise (_refused if status in (401, 403) else _unreachable)(source, repo_type, error) from error
        except Exception as error:
            raise _unforeseen(source, repo_type, error) from error


class ModelScope:
    """modelscope.cn, or what MODELSCOPE_ENDPOINT names, through the client that `modelscope` itself delegates to."""

    def __init__(self, token: str | None) -> None:
        from modelscope_hub import HubApi
        from modelscope_hub.config import HubConfig

        self._api = HubApi(HubConfig(), token=token)

    def listing(self, source: HubSource, repo_type: RepoType) -> Listing:
        from modelscope_hub.errors import NotExistError

        with self._told(source, repo_type):
            try:
                files = self._api.list_repo_files(source.id, repo_type, revision=source.revision)
            except NotExistError as error:
                if self._api.repo_exists(source.id, repo_type):
                    raise _revision_missing(source, repo_type) from error
                raise
        return Listing(source.revision, {file.path: file.size for file in files if not file.is_dir})

    def download(
        self, source: HubSource, repo_type: RepoType, revision: str, names: Sequence[str], folder: Path
    ) -> None:
        with self._told(source, repo_type):
            self._api.download_repo(
                source.id,
                repo_type,
                revision=revision,
                allow_patterns=[escape(name) for name in names],
                local_dir=folder,
            )

    @contextmanager
    def _told(self, source: HubSource, repo_type: RepoType) -> Iterator[None]:
        from modelscope_hub import errors

        try:
            yield
        except PreparationError:
            raise
        except (errors.AuthenticationError, errors.PermissionDeniedError) as error:
            raise _refused(source, repo_type) from error
        except (errors.NotExistError, errors.InvalidParameter) as error:
            raise _missing(source, repo_type) from error
        except errors.FileDownloadError as error:
            raise _unforeseen(source, repo_type, next(iter(error.failed_files.values()), error)) from error
        except Exception as error:
            raise _unforeseen(source, repo_type, error) from error


def _named(source: HubSource, repo_type: RepoType) -> str:
    return f"{repo_type}.id: {source.id} on {source.hub.value}"


def _missing(source: HubSource, repo_type: RepoType) -> PreparationError:
    return PreparationError(
        f"{repo_type.capitalize()}NotFound",
        f"{_named(source, repo_type)} does not exist, or is private; check the spelling (owner/name) and {repo_type}."
        f"source, and for a private one set {repo_type}.tokenSecret to a token that may read it",
    )


def _refused(source: HubSource, repo_type: RepoType, _: Exception | None = None) -> PreparationError:
    return PreparationError(
        f"{repo_type.capitalize()}Gated",
        f"{_named(source, repo_type)} is gated and this token, if there is one, may not read it; accept its terms on "
        f"the hub's page and set {repo_type}.tokenSecret to a token of that account",
    )


def _revision_missing(source: HubSource, repo_type: RepoType) -> PreparationError:
    usual = "main" if source.hub is HubKind.HUGGING_FACE else "master"
    return PreparationError(
        "RevisionNotFound",
        f"{repo_type}.revision: {source.revision} is no branch, tag or commit of {source.id} on {source.hub.value}; "
        f"the default branch there is usually {usual}",
    )


def _unreachable(source: HubSource, repo_type: RepoType, error: BaseException) -> PreparationError:
    return PreparationError(
        "HubUnreachable",
        f"{_named(source, repo_type)} could not be fetched: {type(error).__name__}: {str(error)[:300]}; check network, "
        "proxy and mirror (HF_ENDPOINT, MODELSCOPE_ENDPOINT), or copy the files to a volume and use source Volume",
        exit_code=ExitCode.INFRASTRUCTURE,
    )


def _unforeseen(source: HubSource, repo_type: RepoType, error: BaseException) -> Exception:
    """A full disk stays an OSError for the caller, who knows the sizes; anything else is the way to the hub."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    return _unreachable(source, repo_type, error)
