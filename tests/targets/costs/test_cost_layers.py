"""What of a layer takes time: which kernel it falls to, and how much of each term it has."""

import pytest

from qdq.targets.costs.layers import Layer, float_terms, integer_terms, rewritten_stem

CONV = Layer(outputs=32, inputs=16, kernel=9, groups=1, places=49, read=16 * 49)


def stem(inputs: int, outputs: int, side: int, pixels: int, stride: int) -> Layer:
    places = (pixels // stride) ** 2
    return Layer(outputs, inputs, side**2, 1, places, inputs * pixels**2)


@pytest.mark.parametrize(
    ("layer", "in_float", "in_integers"),
    [
        (CONV, "conv.float", "conv.int8"),
        (Layer(12, 16, 9, 1, 49, 784), "conv.float", "conv.ragged"),  # too few out
        (Layer(18, 16, 9, 1, 49, 784), "conv.float", "conv.ragged"),  # no block of 4 out
        (Layer(32, 18, 9, 1, 49, 882), "conv.float", "conv.ragged"),  # nor in
        (Layer(32, 8, 9, 2, 49, 784), "grouped.float", "grouped.int8"),
        (Layer(32, 1, 9, 32, 49, 1568), "depthwise.float", "depthwise.int8"),
        (Layer(24, 1, 9, 24, 49, 1176), "depthwise.float", "depthwise.ragged"),
        (Layer(32, 3, 9, 1, 49, 147), "stem.float", "stem.ragged"),
        (Layer(32, 4, 9, 1, 49, 196), "stem.float", "conv.int8"),
        (Layer(10, 64, 1, 1, 1, 64, matrix=True), "vector.float", "vector.int8"),
        (Layer(10, 64, 1, 1, 16, 1024, matrix=True), "matrix.float", "matrix.int8"),
    ],
)
def test_a_layer_falls_to_the_kernel_that_takes_its_channels(
    layer: Layer, in_float: str, in_integers: str
) -> None:
    assert (float_terms(layer)[0], integer_terms(layer)[0]) == (in_float, in_integers)


def test_float_convolutions_compute_on_whole_blocks_of_16_channels() -> None:
    ragged = Layer(outputs=18, inputs=17, kernel=9, groups=1, places=49, read=17 * 49)
    assert float_terms(ragged)[1]["mac"] == 49 * 9 * 32 * 32
    assert integer_terms(CONV)[1]["mac"] == 49 * 9 * 32 * 16


def test_of_a_first_layer_only_the_channels_out_come_in_whole_blocks() -> None:
    eight, sixteen = (float_terms(stem(3, outputs, 3, 96, 2))[1] for outputs in (8, 16))
    assert eight == sixteen
    assert sixteen["mac"] == 48 * 48 * 27 * 16


def test_only_weights_that_no_cache_holds_are_far() -> None:
    assert float_terms(CONV)[1]["far_weight"] == 0
    large = Layer(1024, 1024, 1, 1, 1, 1024, matrix=True)
    assert float_terms(large)[1]["far_weight"] == 1024 * 1024 - 250_000


def test_three_channels_get_a_fourth_and_pay_for_the_copy() -> None:
    rewritten = rewritten_stem(stem(3, 32, 3, 96, 2))
    assert rewritten is not None
    layer, copied = rewritten
    assert (layer.inputs, layer.kernel, copied) == (4, 9, 4 * 96 * 96)
    assert integer_terms(layer)[0] == "conv.int8"


def test_a_large_strided_kernel_works_on_blocks_of_pixels() -> None:
    rewritten = rewritten_stem(stem(3, 64, 7, 224, 2))
    assert rewritten is not None
    layer, copied = rewritten
    assert (layer.inputs, layer.kernel, copied) == (12, 16, 3 * 224 * 224)


@pytest.mark.parametrize(
    "layer",
    [stem(1, 32, 3, 28, 1), stem(3, 8, 3, 32, 1), stem(3, 18, 3, 32, 1), CONV],
    ids=["one channel", "too few out", "no block out", "no stem"],
)
def test_other_first_layers_are_left_alone(layer: Layer) -> None:
    assert rewritten_stem(layer) is None
