"""One story: a run, what is done to it, and what is expected to become of it, column by column."""

import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from report import Row
from stage import GRACE_SECONDS, HOLD_STEP, Losses, Stage, has_ended, small_run

from harness import HarnessError, project
from support import faults
from support.faults import Hook
from support.kit import Kit, Run

Status = dict[str, Any]
NAMED_SECONDS = 120
LOOK_SECONDS, LEFT_LOOK_SECONDS = 1.0, 3.0
END_SECONDS = 420
GONE_SECONDS = 60
AWAY_SECONDS = 60
TOLD_STEP = HOLD_STEP - 2
"""The last one that a run tells of which waits at HOLD_STEP: it hears of a step when the next one is on its way."""
SAME = 1e-4
"""Relative difference of losses that a batch cut otherwise may have."""


Result = TypeVar("Result")


class UnexpectedError(Exception):
    """A column is not what it should be; the story cannot go on."""


@dataclass(frozen=True)
class Story:
    """What happens in one row of the table."""

    name: str
    title: str
    tell: "Callable[[Case], None]"
    is_alone: bool = False
    """It changes what all share, so nothing else happens meanwhile."""
    is_long: bool = False
    """It waits for a time limit, so it is begun first."""


STORIES: dict[str, Story] = {}


def story(
    title: str, *, alone: bool = False, long: bool = False
) -> "Callable[[Callable[[Case], None]], Callable[[Case], None]]":
    """Puts a function into the table, under its own name."""

    def add(tell: "Callable[[Case], None]") -> "Callable[[Case], None]":
        name = tell.__name__.replace("_", "-")
        STORIES[name] = Story(name, title, tell, alone, long)
        return tell

    return add


