"""insert: a float model gets quantizers, in place, all of it or nothing."""

from torch import nn

from qdq.errors import PolicyError, StepError
from qdq.insertion.fusing import fuse, require_eval
from qdq.insertion.placing import Insertion, settle
from qdq.insertion.recording import BATCH_NORMS, record, trace
from qdq.insertion.undo import all_or_nothing
from qdq.nn import TensorQuantizer
from qdq.nn.twins import TWINS
from qdq.records.decisions import Decision, InsertReport
from qdq.sites import Matcher, Patterns
from qdq.targets import get
from qdq.targets.opgraph import OpGraph
from qdq.targets.target import TargetLike


def insert(
    model: nn.Module,
    example_inputs: object = None,
    *,
    target: TargetLike = "tensorrt",
    ignore: Patterns = (),
    only: Patterns = (),
) -> InsertReport:
    """Replace layers by their quantized twins, in place, and switch on what the target wants.

    A layer is replaced if its type is exactly a registered one; a subclass may compute something
    else and stays. BatchNorms are folded first (see `fuse`). Parameters keep their names, values
    and identity; hooks stay.

    Args:
        model: in eval mode.
        example_inputs: a tensor, tuple or dict to record one forward with. Without them the
            forward is followed by `torch.fx`.
        target: the runtime the sites are placed for; `retarget` changes it later.
        ignore: modules to leave float: a glob, `re:...`, a class, a callable(name, module), or
            several; what lies inside a fitting module is left float too.
        only: leave everything else float.

    Returns:
        One decision per site and per layer left float.

    Raises:
        StepError: training mode, quantizers already inserted, or a forward that nothing can
            follow for a target that must know it.
        PolicyError: a pattern fits nothing, or they leave nothing to quantize.
        InputError: the model does not take these inputs.
    """
    chosen = get(target)
    if any(isinstance(module, tuple(TWINS.values())) for module in model.modules()):
        raise StepError(
            "this model has quantized layers already",
            at=type(model).__name__,
            fix="insert into a fresh float model, or use qdq.retarget for another target",
        )
    require_eval(model, "insert")
    with all_or_nothing(model):
        folded = _fold_norms(model, example_inputs)
        graph = _follow(model, example_inputs)
        layers, left = _choose(model, graph, ignore, only)
        for module in layers:
            module.__class__ = TWINS[type(module)]
            module.add_quantizers()  # type: ignore[operator]
            module.train(False)
        return settle(model, Insertion(chosen, graph, folded + left))


def _follow(model: nn.Module, example_inputs: object) -> OpGraph | None:
    return trace(model) if example_inputs is None else record(model, example_inputs)


def _fold_norms(model: nn.Module, example_inputs: object) -> tuple[Decision, ...]:
    """Fold what can be; without a forward to follow, every BatchNorm stays and is reported."""
    try:
        return fuse(model, example_inputs=example_inputs).rows
    except StepError as error:
        norms = [name for name, each in model.named_modules() if isinstance(each, BATCH_NORMS)]
        return tuple(Decision(name, "skip", f"not folded: {error.what}") for name in norms)


def _choose(
    model: nn.Module, graph: OpGraph | None, ignore: Patterns, only: Patterns
) -> tuple[list[nn.Module], tuple[Decision, ...]]:
    """The layers to replace, and the decisions about those that are not."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    ignored, wanted = Matcher(ignore, what="ignore"), Matcher(only, what="only")
    layers, left = [], []
    for name, module in modules.items():
        by_ignore, by_only = ignored.find(name, modules), wanted.find(name, modules)
        if not isinstance(module, tuple(TWINS)):
            continue
        if by_ignore:
            why = f"ignored by {by_ignore}"
        elif wanted and not by_only:
            why = "only= does not name it"
        else:
            why = _why_not(name, module, graph)
        if why:
            left.append(Decision(name, "skip", why))
        else:
            layers.append(module)
    for matcher in (ignored, wanted):
        matcher.refuse_idle(name for name in modules if name)
    if not layers and not any(isinstance(each, TensorQuantizer) for each in modules.values()):
        known = ", ".join(sorted(float_class.__name__ for float_class in TWINS))
        raise PolicyError(
            "nothing is left to quantize",
            at=type(model).__name__,
            fix=f"qdq replaces layers of exactly these types: {known}; see ignore= and only=",
        )
    return layers, tuple(left)


def _why_not(name: str, module: nn.Module, graph: OpGraph | None) -> str:
    """Why a layer nobody ignores must stay float; empty if nothing speaks against it."""
    if type(module) not in TWINS:
        base = next(each.__name__ for each in TWINS if isinstance(module, each))
        return f"a subclass of {base}, which may compute something else: register a twin for it"
    calls = 1 if graph is None else graph.calls.get(name, 0)
    if calls == 0:
        return "the recorded forward never calls it"
    if calls > 1:
        return f"called {calls} times in one forward, and one range would have to serve all"
    return ""
