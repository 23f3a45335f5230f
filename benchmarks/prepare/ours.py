"""This project's preparation: rows to a packed, memory-mapped token cache with its report."""

import json
import sys
from pathlib import Path

import numpy as np

from finetune_contract import DatasetConfig
from finetune_trainer.data.build import build_tokens
from finetune_trainer.data.cache import open_tokens
from finetune_trainer.data.input_files import InputFile
from finetune_trainer.prepare import load_tokenizer


def main(rows: Path, tokenizer: Path, folder: Path) -> None:
    """Build, and say how many tokens there are and what they add up to."""
    config = DatasetConfig.model_validate(
        {"sources": [{"source": {"type": "Volume", "path": str(rows)}}], "max_tokens": 4096, "seed": 1}
    )
    files = [InputFile(rows, rows.name, 0)]
    tokens_dir, report = build_tokens(
        files, config, load_tokenizer(tokenizer), tokenizer_digest="benchmark", cache_dir=folder
    )
    ids = open_tokens(tokens_dir).training.input_ids
    checksum = sum(int(ids[begin : begin + 1_000_000].sum(dtype=np.int64)) for begin in range(0, len(ids), 1_000_000))
    print(json.dumps({"tokens": report.tokens, "checksum": checksum, "packing": report.packing_efficiency}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
