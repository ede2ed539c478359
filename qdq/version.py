"""The version of the installed package."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """As pip knows it; "0+source" when run from a folder that was never installed."""
    try:
        return installed("qdq")
    except PackageNotFoundError:
        return "0+source"
