"""Trains Qwen3 models: data, methods, strategies and the recipe that joins them."""
