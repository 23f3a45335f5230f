"""modelscope.cn, or what MODELSCOPE_ENDPOINT names, through the client that `modelscope` itself delegates to.

It tells no commit, knows no way to make a branch, and sends weights before it removes others: two commits where both
are due.
"""

import logging
import os
import sys
from contextlib import redirect_stdout

from modelscope_hub import HubApi
from modelscope_hub.config import HubConfig
from modelscope_hub.errors import NotExistError, StorageError
from modelscope_hub.types import FileInfo

from finetune_contract import PushTarget
from finetune_trainer.artifacts import file_sha256
from finetune_trainer.push.contents import CARD, DEFAULT_BRANCH, Contents

log = logging.getLogger("finetune_trainer.push")

MODEL = "model"


def push(target: PushTarget, contents: Contents, message: str, token: str) -> str | None:
    """Make the repository hold `contents`; returns None, the commit being untold. Raises what the client raises."""
    api = HubApi(HubConfig(), token=token)
    is_new = not api.repo_exists(target.repository, MODEL)
    if is_new:
        api.create_repo(target.repository, MODEL, visibility="private" if target.private else "public")
    remote = _listed(api, target, is_new=is_new)
    changed, stale = _differing(remote, contents), contents.stale(set(remote))
    if not changed and not stale:
        log.info("%s holds all of it already", target.repository)
    with redirect_stdout(sys.stderr):  # the client prints a report, and the outcome goes to stdout
        if changed:
            log.info("pushing %d files to %s: %s", len(changed), target.repository, ", ".join(changed))
            _upload(api, target, contents, changed, message)
        if stale:
            api.delete_files(
                target.repository, MODEL, stale, commit_message=f"{message}: files that it replaces",
                revision=target.revision,
            )  # fmt: skip
    return None


def _upload(api: HubApi, target: PushTarget, contents: Contents, changed: list[str], message: str) -> None:
    try:
        api.upload_folder(
            target.repository, MODEL, contents.folder, commit_message=message, revision=target.revision,
            allow_patterns=changed, use_cache=False, disable_tqdm=True,
        )  # fmt: skip
    except (StorageError, RuntimeError):
        # of many files that failed it does not say why; a single small one tells, and if it succeeds that has passed
        api.upload_file(
            target.repository, MODEL, contents.files[_card(contents)], _card(contents), commit_message=message,
            revision=target.revision, disable_tqdm=True,
        )  # fmt: skip
        raise


def _card(contents: Contents) -> str:
    return next(path for path in contents.files if path.endswith(CARD))


def differing(target: PushTarget, contents: Contents, token: str) -> list[str]:
    """Files that the repository does not hold as they are in `contents`."""
    return _differing(_listed(HubApi(HubConfig(), token=token), target, is_new=False), contents)


def page(target: PushTarget, folder: str) -> str:
    """Where people see it."""
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn").rstrip("/")
    branch = target.revision if target.revision != DEFAULT_BRANCH[target.hub] or folder else ""
    tree = f"tree/{branch}" if branch else "summary"
    return "/".join(filter(None, (endpoint, "models", target.repository, tree, folder)))


def _listed(api: HubApi, target: PushTarget, *, is_new: bool) -> dict[str, FileInfo]:
    try:
        files = api.list_repo_files(target.repository, MODEL, revision=target.revision)
    except NotExistError:
        if is_new:
            return {}  # it has no branch before its first commit
        raise
    return {file.path: file for file in files if not file.is_dir}


def _differing(remote: dict[str, FileInfo], contents: Contents) -> list[str]:
    return [
        path for path, file in contents.files.items()
        if path not in remote or remote[path].sha256 != file_sha256(file)
    ]  # fmt: skip
