"""The command line: the same plans, decisions and trainer without a cluster."""

from finetune_operator.cli.app import main

__all__ = ["main"]