class Case:
    """The run of one story, and its row."""

    def __init__(self, stage: Stage, told: Story) -> None:
        self.stage = stage
        self.name = told.name
        self.kit: Kit = stage.kit
        self.row = Row(name=told.name, title=told.title)
        self.injected_at = 0.0
        self._run: Run = small_run(self.name)
        self._undo: list[Callable[[], Any]] = []
        self._is_held = False

    # What the story does

    def run(self, **changes: Any) -> Run:
        """The story's run, one rank on each of `nodes`; see `stage.small_run`."""
        self._run = small_run(self.name, **changes)
        return self._run

    def apply(self) -> None:
        """`kubectl apply`."""
        patiently(lambda: self.kit.apply(self._run))

    def start_and_hold(self, nodes: int = 1) -> None:
        """The run, waiting in its first attempt for what shall happen to it at step HOLD_STEP."""
        if self._run["spec"]["parallelism"]["nodes"] != nodes:
            self.run(nodes=nodes)
        self.stage.reference(self._run)
        self.hook(hold_step=HOLD_STEP)
        self._is_held = True
        self.apply()
        self.until(lambda status: done_steps(status) >= TOLD_STEP, f"step {TOLD_STEP}", END_SECONDS)

    def hook(self, attempt: int = 1, **what: Any) -> None:
        """Faults in rank 0 of that attempt."""
        faults.hook(self.kit, self.host(0, attempt), Hook(**what))

    def let_go(self) -> None:
        """The held rank goes on."""
        faults.let_go(self.kit, self.host(0))

    def host(self, index: int, attempt: int = 1) -> str:
        """Name that a pod knows itself by."""
        return f"{self.name}-r{attempt}-{index}"

    def send(self, number: signal.Signals, index: int = 0, command: bytes = faults.RANK) -> None:
        """A signal to the rank (or the launcher) of that pod of the first attempt."""
        faults.send(self.host(index), number, command)

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """In the story's namespace."""
        return self.stage.cluster.kubectl("-n", self.kit.team, *words, stdin=stdin)

    def pod(self, index: int = 0, attempt: int = 1) -> Any:
        """A pod of that attempt."""
        pods = self.kit.pods(self.name, role="worker", attempt=str(attempt))
        return next(pod for pod in pods if pod["metadata"]["name"].startswith(f"{self.host(index, attempt)}-"))

    def of_run(self, kind: str) -> list[str]:
        """Names of the objects of that kind that belong to the run."""
        found = self.kubectl("get", kind, "-l", f"finetune.qwen3.io/run={self.name}", "-o", "name")
        return [line.partition("/")[2] for line in found.split()]

    def claim(self, suffix: str) -> Path:
        """A claim `<name>-<suffix>` on a volume of its own; where that lies. Removed with the story."""
        name = f"{self.name}-{suffix}"
        with self.stage.machine:
            (volume,) = self.stage.free_volumes(1)
            self.stage.cluster.kubectl.apply(project.claim(name, self.kit.team, volume))
            folder = self.kit.volume(name)
        self.finally_do(lambda: self.kubectl("delete", "pvc", name, "--wait=false"))
        return folder

    def finally_do(self, act: Callable[[], Any]) -> None:
        """After the story, however it ends; the last one first."""
        self._undo.append(act)

    def inject(self, fault: Callable[[], Any] | None = None) -> None:
        """The moment of the fault, from which seconds are counted."""
        self.injected_at = time.monotonic()
        if fault is not None:
            fault()

    # What the story expects

    def until(self, fact: Callable[[Status], bool], what: str, timeout: float) -> Status:
        """The status of which `fact` is true."""
        seen = self.stage.watch.first(self.name, fact, since=self.injected_at, timeout=timeout)
        if seen is None:
            raise UnexpectedError(f"not within {timeout:.0f} s: {what}; {summary(self.status)}")
        return seen.status

    @property
    def status(self) -> Status:
        """The newest one."""
        return self.stage.watch.now(self.name)

    def named(self, words: Callable[[Status], str], pattern: str, timeout: float = NAMED_SECONDS) -> None:
        """What the status tells in the place of `words` comes to match `pattern`, all of it, in any case of letters."""
        seen = self.stage.watch.first(
            self.name, lambda status: matches(pattern, words(status)), since=self.injected_at, timeout=timeout
        )
        if seen is None:
            self.row.named = words(self.status) or summary(self.status)
            raise UnexpectedError(f"the status does not tell of /{pattern}/ within {timeout:.0f} s")
        self.row.named, self.row.is_named = words(seen.status), True
        self.row.named_seconds = round(seen.at - self.injected_at, 1)

    def undisturbed(self, why: str) -> None:
        """There is nothing to name."""
        self.row.named, self.row.is_named = f"nothing to name: {why}", True

    def repaired(self, kind: str, name: str) -> None:
        """The object that was deleted is there again, which says more than a word in the status."""
        deadline = self.injected_at + NAMED_SECONDS
        while self.stage.cluster.kubectl.find("-n", self.kit.team, kind, name) is None:
            if time.monotonic() > deadline:
                raise UnexpectedError(f"the {kind} {name} is not made again within {NAMED_SECONDS} s")
            time.sleep(LOOK_SECONDS)
        self.row.named, self.row.is_named = f"the {kind} is made again", True
        self.row.named_seconds = round(time.monotonic() - self.injected_at, 1)

    def refused(self) -> None:
        """It was given up before a GPU was asked for, at the first look."""
        status = self.status
        tries, attempts = len(status.get("preparationFailures", [])), len(status.get("attempts", []))
        self.row.decision = f"given up after {tries} preparations and {attempts} attempts"
        self.row.is_decision_right = tries <= 1 and not attempts

    def decided(self, decision: str, number: int = 1) -> None:
        """What was decided after that attempt."""
        status = self.until(lambda status: bool(attempt(status, number).get("decision")), "a decision", END_SECONDS)
        self.row.decision = attempt(status, number)["decision"]
        if self.row.decision != decision:
            raise UnexpectedError(f"decided {self.row.decision} and not {decision}")
        self.row.is_decision_right = True

    def waited(self) -> None:
        """Nothing was spent on the fault: the run waits, and goes on by itself."""
        status = self.status
        spent = status.get("restarts", 0) + status.get("failures", 0) + len(status.get("preparationFailures", []))
        self.row.decision, self.row.is_decision_right = ("waits" if not spent else summary(status)), not spent
        if spent or has_ended(status):
            raise UnexpectedError(f"it should wait, and {summary(status)}")

    def succeeded(self, restarts: int, *, exactly: bool = True) -> None:
        """In the end it succeeds after so many restarts, with the loss curve of the unbroken run."""
        expected = self.stage.reference(self._run)
        status = self.until(has_ended, "the end", END_SECONDS)
        self.row.result = status["phase"]
        if status["phase"] != "Succeeded" or status.get("restarts", 0) != restarts:
            raise UnexpectedError(f"it should succeed with {restarts} restarts, and {summary(status)}")
        losses = patiently(lambda: self.kit.losses(self.name, self._output_claim))
        difference = compared(losses, expected.result(timeout=END_SECONDS))
        if not self.row.is_decision_right and not restarts:
            self.row.decision, self.row.is_decision_right = "goes on", True
        same = "equal" if difference == 0 else f"within {difference:.0e} of"
        self.row.result = f"Succeeded, losses {same} the unbroken run's"
        if difference > (0 if exactly else SAME):
            raise UnexpectedError(self.row.result)
        self.row.is_result_right = True

    def failed(self, remedy: str) -> None:
        """It fails for good, and says what to do."""
        status = self.until(has_ended, "the end", END_SECONDS)
        message = condition(status, "Succeeded")
        self.row.result = f"{status['phase']}: {message}"
        if status["phase"] != "Failed" or not matches(remedy, message):
            raise UnexpectedError(f"it should fail with /{remedy}/, and {summary(status)}")
        self.row.is_result_right = True

    @property
    def _output_claim(self) -> str | None:
        claim: str | None = self._run["spec"]["storage"]["output"].get("claimName")
        return claim

    # The end of every story

    def clean(self) -> None:
        """The run is deleted, and what is still there of it a minute later is written down."""
        if self._is_held:
            patiently(self.let_go)
        patiently(lambda: self.kubectl("delete", "qwen3finetune", self.name, "--wait=false", "--ignore-not-found"))
        deadline = time.monotonic() + GONE_SECONDS + GRACE_SECONDS
        while left := patiently(self._left):
            if time.monotonic() > deadline:
                break
            time.sleep(LEFT_LOOK_SECONDS)
        self.row.left, self.row.is_clean = left, not left
        for act in reversed(self._undo):
            patiently(act)
        patiently(self.stage.recycle_volumes)

    def _left(self) -> list[str]:
        kinds = "qwen3finetunes,jobs,pods,services,configmaps,persistentvolumeclaims"
        found = self.stage.cluster.kubectl.json("-n", self.kit.team, "get", kinds)["items"]
        return [f"{each['kind']} {each['metadata']['name']}" for each in found if self._is_of_run(each["metadata"])]

    def _is_of_run(self, metadata: dict[str, Any]) -> bool:
        names = (metadata["name"], metadata.get("labels", {}).get("finetune.qwen3.io/run"))
        return self.name in names


