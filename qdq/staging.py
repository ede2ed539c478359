"""An output folder that is filled whole or not at all, and the manifest of what is in it."""

import hashlib
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path

from qdq.errors import InputError
from qdq.recipe import Recipe
from qdq.version import version


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` whose files move into it once the block has ended well.

    Raises:
        InputError: there is no way to write there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(20, "there is a file of that name")
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise InputError(
            f"cannot write the output folder: {error.strerror}",
            at=str(out),
            fix="pass --out with a folder that you may write to",
        ) from error
    try:
        yield work
        out.mkdir(exist_ok=True)
        for file in sorted(work.iterdir()):
            file.replace(out / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def manifest_of(recipe: Recipe, work: Path) -> dict[str, object]:
    """What was run with what, and the hashes of what came out."""
    packages = ("torch", "onnx", "onnx-graphsurgeon", "onnxruntime", "numpy")
    versions = {"python": platform.python_version(), "qdq": version()}
    files = sorted(path for path in work.iterdir() if path.name != "timings.json")
    return {
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "versions": versions | {name: installed(name) for name in packages},
        "machine": platform.machine(),
        "sha256": {path.name: sha256(path) for path in files},
    }


def sha256(path: Path) -> str:
    """Of the content of a file, as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
