"""Record: a frozen dataclass that becomes JSON and comes back; and files written whole or not."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from qdq.errors import InputError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name only if the block ends well.

    Raises:
        InputError: the folder does not exist or cannot be written, or `path` is a folder.
    """
    if path.is_dir():
        raise InputError("cannot write here: it is a folder", at=str(path), fix="name a file in it")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise InputError(
            f"cannot write here: {error.strerror}",
            at=str(path),
            fix="name a file in a folder that exists and that you may write to",
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 would hide the file from its readers
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def to_json_text(value: object) -> str:
    """Readable JSON with sorted keys: the same value gives the same text."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


class Record:
    """Base of every report: `to_dict`, `to_json`, `str`. Subclasses are frozen dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers; infinite numbers become text."""
        return {
            field.name: plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The record that `to_dict` described; InputError if it is not one."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"this is no {cls.__name__}: {where}: {first['msg']}",
                fix="pass what to_dict() or to_json() wrote",
            ) from error

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict` as JSON, whole or not at all."""
        with written_whole(Path(path)) as temporary:
            temporary.write_text(to_json_text(self.to_dict()), encoding="utf-8")


def plain(value: object) -> Any:
    """`value` as JSON knows it."""
    if isinstance(value, Record):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    if isinstance(value, float) and value != value:
        return "nan"
    return value
