"""What a runtime wants: a value per runtime, a neutral op graph, and the placement on it."""

from qdq.targets.target import TARGETS, Target, get

__all__ = ["TARGETS", "Target", "get"]
