"""Ranges chosen by what their error does to the model's outputs, not to the tensor itself."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

import torch
from torch import Tensor, nn

from qdq.data import device_of, tensors_of
from qdq.errors import CalibrationError, InputError
from qdq.insertion.fusing import require_eval
from qdq.insertion.placing import found_insertion
from qdq.insertion.switches import quantizers
from qdq.insertion.undo import atomic
from qdq.nn import TensorQuantizer, callsites
from qdq.numerics.affine import QParams, fake_quantize, qparams
from qdq.records.calibration import RepairRow
from qdq.repair.layers import Reading, Step, observed
from qdq.repair.repairs import REPAIRS, decibels
from qdq.targets.opgraph import OpGraph
from qdq.targets.placement import region_end

# Shares of the range so far that are tried; the step of the grid goes with them.
SHARES = tuple(2.0 ** (eighths / 8) for eighths in range(-4, 9))
PROJECTIONS = 2  # of the outputs of each sample, and so backward passes per batch
# What gives the same values in the same order; whoever reads it reads the same numbers.
_SAME = frozenset({"identity", "reshape", "transpose"})

Probes: TypeAlias = dict[str, list[Tensor]]


@REPAIRS.add("propagation")
@atomic
def refine_ranges(
    model: nn.Module,
    data: Iterable[object],
    *,
    batches: int | None = None,
    device: torch.device | str | None = None,
    step: Step | None = None,
    progress: bool = True,
) -> tuple[RepairRow, ...]:
    """Widen or narrow the range of each activation to where its error moves the outputs least.

    To first order an error e of a tensor moves the outputs by J e, and |J e|^2 is the mean of
    (g . e)^2 over random directions v of the outputs, standard normal, with g = J^T v: one
    backward pass of the float model. This is the Gauss-Newton criterion that Nagel et al. 2020,
    arXiv:2004.10568, sec. 3.1, write for weights, with all its terms between elements and between
    pixels, for one tensor at a time.

    The ranges that calibration chose are where the search begins, so any method may come before.
    Sites that read one tensor keep one range in common, those that are off for this target too.

    Cost: per batch one forward pass and `PROJECTIONS` backward passes, which need the memory of a
    training step, and per tensor one fake-quantization and one product for each of `SHARES`: 7 to
    14 forward passes in all on the CPU, for convolutional nets.

    Args:
        model: after `insert` and `calibrate`, in eval mode.
        data: batches of inputs, with or without targets (see `qdq.data`). Several hundred samples:
            from too few the tails are cut that only a rare one has.
        batches: read so many at most; None for all.
        device: where to move the batches; None: where the model is.
        step: step(model, batch) runs the forward of a batch of another form and gives its outputs.
        progress: show a bar on a terminal.

    Returns:
        A row per tensor: the noise is the error of the outputs, were nothing else quantized; the
        signal all outputs.

    Raises:
        StepError: training mode, or no quantizers.
        CalibrationError: an active site has no range, or the outputs hold NaN or infinity.
        InputError: no batch, a batch of another form, or one that the model does not take; or the
            model gives no output that gradients lead back from.
    """
    require_eval(model, "refine_ranges")
    tensors = _tensors(model)
    reading = Reading(data, batches, device, step, progress)
    generator = torch.Generator().manual_seed(0)
    signal = 0.0
    with torch.enable_grad(), _probed(model, {s for t in tensors for s in t.read}) as probes:
        for index, batch in reading.steps("refining"):
            outputs = _outputs(reading.forward(model, index, batch)(), index)
            signal += sum(float(each.detach().double().square().sum()) for each in outputs)
            for last in [False] * (PROJECTIONS - 1) + [True]:
                _project(outputs, tensors, probes, generator, keep_graph=not last)
            probes.clear()
    for tensor in tensors:
        tensor.settle(device_of(model))
    return tuple(t.row(signal * PROJECTIONS) for t in tensors if t.seen)


@dataclass
class _Tensor:
    """One tensor and the sites that quantize it.

    Attributes:
        sites: all of them by name; they shall have one range.
        read: those whose error counts; the others see what these have rounded already, or are off.
        candidates: (amin, amax) to choose from; the first is the range so far.
        noise: (candidates,) sum over samples and projections of (g . e)^2.
        seen: whether the data reached it.
    """

    sites: Mapping[str, TensorQuantizer]
    read: tuple[str, ...]
    candidates: list[tuple[float, float]] = field(init=False)
    noise: Tensor = field(init=False)
    seen: bool = False

    def __post_init__(self) -> None:
        quantizer = self.sites[self.read[0]]
        amin, amax = quantizer.amin, quantizer.amax
        if amin is None or amax is None:
            raise CalibrationError(
                "this quantizer has no range yet",
                at=self.read[0],
                fix="run qdq.calibrate(model, data) first",
            )
        low, high = float(amin), float(amax)
        shares = sorted(SHARES, key=lambda share: share != 1.0)
        self.candidates = [(low * share, high * share) for share in shares]
        self.noise = torch.zeros(len(shares), dtype=torch.float64)

    def add(self, x: Tensor, gradient: Tensor, samples: int) -> None:
        """What each candidate's error on x does to the outputs of `samples` samples.

        Args:
            x: at the site; the first axis goes over samples, or else all of x is of one.
            gradient: of x's shape, of the projected outputs.
            samples: in the batch.
        """
        rows = samples if x.dim() and len(x) == samples else 1
        limits = self.sites[self.read[0]].limits
        x = (x if limits is None else x.clamp(*limits)).float()
        gradient = gradient.float()
        for index, grid in enumerate(self._grids(x.device)):
            moved = (fake_quantize(x, grid) - x).mul_(gradient).reshape(rows, -1).sum(1)
            self.noise[index] += float(moved.double().square().sum())
        self.seen = True

    def _grids(self, device: torch.device) -> Iterator[QParams]:
        quantizer = self.sites[self.read[0]]
        lowest, highest = quantizer.limits or (-inf, inf)
        for ends in self.candidates:
            low, high = torch.tensor(ends, device=device).clamp(lowest, highest)
            yield qparams(low, high, quantizer.spec)

    def settle(self, device: torch.device) -> None:
        """Give every site the best range."""
        amin, amax = self.candidates[int(self.noise.argmin())]
        for quantizer in self.sites.values():
            if self.seen and quantizer.calibrated:
                quantizer.set_range(amin, amax, device=device)

    def row(self, signal: float) -> RepairRow:
        """Noise with the range it had, and with the best one."""
        before, after = (
            decibels(signal, float(each)) for each in (self.noise[0], self.noise.min())
        )
        return RepairRow(self.read[0], "propagation", before, after)


def _tensors(model: nn.Module) -> list[_Tensor]:
    """Every tensor that is quantized now, with its sites; one a site where no forward is known."""
    state = found_insertion(model)
    ops = _ops(state.graph if state else None)
    found: dict[object, dict[str, TensorQuantizer]] = defaultdict(dict)
    for site, quantizer in quantizers(model).items():
        if not quantizer.dynamic:
            found[ops.get(site, site)][site] = quantizer
    tensors = []
    for sites in found.values():
        on = [site for site, quantizer in sites.items() if quantizer.on]
        first = [site for site in on if site.endswith(".output")]
        if on:
            tensors.append(_Tensor(sites, tuple(first[:1] or on)))
    return tensors


def _ops(graph: OpGraph | None) -> dict[str, int]:
    """Site -> number of the tensor it quantizes, for sites that are met once in a forward."""
    found: dict[str, int] = {}
    for op in graph.ops if graph else ():
        if graph and op.inputs and graph.calls[op.name] == 1:
            for index, tensor in enumerate(op.inputs):
                found[f"{op.name}.input_{index}".lstrip(".")] = _source(tensor, graph)
            found[f"{op.name}.input".lstrip(".")] = _source(op.inputs[0], graph)
            found[f"{op.name}.output".lstrip(".")] = _source(region_end(graph, op)[0], graph)
    return found


def _source(tensor: int, graph: OpGraph) -> int:
    """The tensor whose values, in whatever shape, this one holds."""
    while tensor in graph.producer and graph.producer[tensor].kind in _SAME:
        tensor = graph.producer[tensor].inputs[0]
    return tensor


@contextmanager
def _probed(model: nn.Module, sites: set[str]) -> Iterator[Probes]:
    """The model computes in float; the tensors that pass these sites are kept, to ask gradients of.

    Each goes on as a copy: whoever changes it in place, before or behind, leaves what is kept.
    """
    probes: Probes = defaultdict(list)

    def keep(quantizer: nn.Module, args: object, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            probe = x.clone()
            if not probe.requires_grad:
                probe.requires_grad_()
            probes[str(quantizer.site)].append(probe)
            return probe.clone()

    found = quantizers(model)
    hooks = [found[site].register_forward_hook(keep) for site in sites]
    try:
        with observed(model, {}):
            yield probes
    except BaseException:
        callsites.reset()
        raise
    finally:
        for hook in hooks:
            hook.remove()


def _outputs(result: object, index: int) -> list[Tensor]:
    """What of a forward can be projected."""
    outputs = [each for each in tensors_of(result) if each.requires_grad and each.numel()]
    if not outputs:
        raise InputError(
            f"batch {index} gives no output that gradients lead back from",
            fix="let the model, or step=, give its outputs as a tensor, a tuple or a dict, neither "
            "detached nor computed under torch.no_grad()",
        )
    if not all(bool(torch.isfinite(each).all()) for each in outputs):
        raise CalibrationError(
            f"batch {index} makes NaN or infinity in the outputs",
            fix="the float model is broken on this batch: look at how it is made",
        )
    return outputs


def _project(
    outputs: list[Tensor],
    tensors: list[_Tensor],
    probes: Probes,
    generator: torch.Generator,
    *,
    keep_graph: bool,
) -> None:
    """One random direction per sample, pulled back to every tensor and held against its errors."""
    read = [(t, [probes[site] for site in t.read]) for t in tensors]
    flat = [probe for _, of_sites in read for calls in of_sites for probe in calls]
    directions = [torch.randn(each.shape, generator=generator).to(each) for each in outputs]
    pulled = torch.autograd.grad(
        outputs,
        flat,
        directions,
        retain_graph=keep_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    gradient_of = {id(probe): gradient for probe, gradient in zip(flat, pulled, strict=True)}
    samples = len(outputs[0]) if outputs[0].dim() else 1
    with torch.no_grad():
        for tensor, of_sites in read:
            for readers in zip(*of_sites, strict=False):
                gradient = torch.stack([gradient_of[id(each)] for each in readers]).sum(0)
                tensor.add(readers[0].detach(), gradient, samples)
