"""The quantizers of a model by site name, and their switches."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from torch import nn

from qdq.errors import StepError
from qdq.insertion.placing import refresh
from qdq.insertion.undo import atomic
from qdq.nn import TensorQuantizer
from qdq.sites import Matcher, Patterns, site_name


def quantizers(model: nn.Module, match: Patterns = "*") -> dict[str, TensorQuantizer]:
    """Site name -> quantizer, in the order of the model's modules.

    Args:
        model: with quantizers inserted or built in.
        match: glob, `re:...`, class, callable(name, module), or several: of the site, or of a
            module it lies in.

    Raises:
        PolicyError: a pattern fits no site.
        StepError: the model has no quantizers.
    """
    modules = dict(model.named_modules())
    found = {site_name(p): q for p, q in modules.items() if isinstance(q, TensorQuantizer)}
    if not found:
        raise StepError(
            "this model has no quantizers",
            at=type(model).__name__,
            fix="call qdq.insert(model, example_inputs) first",
        )
    for site, quantizer in found.items():
        quantizer.site = site
    matcher = Matcher(match, what="match")
    fitting = {site: q for site, q in found.items() if matcher.find(site, modules)}
    matcher.refuse_idle(found)
    return fitting


def disable_quantization(model: nn.Module, match: Patterns = "*") -> "Switch":
    """Let x pass unchanged through the fitting quantizers, from now on or for a `with` block.

    Args:
        model: with quantizers.
        match: as for `quantizers`.

    Returns:
        As a context manager, what puts every switch back to what it was, after exceptions too.
    """
    return _switch(model, match, enabled=False)


def enable_quantization(model: nn.Module, match: Patterns = "*") -> "Switch":
    """Undo `disable_quantization`, from now on or for a `with` block.

    Sites that the target does not use stay inactive: see `retarget`.
    """
    return _switch(model, match, enabled=True)


class Switch:
    """What switches were before they were set; as a context manager puts them back."""

    def __init__(self, model: nn.Module, before: Mapping[TensorQuantizer, bool]) -> None:
        self._model = model
        self._before = before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            _set(self._model, self._before)
        except BaseException:  # an interrupt must not keep the switches from going back
            _set(self._model, self._before)
            raise


@atomic
def _switch(model: nn.Module, match: Patterns, *, enabled: bool) -> Switch:
    fitting = quantizers(model, match).values()
    before = {quantizer: quantizer.enabled for quantizer in fitting}
    _set(model, dict.fromkeys(before, enabled))
    return Switch(model, before)


def _set(model: nn.Module, switches: Mapping[TensorQuantizer, bool]) -> None:
    for quantizer, enabled in switches.items():
        quantizer.enabled = enabled
    refresh(model)
