"""insert: a float model gets quantizers, in place, all of it or nothing."""

from collections.abc import Collection, Mapping

from torch import nn

from qdq.errors import StepError
from qdq.insertion.following import follow
from qdq.insertion.fusing import fold_norms, require_eval, without_norms
from qdq.insertion.kinds import BATCH_NORMS
from qdq.insertion.placing import Insertion, found_insertion, settle
from qdq.insertion.policies import Policy, Specs
from qdq.insertion.selecting import select
from qdq.insertion.switches import quantizers
from qdq.insertion.undo import atomic
from qdq.nn import TensorQuantizer
from qdq.nn.attention import QuantMultiheadAttention
from qdq.nn.calls import CallSite
from qdq.nn.callsites import follow_calls
from qdq.nn.holders import add_call_site
from qdq.nn.twins import TWINS
from qdq.records.decisions import Decision, InsertReport
from qdq.sites import CALL_SITES, Patterns, owner
from qdq.targets import get
from qdq.targets.opgraph import OpGraph
from qdq.targets.target import TargetLike


@atomic
def insert(
    model: nn.Module,
    example_inputs: object = None,
    *,
    target: TargetLike = "tensorrt",
    ignore: Patterns = (),
    only: Patterns = (),
    spec: Specs | None = None,
) -> InsertReport:
    """Give a model quantizers wherever a target may want them, in place, and switch on those.

    A layer is replaced if its type is exactly a registered one; a subclass may compute something
    else and stays. BatchNorms are folded first (see `fuse`). Parameters keep their names, values
    and identity; hooks stay. Layers that were built quantized keep the quantizers they have.

    Calls of torch's functions become sites too, wherever in the forward they stand: additions,
    gates, products, concatenations, poolings, attention. Which of them are active is the target's
    choice, and `report.rows` says why. A call that did not happen in the recorded forward runs
    float, with a RuntimeWarning.

    Args:
        model: in eval mode.
        example_inputs: a tensor, tuple or dict to record one forward with. Without them the
            forward is followed by `torch.fx`.
        target: the runtime the sites are placed for; `retarget` changes it later.
        ignore: modules and calls to leave float: a glob, `re:...`, a class, a callable(name,
            module), a from-to (`layer1->layer3`), or several; what lies inside a fitting module
            is left float too.
        only: leave everything else float.
        spec: pattern -> grid of the sites it fits, instead of the target's; the first that fits
            decides. On a weight, `keep_axis=None` stands for the axis its layer keeps.

    Returns:
        One decision per site and per layer left float.

    Raises:
        StepError: training mode, quantizers already inserted, or a forward that nothing can
            follow for a target that must know it.
        PolicyError: a pattern fits nothing, or they leave nothing to quantize.
        InputError: the model does not take these inputs.
    """
    chosen = get(target)
    if found_insertion(model) is not None:
        raise StepError(
            "quantizers were inserted into this model already",
            at=type(model).__name__,
            fix="insert into a fresh float model, or use qdq.retarget for another target",
        )
    require_eval(model, "insert")
    attentions = [each for each in model.modules() if type(each) is nn.MultiheadAttention]
    for each in attentions:
        each.__class__ = QuantMultiheadAttention
    folded, graph = _fold_norms(model, follow(model, example_inputs))
    policy = Policy(ignore, only, spec or {}, dict(model.named_modules()), graph)
    selected = select(model, graph, policy)
    attach(model, selected.layers, selected.calls, graph)
    for each in attentions:
        if not hasattr(each, CALL_SITES):
            each.__class__ = nn.MultiheadAttention
    for module in selected.off:
        for quantizer in module.modules():
            if isinstance(quantizer, TensorQuantizer):
                quantizer.enabled = False
    specs = policy.specs_for(quantizers(model))
    return settle(model, Insertion(chosen, graph, folded + selected.left, specs))


def attach(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    calls: Collection[CallSite],
    graph: OpGraph | None,
) -> None:
    """Give these layers and calls their quantizers, in the mode their module is in.

    Args:
        model: the root.
        layers: modules of types that have a twin.
        calls: call sites.
        graph: the forward they were chosen in.
    """
    for layer in layers.values():
        layer.__class__ = TWINS[type(layer)]
        layer.add_quantizers()  # type: ignore[operator]
        layer.train(layer.training)
    for site in calls:
        maker = model.get_submodule(owner(site.name))
        if type(maker) is nn.MultiheadAttention:
            maker.__class__ = QuantMultiheadAttention
        add_call_site(model, site)
    if calls:
        follow_calls(model, frozenset(op.name for op in graph.ops) if graph else frozenset())


def _fold_norms(
    model: nn.Module, graph: OpGraph | None
) -> tuple[tuple[Decision, ...], OpGraph | None]:
    """Decisions, and the forward without what was folded."""
    if graph is None:
        why = "not folded: torch.fx cannot follow this model's forward"
        norms = [name for name, each in model.named_modules() if isinstance(each, BATCH_NORMS)]
        return tuple(Decision(name, "skip", why) for name in norms), None
    rows = fold_norms(model, graph)
    return rows, without_norms(graph, (row.name for row in rows if row.action == "fold"))
