"""All of a change to a model, or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def all_or_nothing(model: nn.Module) -> Iterator[None]:
    """An exception inside the block leaves every module's class, attributes and values as before.

    Values are put back by reference: the block may give a parameter other `data`, but must not
    write into the data it finds.
    """
    modules = [
        (module, type(module), dict(vars(module)), _tables(module)) for module in model.modules()
    ]
    values = [(parameter, parameter.data) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for module, kind, attributes, tables in modules:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
            for name, entries in tables.items():
                table = attributes[name]
                table.clear()
                table.update(entries)
        for parameter, data in values:
            parameter.data = data
        raise


def _tables(module: nn.Module) -> dict[str, dict[object, object]]:
    """Copies of the dictionaries of parameters, buffers, children and hooks."""
    return {name: dict(value) for name, value in vars(module).items() if isinstance(value, dict)}
