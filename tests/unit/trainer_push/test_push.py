"""Pushing through the real Hugging Face and ModelScope clients to a hub on 127.0.0.1."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_contract import Artifact, ExitCode, HubKind, PushConfig, PushOutcome, paths
from finetune_trainer.push import PushError, pushed
from finetune_trainer.push.__main__ import main
from finetune_trainer.push.contents import DEFAULT_BRANCH
from finetune_trainer.push.retrying import PAUSES
from support.artifacts import WEIGHTS, artifact, exported
from support.push_hub import READ_TOKEN, TOKEN, Commit, PushHub, push_hub

REPOSITORY = "acme/huanhuan"
COMMIT_REQUEST = {HubKind.HUGGING_FACE: r"POST /api/models/.*/commit/", HubKind.MODEL_SCOPE: r"POST .*/commit/"}

both_hubs = pytest.mark.parametrize("kind", HubKind)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[PushHub]:
    """A hub without repositories, without the chunked store that has no open server."""
    with push_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield server


def push_config(kind: HubKind, *artifacts: Artifact, **target: Any) -> PushConfig:
    known = {"hub": kind, "repository": REPOSITORY, "private": True, "revision": DEFAULT_BRANCH[kind]}
    run = {"name": "huanhuan", "namespace": "team", "uid": "0000"}
    return PushConfig.model_validate({"run": run, "target": known | target, "artifacts": artifacts})


class Clock:
    """Waits for nothing, and remembers for how long it should have."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def push(config: PushConfig, token: str = TOKEN, clock: Clock | None = None) -> PushOutcome:
    return pushed(config, token, clock or Clock())


def refusal(config: PushConfig, token: str = TOKEN, clock: Clock | None = None) -> tuple[ExitCode, str, str]:
    with pytest.raises(PushError) as caught:
        push(config, token, clock)
    failure = caught.value.failure
    assert token not in failure.message
    return failure.exit_code, failure.reason, failure.message


def commits(hub: PushHub, kind: HubKind) -> list[Commit]:
    return hub.commits(REPOSITORY, DEFAULT_BRANCH[kind])


@both_hubs
def test_an_adapter_arrives_in_one_commit_byte_for_byte(hub: PushHub, kind: HubKind, tmp_path: Path) -> None:
    adapter = exported(tmp_path / "adapter", "Adapter")
    outcome = push(push_config(kind, adapter))
    (commit,) = commits(hub, kind)
    assert commit.message.startswith("Adapter of run huanhuan")
    sent = {name: data for name, data in commit.files.items() if name not in (".gitattributes", "README.md")}
    assert sent == {
        path.name: path.read_bytes() for path in (tmp_path / "adapter").iterdir() if path.name != "README.md"
    }
    (place,) = outcome.pushed
    assert (place.kind, place.commit) == ("Adapter", commit.id if kind is HubKind.HUGGING_FACE else None)
    assert place.url.startswith(f"{hub.url}/")
    assert REPOSITORY in place.url
    assert hub.repositories[REPOSITORY].is_private
    assert set(hub.tokens) <= {f"Bearer {TOKEN}", ""}


@both_hubs
def test_the_card_of_the_pushed_copy_names_the_repository(hub: PushHub, kind: HubKind, tmp_path: Path) -> None:
    push(push_config(kind, exported(tmp_path / "adapter", "Adapter")))
    card = hub.repositories[REPOSITORY].files(DEFAULT_BRANCH[kind])["README.md"].decode()
    assert str(tmp_path) not in card
    assert card.endswith("## Training\n\nsteps\n")
    if kind is HubKind.HUGGING_FACE:
        assert f'place = "{REPOSITORY}"' in card
        assert f"--lora-modules huanhuan={REPOSITORY}" in card
    else:
        assert "from modelscope import snapshot_download" in card
        assert f'place = snapshot_download("{REPOSITORY}")' in card
        assert f"modelscope download --model {REPOSITORY} --local_dir huanhuan" in card
    assert str(tmp_path) in (tmp_path / "adapter" / "README.md").read_text(), "the volume's own is left alone"


@both_hubs
def test_pushing_again_changes_nothing_and_sends_nothing(hub: PushHub, kind: HubKind, tmp_path: Path) -> None:
    config = push_config(kind, exported(tmp_path / "adapter", "Adapter"))
    first = push(config)
    hub.requests.clear()
    assert push(config) == first
    assert len(commits(hub, kind)) == 1
    assert not [request for request in hub.requests if "commit" in request or request.startswith("PUT")]


