"""Runs on a cluster: Jobs for workers, a headless Service for their names, ConfigMaps for what they are told."""

from finetune_operator.backends.kubernetes.backend import KubernetesBackend

__all__ = ["KubernetesBackend"]
