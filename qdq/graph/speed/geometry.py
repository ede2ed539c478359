"""Where a convolution looks: its kernel, strides, pads."""

from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Geometry:
    """Attributes of a Conv with their defaults filled in, one entry per spatial axis.

    Attributes:
        kernel: its sides.
        strides: steps.
        begin: zeros before.
        end: zeros behind.
        dilations: steps within the kernel.
        groups: of channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int


def geometry(conv: gs.Node, weight_shape: tuple[int, ...]) -> Geometry | None:
    """What a Conv's attributes say; None where its pads depend on the size of the input.

    Args:
        conv: a Conv.
        weight_shape: (out, in / groups, kernel...).
    """
    kernel = tuple(weight_shape[2:])
    axes = len(kernel)
    auto = conv.attrs.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        return None
    pads = [0] * 2 * axes if auto == "VALID" else list(conv.attrs.get("pads", [0] * 2 * axes))
    return Geometry(
        kernel,
        tuple(conv.attrs.get("strides", [1] * axes)),
        tuple(pads[:axes]),
        tuple(pads[axes:]),
        tuple(conv.attrs.get("dilations", [1] * axes)),
        int(conv.attrs.get("group", 1)),
    )
