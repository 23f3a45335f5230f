"""`python -m finetune_operator.crd` writes the generated files; `--print` shows the CRD, `--check` looks for drift."""

import argparse
import sys
from pathlib import Path

from finetune_operator.crd.files import COMMAND, CRD_FILE, generated


def main() -> int:
    """0, or 1 when `--check` found a file that is not what the models say."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="The CRD, generated from the resource models.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--print", action="store_true", help="print the CRD and write nothing")
    action.add_argument("--check", action="store_true", help="fail when a generated file has drifted from the models")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository (default: the current folder)")
    options = parser.parse_args()
    if options.check:
        return _check(options.root)
    if options.print:
        print(generated()[CRD_FILE], end="")
    else:
        _write(options.root)
    return 0


def _write(root: Path) -> None:
    for path, text in generated().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        print(f"wrote {root / path}")


def _check(root: Path) -> int:
    drifted = [path for path, text in generated().items() if _content(root / path) != text]
    for path in drifted:
        print(f"{root / path} is not what the models say: run `{COMMAND}`", file=sys.stderr)
    return 1 if drifted else 0


def _content(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
