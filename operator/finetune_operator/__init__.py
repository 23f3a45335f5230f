"""Watches Qwen3FineTune resources and brings them to a trained adapter."""
