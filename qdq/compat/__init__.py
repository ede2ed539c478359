"""Other toolchains' names over ours."""

from qdq.compat.installing import install

__all__ = ["install"]
