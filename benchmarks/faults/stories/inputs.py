"""What is wrong with what a run is made of: rows, model, plan, image, numbers, memory."""

from pathlib import Path

from case import Case, attempt_words, condition_words, story
from stage import HOLD_STEP, STEPS

from harness import addresses
from stories.waiting import trained_by
from support.hub_server import Repo, hub_server
from support.kit import HUB_PORT, INPUTS

PREPARED, PLANNED = condition_words("Prepared"), condition_words("Planned")
LATER_SECONDS = 300
"""From the apply to what the trainer itself does in the middle."""
BAD_ROWS = '[\n {"instruction": "q", "output": "a"},\n {"instruction": "q"}\n]'


@story("A row without an answer")
def bad_rows(case: Case) -> None:
    (case.kit.volume(INPUTS) / "bad-rows.json").write_text(BAD_ROWS)
    case.run()["spec"]["dataset"] = {"path": "bad-rows.json", "maxTokens": 128}
    case.inject(case.apply)
    case.named(PREPARED, "BadRows.*line 3")
    case.failed("line 3")
    case.refused()


@story("A gated model, and no token")
def gated_model(case: Case) -> None:
    run = case.run()
    run["spec"]["model"] = {"source": "HuggingFace", "id": "acme/gated"}
    with hub_server((addresses.NODE, HUB_PORT), gated=Repo({"config.json": b"{}"}, token="secret")):  # noqa: S106
        case.inject(case.apply)
        case.named(PREPARED, "gated.*tokenSecret")
        case.failed("acme/gated.*model.tokenSecret")
    case.refused()


@story("A model that cannot fit the GPU")
def too_large(case: Case) -> None:
    run = case.run()
    run["spec"]["model"] = {"id": "Qwen/Qwen3-32B"}
    run["spec"]["resources"]["gpuMemory"] = "16Gi"
    case.inject(case.apply)
    case.named(PLANNED, "GiB")
    case.failed("one GPU needs .*GiB and has 16.0 GiB.*What fits: ")
    case.refused()


@story("The trainer's image speaks another contract version than the operator")
def contract_version(case: Case) -> None:
    folder = case.stage.work / "stranger"
    folder.mkdir()
    trained_by(case, stranger_image(case, folder), "Never")
    case.inject(case.apply)
    case.named(PREPARED, "version 2")
    case.failed("version 2.*version 1.*release")
    case.refused()


def stranger_image(case: Case, folder: Path) -> str:
    """The trainer's image as a later release may build it, with version 2 of the contract."""
    edit = "sed -i -E 's/Literal\\[1\\]/Literal[2]/; s/^(CONTRACT_VERSION.*=) 1$/\\1 2/' /app/finetune_contract/*.py"
    file = folder / "Dockerfile"
    file.write_text(
        f"FROM {case.stage.trainer_image} AS stranger\nUSER 0:0\nRUN {edit}"
        " && python -m compileall -q -f --invalidation-mode unchecked-hash /app/finetune_contract\nUSER 65532:65532\n"
    )
    return case.stage.cluster.ensure_image("stranger", file, folder)


@story("One step's loss is not a number")
def nan_once(case: Case) -> None:
    case.hook(nan_step=HOLD_STEP, last_nan_step=HOLD_STEP)
    case.inject(case.apply)
    case.named(
        lambda status: f"skipped steps: {status.get('progress', {}).get('skippedSteps', 0)}", "steps: 1$", LATER_SECONDS
    )
    case.row.named_seconds = None  # from the apply on: the moment of the step is the trainer's own
    status = case.until(lambda status: status.get("phase") == "Succeeded", "Succeeded", 420)
    case.row.decision, case.row.is_decision_right = "step passed over", status["restarts"] == 0
    losses = case.kit.losses(case.name)
    case.row.result = f"Succeeded, {len(losses)} steps"
    case.row.is_result_right = sorted(losses) == list(range(1, STEPS + 1))


@story("From one step on no loss is a number")
def nan_always(case: Case) -> None:
    case.hook(nan_step=HOLD_STEP, last_nan_step=STEPS * 10)
    case.run()["spec"]["stability"] = {"nonFinite": {"skipSteps": 1, "rollbacks": 1}}
    case.inject(case.apply)
    case.named(attempt_words(), "NotANumber", LATER_SECONDS)
    case.row.named_seconds = None
    case.decided("GiveUp")
    case.failed("learningRate.*warmupRatio")


@story("The GPU's memory does not suffice for 8 sequences at once, but for 4")
def gpu_memory(case: Case) -> None:
    case.stage.reference(case.run(dropout=0.0))
    for number in (1, 2):
        case.hook(number, gpu_step=HOLD_STEP, gpu_sequences=4)
    case.inject(case.apply)
    case.named(attempt_words(), "OutOfMemory.*Tried to allocate", LATER_SECONDS)
    case.row.named_seconds = None
    case.decided("Remedy")
    case.succeeded(restarts=1, exactly=False)


@story("The pod hits its memory limit (OOMKilled)")
def host_memory(case: Case) -> None:
    for number in (1, 2):
        case.hook(number, host_memory_step=HOLD_STEP, host_memory_bytes=7 * 2**28)
    case.inject(case.apply)
    case.named(attempt_words(), "HostOutOfMemory.*memory limit", LATER_SECONDS)
    case.row.named_seconds = None
    case.decided("Remedy")
    case.succeeded(restarts=1)
