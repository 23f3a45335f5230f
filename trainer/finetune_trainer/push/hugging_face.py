"""huggingface.co, or what HF_ENDPOINT names, through its own client.

Everything goes into one commit, so nobody ever finds half a model.
"""

import logging
import os
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from finetune_contract import PushTarget
from finetune_trainer.artifacts import file_sha256
from finetune_trainer.push.contents import DEFAULT_BRANCH, Contents, git_sha1

log = logging.getLogger("finetune_trainer.push")


def push(target: PushTarget, contents: Contents, message: str, token: str) -> str:
    """Make the repository hold `contents`; returns the commit. Raises what the client raises."""
    disable_progress_bars()  # a pod's log is no terminal
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    api.create_repo(target.repository, private=target.private, exist_ok=True)
    if target.revision != DEFAULT_BRANCH[target.hub]:
        api.create_branch(target.repository, branch=target.revision, exist_ok=True)
    files, remote = contents.files, _listed(api, target)
    changed = [path for path, file in files.items() if path not in remote or not _is_same(remote[path], file)]
    stale = contents.stale(set(remote))
    if not changed and not stale:
        log.info("%s holds all of it already", target.repository)
        return _head(api, target)
    log.info("pushing %d files to %s: %s", len(changed), target.repository, ", ".join(changed))
    operations = [CommitOperationAdd(path, files[path]) for path in changed]
    removals = [CommitOperationDelete(path) for path in stale]
    commit = api.create_commit(
        target.repository, [*operations, *removals], commit_message=message, revision=target.revision
    )
    return str(commit.oid)


def differing(target: PushTarget, contents: Contents, token: str) -> list[str]:
    """Files that the repository does not hold as they are in `contents`."""
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    remote = _listed(api, target)
    return [path for path, file in contents.files.items() if path not in remote or not _is_same(remote[path], file)]


def page(target: PushTarget, folder: str) -> str:
    """Where people see it."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return "/".join(filter(None, (endpoint, target.repository, "tree", target.revision, folder)))


def _listed(api: HfApi, target: PushTarget) -> dict[str, RepoFile]:
    entries = api.list_repo_tree(target.repository, recursive=True, revision=target.revision)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _is_same(entry: RepoFile, file: Path) -> bool:
    if entry.size != file.stat().st_size:
        return False
    return file_sha256(file) == entry.lfs.sha256 if entry.lfs else git_sha1(file) == entry.blob_id


def _head(api: HfApi, target: PushTarget) -> str:
    return str(api.model_info(target.repository, revision=target.revision).sha)
