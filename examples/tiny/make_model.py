"""Makes a tiny dense Qwen3 with random weights, so that the whole kit runs on a laptop's CPU in seconds.

    python examples/tiny/make_model.py DIR

DIR then holds what a model folder from a hub holds: config.json, model.safetensors and a tokenizer. The architecture
is Qwen3's own (grouped-query attention, q and k norms, tied embeddings as in Qwen3-0.6B), the tokenizer a small
byte-level BPE trained on examples/huanhuan.json with Qwen3's special tokens and chat template. The same call writes the
same bytes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).resolve().parent
VOCAB_SIZE = 1024
"""Special tokens included; Qwen3's own is 151,936."""
SEED = 20250428

# Qwen3's own pre-tokenizer: the boundary between a prompt and its answer falls between the same characters.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN_TOKENS = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip


def main() -> None:
    """Write the model folder named on the command line."""
    parser = argparse.ArgumentParser(description="Make a tiny dense Qwen3 with random weights.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    make_model(parser.parse_args().folder)


def make_model(folder: Path) -> None:
    """Write config, weights and tokenizer into `folder`, which is created if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    save_model(folder, tiny_config(VOCAB_SIZE))


def tiny_config(vocab_size: int, *, hidden_size: int = 64, num_layers: int = 4) -> Qwen3Config:
    """A Qwen3 of about 0.3 million parameters beside its embeddings."""
    return Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # 4 x 32 is more than the width, as in Qwen3-0.6B
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        dtype="float32",
    )


def save_model(folder: Path, config: Qwen3Config) -> None:
    """Write config.json and model.safetensors with weights that depend on SEED alone."""
    torch.manual_seed(SEED)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        # At Qwen3's own 0.02 the tied head could not tell tokens apart, and adapters would have nothing to steer.
        model.model.embed_tokens.weight.mul_(6.0)
    model.save_pretrained(folder)


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json in the form of Qwen3's own."""
    tokenizer = trained_tokenizer(VOCAB_SIZE - len(CONTROL_TOKENS) - len(PLAIN_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "additional_special_tokens": list(CONTROL_TOKENS[1:]),
        "bos_token": None,
        "chat_template": (HERE / "chat_template.jinja").read_text(encoding="utf-8"),
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")


def trained_tokenizer(bpe_size: int) -> Tokenizer:
    """Byte-level BPE of `bpe_size` entries learnt from the example rows, the special tokens behind them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        example_texts(),
        trainers.BpeTrainer(vocab_size=bpe_size, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in PLAIN_TOKENS])
    return tokenizer


def example_texts() -> Iterator[str]:
    """Every text of examples/huanhuan.json, and the words that the chat template adds."""
    rows = json.loads((HERE.parent / "huanhuan.json").read_text(encoding="utf-8"))
    for row in rows:
        yield from (row["instruction"], row["output"])
    yield from ("system\n", "user\n", "assistant\n", "\n\n") * 100


if __name__ == "__main__":
    main()
