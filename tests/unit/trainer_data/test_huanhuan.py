"""The example rows: what is learnt of them, counted a second way."""

import json
from typing import Any

from finetune_contract import DatasetFormat
from finetune_trainer.data.document import Document
from finetune_trainer.data.formats import Layout
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.row import Row
from support.tiny import HUANHUAN
from unit.trainer_data.oracle import expected_flags, learnt_texts
from unit.trainer_data.rows import dataset_config


def test_supervised_tokens_are_those_that_a_second_count_finds(qwen3: Any) -> None:
    rows = json.loads(HUANHUAN.read_text(encoding="utf-8"))
    renderer = Renderer(qwen3, dataset_config())
    numbered = [Row(number, number, row) for number, row in enumerate(rows, start=1)]
    ours = counted = alone = 0
    for row, made in zip(rows, renderer.documents(Layout(DatasetFormat.ALPACA), numbered), strict=True):
        assert isinstance(made, Document)
        flags = expected_flags(qwen3, made, [True], always_thinks=False, keeps_empty=False)
        assert flags == made.supervised.tolist()
        assert learnt_texts(qwen3, made) == [row["output"].lstrip("\n") + "<|im_end|>"]
        ours += int(made.supervised.sum())
        counted += sum(flags)
        alone += len(qwen3(row["output"].lstrip("\n"))["input_ids"]) + 1
    assert len(rows) == 400
    assert ours == counted == alone == 8481