def told(stage: Stage, what: Story) -> Row:
    """The row of a story, told from beginning to end; what was seen of a wrong one lies in the stage's folder."""
    case, begin = Case(stage, what), time.monotonic()
    try:
        what.tell(case)
    except UnexpectedError as error:
        case.row.trouble = str(error)
    except (AssertionError, HarnessError, OSError, RuntimeError) as error:
        case.row.trouble = f"{type(error).__name__}: {error}"
    try:
        if case.row.trouble:
            write_down(case)
        case.clean()
    except (AssertionError, HarnessError, OSError) as error:
        case.row.trouble = f"{case.row.trouble or ''} cleaning: {error}"
    case.row.seconds = round(time.monotonic() - begin, 1)
    return case.row


def patiently(act: Callable[[], Result]) -> Result:
    """What `act` returns, once the API server answers: another story may have taken it away."""
    deadline = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return act()
        except HarnessError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def write_down(case: Case) -> None:
    """Everything that helps to understand what went wrong."""
    file = case.stage.work / f"{case.name}.txt"
    file.write_text(f"{case.row.trouble}\n{case.kit.describe(case.name)}")


def compared(losses: Losses, expected: Losses) -> float:
    """The largest relative difference; infinite when the steps are not the same."""
    if sorted(losses) != sorted(expected):
        return float("inf")
    return max(abs(losses[step] - loss) / loss for step, loss in expected.items())


def done_steps(status: Status) -> int:
    """Steps of a run that is running; 0 before."""
    step: int = status.get("progress", {}).get("step", 0)
    return step if status.get("phase") == "Running" else 0


def attempt(status: Status, number: int) -> dict[str, Any]:
    """The record of that attempt; empty when there is none."""
    records: list[dict[str, Any]] = status.get("attempts", [])
    return next((each for each in records if each["number"] == number), {})


def attempt_words(number: int = 1) -> Callable[[Status], str]:
    """What the record of that attempt says of its end."""

    def words(status: Status) -> str:
        record = attempt(status, number)
        return f"{record['cause']}: {record.get('message', '')}" if record.get("decision") else ""

    return words


def condition_words(kind: str) -> Callable[[Status], str]:
    """What that condition says."""
    return lambda status: condition(status, kind)


def condition(status: Status, kind: str) -> str:
    """Reason and message of a condition; empty when there is none."""
    for each in status.get("conditions", []):
        if each["type"] == kind:
            return f"{each['reason']}: {each['message']}"
    return ""


def matches(pattern: str, text: str) -> bool:
    """Whether `pattern` is found in `text`, whatever the case of letters."""
    return re.search(pattern, text, re.IGNORECASE | re.DOTALL) is not None


def summary(status: Status) -> str:
    """A status in a line."""
    attempts = [f"{each['number']}: {each.get('cause')} {each.get('decision')}" for each in status.get("attempts", [])]
    words = condition(status, "Succeeded") or condition(status, "Running") or condition(status, "Prepared")
    return f"it is {status.get('phase')} ({words}), attempts {attempts}"
