"""What the process is told to do otherwise than by default, and when it says that it is not well."""

import itertools
from pathlib import Path

import kopf
import pytest

from finetune_operator.__main__ import EndlessBackoffs, kopf_settings, main
from finetune_operator.backends.kubernetes.kinds import CHILDREN, OURS
from finetune_operator.controller import STALLED_AFTER_RESYNCS, Controller
from finetune_operator.settings import Settings


def test_a_failing_watch_is_tried_without_end() -> None:
    waits = list(itertools.islice(EndlessBackoffs(), 1000))
    assert max(waits) <= 15
    assert sum(waits) > 3600


def test_only_what_is_ours_is_watched() -> None:
    selectors = kopf_settings().watching.label_selectors
    assert [selectors[kind.group, kind.version, kind.plural] for kind in CHILDREN] == [OURS] * len(CHILDREN)


def test_no_name_of_kopf_gets_into_a_resource() -> None:
    persistence = kopf_settings().persistence
    assert "kopf" not in persistence.finalizer.lower()
    assert isinstance(persistence.diffbase_storage, kopf.AnnotationsDiffBaseStorage)


def test_no_object_is_copied_to_compare_it_with_what_it_was() -> None:
    build = kopf_settings().persistence.diffbase_storage.build
    assert build(body=kopf.Body({"metadata": {"labels": {"a": "b"}}, "spec": {"field": 1}})) == {}


def test_an_operator_whose_resyncs_fail_says_so() -> None:
    now = [1000.0]
    controller = Controller(Settings(resync_seconds=60), ticks=lambda: now[0])
    now[0] += STALLED_AFTER_RESYNCS * 60
    assert controller.stalled() is None
    now[0] += 1
    assert controller.stalled() == "the last successful resync was 301 s ago"


def test_settings_that_cannot_be_used_end_the_process_with_the_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("resyncSeconds: 1\n")
    assert main(["--settings", str(file)]) == 2
    assert "resyncSeconds" in capsys.readouterr().err
