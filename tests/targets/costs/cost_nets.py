"""Op graphs with shapes, written by hand like a forward."""

from math import prod

from qdq.targets.opgraph import Op, OpGraph


class Sized:
    """Tensors are numbers, 1 the model's input; each op says what it makes of what."""

    def __init__(self, *shape: int) -> None:
        self.shapes: dict[int, tuple[int, ...]] = {1: shape}
        self.ops: list[Op] = []

    def op(
        self, name: str, kind: str, *inputs: int, shape: tuple[int, ...] = (), **more: int
    ) -> int:
        """An op that keeps the shape of what it reads first, unless another is given."""
        made = len(self.shapes) + 1
        self.shapes[made] = shape or self.shapes[inputs[0]]
        self.ops.append(Op(name, kind, inputs, (made,), **more))
        return made

    def conv(self, name: str, x: int, outputs: int, side: int = 3, *, groups: int = 1) -> int:
        """A padded convolution."""
        rows, inputs, *pixels = self.shapes[x]
        made = len(self.shapes) + 1
        self.shapes[made] = (rows, outputs, *pixels)
        weight = (outputs, inputs // groups, side, side)
        self.ops.append(Op(name, "conv", (x,), (made,), 4, weight, groups))
        return made

    def linear(self, name: str, x: int, outputs: int) -> int:
        """A matrix product."""
        *rows, inputs = self.shapes[x]
        made = len(self.shapes) + 1
        self.shapes[made] = (*rows, outputs)
        self.ops.append(Op(name, "linear", (x,), (made,), len(rows) + 1, (outputs, inputs)))
        return made

    def flat(self, name: str, x: int) -> int:
        """All but the rows in one axis."""
        return self.op(name, "reshape", x, shape=(self.shapes[x][0], prod(self.shapes[x][1:])))

    def done(self, *outputs: int) -> OpGraph:
        """The graph."""
        return OpGraph(tuple(self.ops), outputs, (1,), self.shapes)


def image_net(pixels: int = 16, channels: int = 32) -> OpGraph:
    """stem -> relu -> body -> relu -> mean -> flat -> head."""
    net = Sized(1, 3, pixels, pixels)
    x = net.op("r1", "relu", net.conv("stem", 1, channels))
    x = net.op("r2", "relu", net.conv("body", x, channels))
    x = net.op("mean", "avg_pool", x, shape=(1, channels, 1, 1))
    return net.done(net.linear("head", net.flat("flat", x), 10))


def matrix_net(*widths: int) -> OpGraph:
    """Linear layers with a ReLU between them: fc0, fc1, ..."""
    net = Sized(1, widths[0])
    x = 1
    for index, width in enumerate(widths[1:]):
        x = net.op(f"r{index}", "relu", x) if index else x
        x = net.linear(f"fc{index}", x, width)
    return net.done(x)
