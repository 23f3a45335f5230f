"""Paths on volumes stay inside them, and what is not there is said with what is."""

import errno
from pathlib import Path

import pytest

from finetune_contract import VolumeSource
from finetune_trainer.data.disk_space import gigabytes, no_space, room_for
from finetune_trainer.data.errors import PreparationError
from finetune_trainer.sources import existing_folder, resolved_model, volume_files


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A volume with a file, a folder, and links that stay inside and lead out; a secret lies beside it."""
    volume = tmp_path / "inputs"
    (volume / "models" / "qwen").mkdir(parents=True)
    (volume / "rows.json").write_text("[]")
    (tmp_path / "secret.json").write_text("[]")
    (volume / "inside.json").symlink_to(volume / "rows.json")
    (volume / "outside.json").symlink_to(tmp_path / "secret.json")
    (volume / "parent").symlink_to(tmp_path)
    return volume


def failure_of(path: Path | str, field: str, mount: Path) -> tuple[str, str]:
    find = existing_folder if field == "model" else volume_files
    with pytest.raises(PreparationError) as caught:
        find(str(path), field, mounts=[str(mount)])
    return caught.value.failure.reason, caught.value.failure.message


def test_a_path_inside_comes_back_resolved(mount: Path) -> None:
    found = volume_files(str(mount / "inside.json"), "dataset", mounts=[str(mount)])
    assert found == [(mount / "rows.json", "inside.json")]


@pytest.mark.parametrize("path", ["outside.json", "parent/secret.json", "../secret.json", "models/../../secret.json"])
def test_a_path_that_leads_out_of_its_volume_is_refused(mount: Path, path: str) -> None:
    reason, message = failure_of(f"{mount}/{path}", "dataset", mount)
    assert reason == "PathEscapes"
    assert f"dataset.path: {mount}/{path} leads to {mount.parent}/secret.json, outside of the volume at" in message
    assert "without '..' and without links that leave the volume" in message


@pytest.mark.parametrize("path", ["", "/*.json"])
def test_a_folder_or_pattern_with_a_link_out_of_its_volume_is_refused(mount: Path, path: str) -> None:
    assert failure_of(f"{mount}{path}", "dataset", mount)[0] == "PathEscapes"


def test_a_path_on_no_volume_is_taken_as_it_is(mount: Path) -> None:
    secret = mount.parent / "secret.json"
    assert volume_files(str(secret), "dataset", mounts=[str(mount)]) == [(secret, "secret.json")]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ["a/1.jsonl", "a/2.jsonl.gz", "b/deep/3.csv"]),
        ("/a", ["1.jsonl", "2.jsonl.gz"]),
        ("/a/*.jsonl", ["1.jsonl"]),
        ("/*/?.jsonl*", ["a/1.jsonl", "a/2.jsonl.gz"]),
        ("/**/*.csv", ["b/deep/3.csv"]),
        ("/**", ["a/1.jsonl", "a/2.jsonl.gz", "a/notes.txt", "b/deep/3.csv"]),
    ],
)
def test_a_folder_and_a_pattern_stand_for_their_files_in_order(tmp_path: Path, path: str, expected: list[str]) -> None:
    for name in ("a/2.jsonl.gz", "a/1.jsonl", "b/deep/3.csv", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [name for _, name in volume_files(f"{tmp_path}{path}", "dataset")] == expected


@pytest.mark.parametrize(
    ("path", "field", "reason", "said"),
    [
        ("row.json", "dataset", "DatasetNotFound", "does not exist, expected a file, or a folder with files of rows; "),
        ("row.json", "dataset", "DatasetNotFound", "{mount} holds rows.json"),
        ("models", "dataset", "DatasetNotFound", "none of the 0 files there has a name that ends with .json"),
        ("models/*.csv", "dataset", "DatasetNotFound", "none of the 0 files there matches that"),
        ("rows.json", "model", "ModelNotFound", "is a file, expected a folder; {mount} holds"),
        ("models/qwn", "model", "ModelNotFound", "does not exist, expected a folder; {mount}/models holds qwen"),
        ("a/b/c", "model", "ModelNotFound", "does not exist, expected a folder; {mount} holds"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(mount: Path, path: str, field: str, reason: str, said: str) -> None:
    found_reason, message = failure_of(mount / path, field, mount)
    assert found_reason == reason
    assert f"{field}.path: {mount / path}" in message
    assert said.format(mount=mount) in message


def test_a_model_on_a_volume_has_no_revision(mount: Path) -> None:
    model = mount / "models" / "qwen"
    assert resolved_model(VolumeSource(path=str(model)), mount, None) == (model, None)


def test_a_disk_that_fills_up_during_a_download_is_a_users_error_in_sizes(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 1_000_000)
    with pytest.raises(PreparationError) as caught, room_for(3_000_000, tmp_path, "model.id: acme/x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.failure.reason == "NoSpace"
    assert "storage.cache: model.id: acme/x needs 2.0 MB more, and the volume at" in caught.value.failure.message


def test_other_errors_of_the_system_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken disk"), room_for(1, tmp_path, "x"):
        raise OSError(errno.EIO, "broken disk")


def test_sizes_are_written_for_people(tmp_path: Path) -> None:
    assert gigabytes(16_381_000_000) == "16.38 GB"
    assert gigabytes(1_234_567) == "1.2 MB"
    assert "the token cache needs more, and the volume" in no_space(tmp_path, "the token cache", None).failure.message
