"""`datasets.map` over the same rows: render with the chat template, tokenize in batches, in a process per core."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset

from finetune_trainer.prepare import load_tokenizer

END = "<|im_end|>"


def main(rows: Path, tokenizer_dir: Path, folder: Path) -> None:
    """Map, and say how many tokens there are and what they add up to."""
    tokenizer = load_tokenizer(tokenizer_dir)
    end = tokenizer.convert_tokens_to_ids(END)

    def tokenized(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [
            tokenizer.apply_chat_template(
                [
                    {"role": "user", "content": "\n".join(filter(None, (instruction, more)))},
                    {"role": "assistant", "content": answer},
                ],
                tokenize=False,
            )
            for instruction, more, answer in zip(batch["instruction"], batch["input"], batch["output"], strict=True)
        ]
        ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [each[: len(each) - each[::-1].index(end)] for each in ids]}

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    dataset = load_dataset("json", data_files=str(rows), split="train", cache_dir=str(folder / "cache"))
    mapped = dataset.map(
        tokenized, batched=True, num_proc=len(os.sched_getaffinity(0)), remove_columns=dataset.column_names
    )
    tokens = checksum = 0
    for batch in mapped.with_format("arrow").iter(batch_size=10_000):
        ids = batch["input_ids"].combine_chunks().flatten().to_numpy()
        tokens, checksum = tokens + len(ids), checksum + int(ids.sum(dtype=np.int64))
    print(json.dumps({"tokens": tokens, "checksum": checksum}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
