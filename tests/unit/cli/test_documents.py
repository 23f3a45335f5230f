"""YAML files: what is found in them, and how mistakes are told."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_operator.cli.app import app
from finetune_operator.cli.documents import DocumentError, checked, chosen, read_documents

GOOD = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: beside}
---
apiVersion: finetune.qwen3.io/v1alpha1
kind: Qwen3FineTune
metadata:
  name: good
spec:
  model: {id: Qwen/Qwen3-8B}
  dataset:
    path: rows.json
  scheduling:
    nodeSelector:
      nvidia.com/gpu.product: A100
"""

THREE_MISTAKES = """\
apiVersion: finetune.qwen3.io/v1alpha1
kind: Qwen3FineTune
metadata:
  name: bad
spec:
  model: {id: Qwen/Qwen3-8B}
  dataset:
    path: rows.json
    maxToken: 4096
  training:
    learningRate: -1
  parallelism:
    gpusPerNode: many
"""


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        file = tmp_path / "run.yaml"
        file.write_text(text)
        return file

    return written


def problems(file: Path) -> list[str]:
    with pytest.raises(DocumentError) as refused:
        [checked(document) for document in read_documents(file)]
    return [problem.removeprefix(f"{file}:") for problem in refused.value.problems]


def test_other_kinds_are_left_out(write: Write) -> None:
    (document,) = read_documents(write(GOOD))
    assert checked(document).metadata.name == "good"


def test_every_mistake_is_told_with_its_line(write: Write) -> None:
    first, second, third = sorted(problems(write(THREE_MISTAKES)), key=lambda each: int(each.partition(":")[0]))
    assert first.startswith("9: spec.dataset.maxToken: unknown field")
    assert second.startswith("11: spec.training.learningRate: ")
    assert third.startswith("13: spec.parallelism.gpusPerNode: ")


def test_a_block_and_a_list_are_asked_for_in_plain_words(write: Write) -> None:
    text = GOOD + "  training: {globalBatch: 16}\n  output: {push: hub}\n  parallelism: many\n"
    told = "wants a block of fields, and it is"
    explained = "see `kubectl explain qwen3finetunes"
    assert sorted(problems(write(text))) == [
        f"16: spec.training.globalBatch: {told} 16; {explained}.spec.training.globalBatch` for them",
        f"17: spec.output.push: {told} 'hub'; {explained}.spec.output.push` for them",
        f"18: spec.parallelism: {told} 'many'; {explained}.spec.parallelism` for them",
    ]
    (problem,) = problems(write(GOOD + "  method: {type: LoRA, lora: {targets: q_proj}}\n"))
    assert problem == "16: spec.method.lora.targets: wants a list, and it is 'q_proj'"


def test_a_missing_field_is_told_at_the_block_that_lacks_it(write: Write) -> None:
    (problem,) = problems(write(GOOD.replace("    path: rows.json", "    maxTokens: 64")))
    assert problem.startswith("11: spec.dataset: ")


def test_a_rule_over_several_fields_is_told_at_the_field_it_names(write: Write) -> None:
    text = GOOD + "  training:\n    globalBatch:\n      samples: 6\n  parallelism: {gpusPerNode: 4}\n"
    (problem,) = problems(write(text))
    assert problem.startswith("18: ")
    assert "6 cannot be shared" in problem or "6 samples cannot be shared" in problem


def test_a_key_with_dots_is_found(write: Write) -> None:
    (problem,) = problems(write(GOOD.replace("A100", "'no good'")))
    assert problem.startswith("15: ")


def test_a_field_that_is_written_twice_is_told(write: Write) -> None:
    (problem,) = problems(write(GOOD + "  model: {id: Qwen/Qwen3-32B}\n"))
    assert problem == "16: spec.model: written twice; this one would win"


def test_what_planning_refuses_is_told_with_its_line(write: Write) -> None:
    text = GOOD + "  method: {type: Full}\n  output:\n    mergeAdapter: true\n"
    (problem,) = problems(write(text))
    assert problem.startswith("18: spec.output.mergeAdapter: true")


@pytest.mark.parametrize(
    ("text", "line"), [("a: [1, 2", "1: not YAML"), ("a:\n\tb: 1", "2: not YAML"), ("kind: Pod\n", " holds no")]
)
def test_what_is_no_resource_is_told(write: Write, text: str, line: str) -> None:
    (problem,) = problems(write(text))
    assert problem.startswith(line)


def test_one_of_several_is_chosen_by_name(write: Write) -> None:
    documents = read_documents(write(GOOD + "---\n" + THREE_MISTAKES))
    assert chosen(documents, "good").name == "good"
    with pytest.raises(DocumentError, match="choose one of its resources with --name: good, bad"):
        chosen(documents, None)


def test_validate_ends_with_64_and_says_everything(write: Write) -> None:
    result = CliRunner().invoke(app, ["validate", str(write(GOOD + "---\n" + THREE_MISTAKES))])
    assert result.exit_code == 64
    assert "good is valid" in result.output
    assert result.output.count("run.yaml:") == 3 + 1


def test_plan_needs_no_data(write: Write) -> None:
    result = CliRunner().invoke(app, ["plan", str(write(GOOD)), "--gpu-memory", "80Gi"])
    assert result.exit_code == 0, result.output
    assert "of 80.0 GiB" in result.output


PUSH = "  output: {push: {repository: me/huanhuan, tokenSecret: {name: hub, key: write}}}\n"


def test_plan_says_what_is_pushed_and_where(write: Write) -> None:
    result = CliRunner().invoke(app, ["plan", str(write(GOOD + PUSH))])
    assert "push      Adapter to me/huanhuan on HuggingFace, branch main, once all else is done" in result.output
    assert "push " not in CliRunner().invoke(app, ["plan", str(write(GOOD))]).output


def test_a_push_that_cannot_work_is_told_with_its_line(write: Write) -> None:
    merged = GOOD + PUSH.replace("me/huanhuan", "huanhuan").replace("}}}\n", "}, what: Merged}}\n")
    (problem,) = problems(write(merged))
    assert problem.startswith("16: spec.output.push.repository: must be owner/name")
    merged = merged.replace(": huanhuan", ": me/huanhuan")
    (problem,) = problems(write(merged))
    assert problem.startswith("16: spec.output: push.what is Merged, and there is no merged model")


def test_plan_ends_with_64_when_the_run_would_be_refused(write: Write) -> None:
    result = CliRunner().invoke(app, ["plan", str(write(GOOD)), "--gpu-memory", "1Gi"])
    assert result.exit_code == 64


def test_a_gpu_memory_that_is_no_size_is_refused(write: Write) -> None:
    result = CliRunner().invoke(app, ["plan", str(write(GOOD)), "--gpu-memory", "much"])
    assert result.exit_code == 64
    assert "spec.resources.gpuMemory" in result.output
