"""`qft`: the kit on one machine. Also installed as kubectl-qft, so that `kubectl qft plan FILE` works."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from finetune_contract import ExitCode
from finetune_operator.backends.local import LocalBackend, Machine, read_json, this_machine
from finetune_operator.cli.documents import (
    Document,
    DocumentError,
    checked,
    chosen,
    parsed,
    read_documents,
    with_gpu_memory,
)
from finetune_operator.cli.drive import driven
from finetune_operator.cli.open_run import RunRefusedError, held, opened, with_push_token, with_workers
from finetune_operator.cli.screen import screen_for
from finetune_operator.cli.words import closing_words, exit_code, opening_words, row
from finetune_operator.lifecycle import is_final
from finetune_operator.planning import PlanError, make_plan, push_target, render_plan
from finetune_operator.resource import Qwen3FineTune
from finetune_operator.status import Status

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help="Fine-tune Qwen3 from one YAML file."
)
console = Console()

_TOLD = frozenset({"Planned", "Succeeded", "Failed", "Pushed"})
"""Events that the command tells in words of its own."""

File = Annotated[Path, typer.Argument(metavar="FILE", help="YAML file with a Qwen3FineTune.")]
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="YAML files with Qwen3FineTunes.")]
Name = Annotated[str | None, typer.Option("--name", help="Which resource, if the file holds several.")]
Output = Annotated[Path, typer.Option("--output", metavar="DIR", help="Where runs keep their state and results.")]
Cache = Annotated[Path | None, typer.Option("--cache", metavar="DIR", help="Where models and tokens are kept.")]
PushToken = Annotated[
    Path | None, typer.Option("--push-token", metavar="FILE", help="Holds the token that may write to the hub.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Ranks on this machine; keeps the global batch.")]
GpuMemory = Annotated[str | None, typer.Option("--gpu-memory", metavar="SIZE", help="Of one GPU, such as 80Gi.")]


@app.command()
def run(
    file: File,
    name: Name = None,
    output: Output = Path("runs"),
    cache: Cache = None,
    workers: Workers = None,
    push_token: PushToken = None,
) -> None:
    """Run a fine-tune on this machine, with the plans and decisions of the cluster.

    Ctrl-C saves and stops, and the same command goes on from there. Ends with 0 when done, 75 when stopped, 64 when
    the run cannot work as written, and 65 (memory), 66 (not a number), 67 (infrastructure) or 1 when it failed.

    Paths in the file are relative to its folder; values of Secrets that it names are read from HF_TOKEN,
    MODELSCOPE_API_TOKEN, SWANLAB_API_KEY, WANDB_API_KEY and MLFLOW_TRACKING_TOKEN. The token for spec.output.push is
    read from --push-token or FINETUNE_PUSH_TOKEN, which no process but the one that pushes gets to see, else from
    HF_TOKEN or MODELSCOPE_API_TOKEN.
    """
    machine = this_machine(os.environ)
    try:
        environment = with_push_token(os.environ, push_token)
        document = chosen(read_documents(file), name)
        resource = with_workers(document, workers, machine)
        backend = LocalBackend(
            output,
            inputs_dir=document.folder,
            cache_dir=cache or _default_cache(),
            machine=machine,
            environment=environment,
        )
        with held(backend.folder(resource)):
            status = _run(resource, backend, machine, environment)
    except (DocumentError, RunRefusedError) as error:
        _refuse(str(error))
    _say(closing_words(status, backend.folder(resource)))
    raise typer.Exit(exit_code(status))


@app.command()
def plan(files: Files, gpu_memory: GpuMemory = None) -> None:
    """Work out strategy, batch and memory, without data or GPU; 64 if the run would be refused.

    Without --gpu-memory and spec.resources.gpuMemory, fit is judged by this machine's GPUs, if it has any.
    """
    machine = this_machine(os.environ)
    try:
        for document in _all(files):
            resource = parsed(document if gpu_memory is None else with_gpu_memory(document, gpu_memory))
            _say(f"{resource.metadata.name} ({document.file})\n{_plan_text(resource, machine)}\n")
    except (DocumentError, RunRefusedError) as error:
        _refuse(str(error))


@app.command()
def validate(files: Files) -> None:
    """Check files whole, and tell every mistake with its line; 64 if there is one."""
    problems: list[str] = []
    for file in files:
        try:
            for document in read_documents(file):
                problems += _problems(document)
        except DocumentError as error:
            problems += error.problems
    if problems:
        _refuse("\n".join(problems))


@app.command()
def status(output: Output = Path("runs")) -> None:
    """List the runs of this machine, as `kubectl get` lists those of a cluster."""
    table = Table("NAME", "PHASE", "PROGRESS", "STEP", "LOSS", "ETA", "RANKS", "RESTARTS", box=None)
    for file in sorted(output.glob("*/status.json")):
        table.add_row(*row(file.parent.name, Status.model_validate(read_json(file))))
    console.print(table)


def main() -> None:
    """The command's entry point."""
    app()


def _run(resource: Qwen3FineTune, backend: LocalBackend, machine: Machine, environment: Mapping[str, str]) -> Status:
    opened_run = opened(resource, backend, environment)
    if is_final(opened_run.earlier, opened_run.run):
        return opened_run.earlier
    _say(f"{resource.metadata.name}\n{_plan_text(resource, machine)}")
    if not machine.gpus:
        _say("no GPU is found here: the ranks compute on the CPU")
    if (going_on := opening_words(opened_run.earlier)) is not None:
        _say(going_on)
    with screen_for(console) as screen:
        backend.on_event = lambda reason, message: None if reason in _TOLD else screen.say(f"{reason}: {message}")
        return asyncio.run(driven(opened_run, backend, screen))


def _plan_text(resource: Qwen3FineTune, machine: Machine) -> str:
    """Raises RunRefusedError when the run would be refused."""
    try:
        made = make_plan(resource, model=None, dataset=None, gpu_memory_bytes=machine.gpu_memory_bytes)
    except PlanError as error:
        raise RunRefusedError(f"{error.reason}: {error}") from None
    push = resource.spec.output.push
    pushed = "" if push is None else f"\npush      {push_target(resource, push)}, once all else is done"
    return render_plan(made) + pushed


def _problems(document: Document) -> tuple[str, ...]:
    try:
        resource = checked(document)
    except DocumentError as error:
        return error.problems
    _say(f"{document.file}: {resource.metadata.name} is valid")
    return ()


def _all(files: list[Path]) -> list[Document]:
    return [document for file in files for document in read_documents(file)]


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "qwen3-finetune"


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _refuse(text: str) -> NoReturn:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(ExitCode.USER_ERROR)