@both_hubs
def test_a_changed_file_is_all_that_is_sent_and_old_weights_go(hub: PushHub, kind: HubKind, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    shards = {f"model-0000{number}-of-00002.safetensors": WEIGHTS + bytes([number]) for number in (1, 2)}
    push(push_config(kind, exported(folder, "MergedModel", **shards, **{"model.safetensors.index.json": b"{}"})))
    hub.repositories[REPOSITORY].branches[DEFAULT_BRANCH[kind]][-1].files["notes.safetensors.txt"] = b"of somebody"
    for name in (*shards, "model.safetensors.index.json"):
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    push(push_config(kind, artifact(folder, "MergedModel")))
    later = commits(hub, kind)[1:]
    assert {path for commit in later for path in commit.paths} == {
        "model.safetensors", *shards, "model.safetensors.index.json",
    }  # fmt: skip
    left = hub.repositories[REPOSITORY].files(DEFAULT_BRANCH[kind])
    assert [name for name in left if "safetensors" in name] == ["notes.safetensors.txt", "model.safetensors"]
    assert kind is HubKind.MODEL_SCOPE or len(later) == 1, "nobody finds half of it"


@both_hubs
def test_both_stand_in_one_repository(hub: PushHub, kind: HubKind, tmp_path: Path) -> None:
    adapter = exported(tmp_path / "adapter", "Adapter")
    merged = exported(tmp_path / "merged", "MergedModel", **{"model.safetensors": WEIGHTS})
    outcome = push(push_config(kind, adapter, merged))
    files = hub.repositories[REPOSITORY].files(DEFAULT_BRANCH[kind])
    assert {"adapter/adapter_model.safetensors", "model.safetensors", "README.md", "adapter/README.md"} <= files.keys()
    assert "adapter_config.json" not in files, "else transformers would take the whole model for an adapter"
    assert 'allow_patterns="adapter/*") + "/adapter"' in files["adapter/README.md"].decode()
    assert [place.kind for place in outcome.pushed] == ["Adapter", "MergedModel"]
    assert outcome.pushed[0].url.endswith("/adapter")
    assert len(commits(hub, kind)) == 1


def test_a_branch_of_its_own_is_made_on_hugging_face(hub: PushHub, tmp_path: Path) -> None:
    outcome = push(push_config(HubKind.HUGGING_FACE, exported(tmp_path / "adapter", "Adapter"), revision="v2"))
    repository = hub.repositories[REPOSITORY]
    assert "adapter_model.safetensors" in repository.files("v2")
    assert "adapter_model.safetensors" not in repository.files("main")
    assert outcome.pushed[0].url == f"{hub.url}/{REPOSITORY}/tree/v2"
    assert 'snapshot_download("acme/huanhuan", revision="v2")' in repository.files("v2")["README.md"].decode()


def test_a_branch_that_modelscope_lacks_is_asked_for(hub: PushHub, tmp_path: Path) -> None:
    adapter = exported(tmp_path / "adapter", "Adapter")
    push(push_config(HubKind.MODEL_SCOPE, adapter))
    code, reason, message = refusal(push_config(HubKind.MODEL_SCOPE, adapter, revision="v2"))
    assert (code, reason) == (ExitCode.USER_ERROR, "PushTargetNotFound")
    assert "branch v2" in message
    assert "output.push.revision" in message


@both_hubs
def test_a_public_repository_is_made_only_when_asked_for(hub: PushHub, kind: HubKind, tmp_path: Path) -> None:
    push(push_config(kind, exported(tmp_path / "adapter", "Adapter"), private=False))
    assert not hub.repositories[REPOSITORY].is_private


@both_hubs
@pytest.mark.parametrize(
    ("token", "repository", "reason", "remedy"),
    [
        ("expired-t0ken", REPOSITORY, "TokenRefused", "output.push.tokenSecret: "),
        (READ_TOKEN, REPOSITORY, "PushForbidden", "use a token with write access"),
        (TOKEN, "other/huanhuan", "PushForbidden", "of an account of other"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_a_refusal_says_what_to_do_and_is_not_tried_again(
    hub: PushHub, kind: HubKind, tmp_path: Path, token: str, repository: str, reason: str, remedy: str, exists: bool
) -> None:
    adapter = exported(tmp_path / "adapter", "Adapter")
    if exists:
        push(push_config(kind, adapter))
        hub.repositories["other/huanhuan"] = hub.repositories[REPOSITORY]
        (tmp_path / "adapter" / "more.txt").write_text("more")
        adapter = artifact(tmp_path / "adapter", "Adapter")
    clock = Clock()
    code, found, message = refusal(push_config(kind, adapter, repository=repository), token, clock)
    assert (code, found) == (ExitCode.USER_ERROR, reason)
    assert remedy in message
    assert clock.slept == []


@both_hubs
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_stumbles_is_tried_again(hub: PushHub, kind: HubKind, tmp_path: Path, status: int) -> None:
    hub.faults = [(COMMIT_REQUEST[kind], status)]
    hub.retry_after = "1" if kind is HubKind.MODEL_SCOPE else "7"
    clock = Clock()
    push(push_config(kind, exported(tmp_path / "adapter", "Adapter")), clock=clock)
    assert hub.faults == []
    assert len(commits(hub, kind)) == 1
    if kind is HubKind.HUGGING_FACE:  # ModelScope's client tries a commit again by itself
        assert clock.slept == ([PAUSES[0]] if status == 500 else [7.0])


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: PushHub, tmp_path: Path) -> None:
    """Not so on ModelScope: its client sends the commit again by itself."""
    hub.faults = [(COMMIT_REQUEST[HubKind.HUGGING_FACE], -503)]
    outcome = push(push_config(HubKind.HUGGING_FACE, exported(tmp_path / "adapter", "Adapter")))
    (commit,) = commits(hub, HubKind.HUGGING_FACE)
    assert outcome.pushed[0].commit == commit.id


@both_hubs
def test_a_connection_that_breaks_is_tried_again(hub: PushHub, kind: HubKind, tmp_path: Path) -> None:
    hub.faults = [(r"PUT /large/", 0), (r"GET .*(tree|files)", 0)]
    push(push_config(kind, exported(tmp_path / "adapter", "Adapter")))
    assert hub.faults == []
    assert len(commits(hub, kind)) == 1


def test_a_hub_that_stays_away_may_be_tried_by_a_later_pod(
    hub: PushHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    clock = Clock()
    code, reason, message = refusal(
        push_config(HubKind.HUGGING_FACE, exported(tmp_path / "adapter", "Adapter")), clock=clock
    )
    assert (code, reason) == (ExitCode.INFRASTRUCTURE, "HubUnreachable")
    assert message.startswith("output.push.repository: acme/huanhuan on HuggingFace")
    assert clock.slept == list(PAUSES)


@both_hubs
def test_a_file_that_the_hub_took_and_does_not_hold_is_found(hub: PushHub, kind: HubKind, tmp_path: Path) -> None:
    hub.loses = "adapter_model.safetensors"
    clock = Clock()
    code, reason, message = refusal(push_config(kind, exported(tmp_path / "adapter", "Adapter")), clock=clock)
    assert (code, reason) == (ExitCode.INFRASTRUCTURE, "PushIncomplete")
    assert "adapter_model.safetensors" in message
    assert clock.slept == list(PAUSES)


@pytest.mark.parametrize("change", ["changed", "added", "removed", "gone"])
def test_an_artifact_that_is_not_what_was_checked_is_not_pushed(hub: PushHub, tmp_path: Path, change: str) -> None:
    adapter, weights = exported(tmp_path / "adapter", "Adapter"), tmp_path / "adapter" / "adapter_model.safetensors"
    match change:
        case "changed":
            weights.write_bytes(WEIGHTS[::-1])
        case "added":
            (tmp_path / "adapter" / "pytorch_model.bin").write_bytes(b"a pickle")
        case "removed":
            weights.unlink()
        case "gone":
            (tmp_path / "adapter").rename(tmp_path / "elsewhere")
    code, reason, message = refusal(push_config(HubKind.HUGGING_FACE, adapter))
    assert (code, reason) == (ExitCode.USER_ERROR, "ArtifactMissing" if change == "gone" else "ArtifactChanged")
    assert "exports it again from its last checkpoint" in message
    assert hub.requests == []


def test_the_pod_leaves_its_outcome_and_never_its_token(
    hub: PushHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = push_config(HubKind.MODEL_SCOPE, exported(tmp_path / "adapter", "Adapter"))
    (tmp_path / "push.json").write_text(config.model_dump_json())
    monkeypatch.setenv(paths.TERMINATION_FILE_ENV, str(tmp_path / "last-words"))
    monkeypatch.setenv(paths.PUSH_TOKEN_ENV, TOKEN)
    assert main([str(tmp_path / "push.json")]) == ExitCode.DONE
    captured = capfd.readouterr()
    outcome = PushOutcome.model_validate_json((tmp_path / "last-words").read_text())
    assert outcome == PushOutcome.model_validate_json(captured.out), "nothing else is on stdout"
    assert TOKEN not in captured.out + captured.err
    monkeypatch.setenv(paths.PUSH_TOKEN_ENV, "")
    assert main([str(tmp_path / "push.json")]) == ExitCode.USER_ERROR
    assert "TokenMissing" in (tmp_path / "last-words").read_text()


def test_a_config_of_another_version_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "push.json").write_text('{"version": 2}')
    monkeypatch.delenv(paths.TERMINATION_FILE_ENV, raising=False)
    assert main([str(tmp_path / "push.json")]) == ExitCode.USER_ERROR
