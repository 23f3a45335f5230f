"""The example's tiny model is what a hub would hold, and the same every time."""

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from finetune_trainer.data.digests import file_digest
from finetune_trainer.model_folder import model_config
from support.tiny import make_model_script, tiny_model_dir


def test_the_same_call_writes_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    again = tiny_model_dir(tmp_path)
    digests = [{path.name: file_digest(path) for path in folder.iterdir()} for folder in (tiny_model, again)]
    assert digests[0] == digests[1]
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= digests[0].keys()


def test_it_is_a_dense_qwen3_with_tied_embeddings(tiny_model: Path) -> None:
    assert model_config(tiny_model)["model_type"] == "qwen3"
    model = Qwen3ForCausalLM.from_pretrained(tiny_model)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert sum(parameter.numel() for parameter in model.parameters()) < 400_000


def test_the_tiny_tokenizer_gives_text_back_and_renders_as_qwen3_does(tiny_tokenizer: Any, qwen3: Any) -> None:
    text = "臣妾要告发熹贵妃私通，秽乱后宫，罪不容诛！ ok\n\n"
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "reasoning_content": "r"},
    ]
    assert tiny_tokenizer.apply_chat_template(messages, tokenize=False) == qwen3.apply_chat_template(
        messages, tokenize=False
    )
    assert len(tiny_tokenizer) == make_model_script().VOCAB_SIZE


def test_a_tiny_model_can_bring_the_real_tokenizer(tmp_path: Path) -> None:
    folder = tiny_model_dir(tmp_path, tokenizer="real")
    assert model_config(folder)["vocab_size"] == 151_936
    model = Qwen3ForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert model(torch.tensor([[151_644, 872, 198]])).logits.shape == (1, 3, 151_936)
