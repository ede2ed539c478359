"""The nets that a machine is measured with: one kind of op each, in float and in integers.

Chains are short or long, so that what every run has in common and what each op adds can be told
apart. Shapes are those of small and of usual nets.
"""

from collections.abc import Iterator

from qdq.graph.benching.chains import Chain, Sample
from qdq.targets.costs.layers import CACHED

_LENGTHS = (1, 6)
_SHORTER = (1, 2)  # where six layers would not stay in a cache, though each would
# Channels and side of a map; the last two have widths that integer kernels do not like.
_ONE_BY_ONE = ((16, 14), (32, 14), (32, 28), (64, 7), (64, 14), (128, 14), (256, 7), (512, 7))
_THREE_BY_THREE = ((16, 14), (16, 28), (32, 14), (64, 7), (64, 28), (128, 7), (256, 4))
_DEPTHWISE = ((16, 28), (32, 14), (64, 14), (128, 14), (256, 7), (512, 7))
_GROUPED = ((64, 14, 4), (64, 28, 16), (128, 7, 8), (256, 14, 32))  # and groups
_RAGGED = ((8, 28), (18, 14), (30, 14))
_RAGGED_DEPTHWISE = ((8, 28), (24, 14), (72, 14), (120, 7))
# Channels in and out, sides of the kernel and of the map, stride.
_STEMS = (
    (1, 16, 3, 28, 1),
    (1, 64, 5, 48, 2),
    (3, 8, 3, 96, 2),
    (3, 16, 3, 32, 1),
    (3, 32, 3, 96, 2),
)
_PADDED_STEMS = ((3, 16, 3, 32, 1), (3, 32, 3, 96, 2), (3, 32, 3, 160, 2))
_VECTORS = ((16, 16), (64, 64), (128, 128), (256, 256), (128, 640), (512, 512), (1024, 1024))
_MATRICES = ((16, 32), (16, 128), (16, 384), (128, 64), (128, 256))
_MAPS = ((16, 14), (32, 28), (64, 28))
_TENSORS = ((1, 64), (1, 4096), (16, 4096))


def samples() -> Iterator[Sample]:
    """All of them, in an order in which like is not next to like for long."""
    for integer in (False, True):
        yield from _chains(integer)
        yield from _first_layers(integer)
        yield from _products(integer)
        yield from _tensors(integer)
    yield from _edges()


def _chains(integer: bool) -> Iterator[Sample]:
    """Equal convolutions on a map of one size."""
    shapes = [("1x1", 1, *each, 1) for each in (*_ONE_BY_ONE, *_RAGGED)]
    shapes += [("3x3", 3, *each, 1) for each in _THREE_BY_THREE]
    shapes += [("depthwise", 3, *each, each[0]) for each in (*_DEPTHWISE, *_RAGGED_DEPTHWISE)]
    shapes += [(f"{each[2]} groups", 3, *each) for each in _GROUPED]
    for kind, side, channels, pixels, groups in shapes:
        for length in _lengths(channels * side**2 * channels // groups):
            net = _on_map(Chain(1, channels, pixels, pixels), integer)
            for _ in range(length):
                net.conv(channels, side, groups=groups)
            yield _off_map(net, integer).sample(_name(kind, channels, pixels, length, integer))


def _first_layers(integer: bool) -> Iterator[Sample]:
    """Of few channels; in integers also with a fourth one, as the speed passes give them."""
    shapes = [(*each, 0) for each in _STEMS]
    shapes += [(*each, 1) for each in _PADDED_STEMS] if integer else []
    for inputs, outputs, side, pixels, stride, more in shapes:
        net = Chain(1, inputs, pixels, pixels)
        net = net.enter("image", more=more) if integer else net
        net.conv(outputs, side, stride=stride)
        kind = f"stem {inputs + more}"
        yield _off_map(net, integer).sample(_name(kind, outputs, pixels, 1, integer))


def _products(integer: bool) -> Iterator[Sample]:
    """Matrix products there and back: K x N and N x K in turn."""
    shapes = [(1, *each) for each in _VECTORS] + [(rows, side, side) for rows, side in _MATRICES]
    for rows, inputs, outputs in shapes:
        for length in _lengths(inputs * outputs):
            net = Chain(rows, inputs)
            net = net.enter("vector") if integer else net
            for index in range(length):
                net.gemm(inputs if index % 2 else outputs)
            net = net.leave("vector") if integer else net
            yield net.sample(_name(f"{rows} rows", inputs, outputs, length, integer))


def _tensors(integer: bool) -> Iterator[Sample]:
    """Ops without weights."""
    for shape in _TENSORS:
        for op in ("Add", "Mul"):
            for length in _LENGTHS:
                net = Chain(*shape)
                net = net.enter("vector") if integer else net
                for _ in range(length):
                    net.combine(op)
                net = net.leave("vector") if integer else net
                yield net.sample(_name(op, *shape, length, integer))
        if not integer:
            yield Chain(*shape).sigmoid().sigmoid().sample(_name("Sigmoid", *shape, 2, integer))
    for channels, pixels in _MAPS:
        for kind in ("pool", "mean"):
            net = _on_map(Chain(1, channels, pixels, pixels), integer).conv(channels, 1)
            net = net.pool().pool() if kind == "pool" else net.mean()
            yield _off_map(net, integer).sample(_name(kind, channels, pixels, 1, integer))


def _edges() -> Iterator[Sample]:
    """An integer convolution between float ones, that makes a map smaller or gives it channels."""
    for channels, pixels in _MAPS:
        for more, stride in ((1, 1), (4, 1), (1, 2)):
            net = Chain(1, channels, pixels, pixels).reorder().conv(channels, 1)
            net.enter("map").conv(channels * more, 1, stride=stride)
            net.leave("map").conv(channels, 1)
            name = _name(f"between /{stride}", channels, channels * more, 1, True)
            yield net.reorder().sample(name)


def _lengths(weights: int) -> tuple[int, ...]:
    """Of chains of layers with so many weights."""
    return _LENGTHS if not CACHED / max(_LENGTHS) < weights <= CACHED else _SHORTER


def _on_map(net: Chain, integer: bool) -> Chain:
    return net.enter("image") if integer else net.reorder()


def _off_map(net: Chain, integer: bool) -> Chain:
    return net.leave("map") if integer else net.reorder()


def _name(kind: str, first: int, second: int, length: int, integer: bool) -> str:
    return f"{length} x {kind} {first}, {second} {'int8' if integer else 'float'}"
