"""YAML files of resources: parsed, checked whole, and every mistake told with its line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from finetune_operator.planning import PlanError, make_plan
from finetune_operator.resource import KIND, InvalidResourceError, Qwen3FineTune, parse_resource

_PATH = re.compile(r"[A-Za-z][\w./-]*")


class DocumentError(ValueError):
    """A file, or a resource in it, that cannot be used; one line per mistake, each with file and line."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Document:
    """One resource of a file, as it was written."""

    file: Path
    node: yaml.Node
    body: dict[str, Any]

    @property
    def name(self) -> str | None:
        """metadata.name, if it has one."""
        metadata = self.body.get("metadata")
        return metadata.get("name") if isinstance(metadata, dict) else None

    @property
    def folder(self) -> Path:
        """What relative paths of the resource start from."""
        return self.file.absolute().parent

    def at(self, problem: str) -> str:
        """`problem`, which begins with a field's path, behind file and line of that field."""
        return f"{self.file}:{_line(self.node, _path_of(problem))}: {problem}"


def read_documents(file: Path) -> tuple[Document, ...]:
    """Every Qwen3FineTune in `file`; documents of other kinds are left out. Raises DocumentError."""
    try:
        text = file.read_text(encoding="utf-8")
        documents = tuple(_documents(file, text))
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError((f"{file}: cannot be read: {error}",)) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DocumentError((f"{file}:{line}: not YAML: {error.problem}",)) from None
    if not documents:
        raise DocumentError((f"{file}: holds no resource of kind {KIND}",))
    return documents


def chosen(documents: tuple[Document, ...], name: str | None) -> Document:
    """The one resource that is meant. Raises DocumentError when `name` does not settle it."""
    fitting = [each for each in documents if name is None or each.name == name]
    if len(fitting) != 1:
        names = ", ".join(str(each.name) for each in documents)
        raise DocumentError((f"{documents[0].file}: choose one of its resources with --name: {names}",))
    return fitting[0]


def parsed(document: Document) -> Qwen3FineTune:
    """The resource in `document`. Raises DocumentError that names every mistake, twice-written fields among them."""
    twice = [
        f"{document.file}:{line}: {path}: written twice; this one would win"
        for path, line in _duplicates(document.node)
    ]
    try:
        run = parse_resource(document.body)
    except InvalidResourceError as error:
        raise DocumentError((*twice, *(document.at(problem) for problem in error.problems))) from None
    if twice:
        raise DocumentError(tuple(twice))
    return run


def checked(document: Document) -> Qwen3FineTune:
    """`parsed`, and could be planned as far as can be told without its data. Raises DocumentError."""
    run = parsed(document)
    try:
        make_plan(run, model=None, dataset=None, gpu_memory_bytes=None)
    except PlanError as error:
        raise DocumentError(tuple(document.at(line) for line in str(error).splitlines())) from None
    return run


def with_gpu_memory(document: Document, size: str) -> Document:
    """`document`, as if its GPUs had so much memory."""
    spec = document.body.get("spec") or {}
    resources = {**(spec.get("resources") or {}), "gpuMemory": size}
    return replace(document, body={**document.body, "spec": {**spec, "resources": resources}})


def _documents(file: Path, text: str) -> Iterator[Document]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "check_node() has said that there is one"
            body = loader.construct_document(node)
            if isinstance(body, dict) and body.get("kind") == KIND:
                yield Document(file, node, body)
    finally:
        loader.dispose()


def _path_of(problem: str) -> str:
    """`spec.training.seed` of `spec.training.seed: ...`, and `spec.training.seed` of `spec: training.seed: ...`."""
    first, _, rest = problem.partition(": ")
    second = rest.partition(": ")[0]
    return f"{first}.{second}" if _PATH.fullmatch(second) else first


def _line(node: yaml.Node, path: str) -> int:
    """Line, from 1, of the deepest part of `path` that was written. Keys may hold dots themselves."""
    line = node.start_mark.line
    while path:
        found = next((each for each in _children(node) if path == each[0] or path.startswith(f"{each[0]}.")), None)
        if found is None:
            break
        name, line, node = found
        path = path[len(name) + 1 :]
    return line + 1


def _children(node: yaml.Node) -> Iterator[tuple[str, int, yaml.Node]]:
    """Name, line and content of everything directly below `node`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield str(index), value.start_mark.line, value


def _duplicates(node: yaml.Node, path: str = "") -> Iterator[tuple[str, int]]:
    """Path and line, from 1, of every key that stands a second time in its mapping."""
    seen: set[str] = set()
    for name, line, child in _children(node):
        here = f"{path}.{name}" if path else name
        if name in seen:
            yield here, line + 1
        seen.add(name)
        yield from _duplicates(child, here)
