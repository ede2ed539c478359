"""Site names and the one matcher of patterns."""

from typing import Any

import pytest
from torch import nn

from qdq.errors import PolicyError
from qdq.sites import Matcher, is_weight, owner, site_name


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.fc = nn.Linear(1, 1)


MODEL = nn.Sequential()
MODEL.add_module("layer1", Block())
MODEL.add_module("layer10", Block())
MODEL.add_module("head", nn.Linear(1, 1))
MODULES: dict[str, object] = dict(MODEL.named_modules())


def fits(pattern: Any, name: str) -> bool:
    return Matcher(pattern, what="ignore").find(name, MODULES) is not None


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("conv1._input_quantizer", "conv1.input"),
        ("layer1.0.conv1._weight_quantizer", "layer1.0.conv1.weight"),
        ("layer1.0.conv1._output_quantizer", "layer1.0.conv1.output"),
        ("head.add._input_quantizers.1", "head.add.input_1"),
        ("add._input_quantizers.12", "add.input_12"),
        ("_input_quantizer", "input"),
        ("_input_quantizers.0", "input_0"),
        ("mine.observer", "mine.observer"),
        ("_input_quantizers", "_input_quantizers"),
        ("conv._input_quantizer.1", "conv._input_quantizer.1"),
        ("conv.my_input_quantizer", "conv.my_input_quantizer"),
        ("", ""),
    ],
)
def test_a_site_is_the_module_and_the_role_there(path: str, site: str) -> None:
    assert site_name(path) == site


@pytest.mark.parametrize(
    ("site", "module"),
    [("layer1.0.conv1.weight", "layer1.0.conv1"), ("add.input_1", "add"), ("input", "")],
)
def test_the_owner_is_the_module_of_the_site(site: str, module: str) -> None:
    assert owner(site) == module


def test_a_site_of_a_weight_is_told_by_its_role() -> None:
    weights = [site_name(f"{path}_weight_quantizer") for path in ("", "conv.", "weight.")]
    weights.append(site_name("lstm._weight_quantizers.2"))
    assert weights == ["weight", "conv.weight", "weight.weight", "lstm.weight_2"]
    assert all(map(is_weight, weights))
    assert not any(map(is_weight, ["weight.input", "add.input_0", "a.output", "a.weights", "a.b"]))


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("layer1", "layer1", True),
        ("layer1", "layer1.conv.weight", True),
        ("layer1", "layer10.conv", False),
        ("layer1*", "layer10.conv", True),
        ("*.weight", "layer1.conv.weight", True),
        ("*.weight", "layer1.conv.input", False),
        ("layer?", "layer1.fc", True),
        ("layer?", "layer10.fc", False),
        ("Layer1", "layer1", False),
        ("layer1", "Layer1", False),
        ("conv", "layer1.conv", False),
        ("*", "head", True),
    ],
)
def test_a_glob_fits_the_whole_name_or_what_it_lies_in(
    pattern: str, name: str, expected: bool
) -> None:
    assert fits(pattern, name) == expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("re:conv", "layer1.conv.weight", True),
        (r"re:^layer\d$", "layer1.fc", True),
        (r"re:^layer\d$", "layer10.fc", False),
        ("re:CONV", "layer1.conv", False),
        ("re:(conv|fc)$", "layer10.fc.weight", True),
        ("re:", "head", True),
    ],
)
def test_a_regular_expression_is_searched_in_the_name(
    pattern: str, name: str, expected: bool
) -> None:
    assert fits(pattern, name) == expected


def test_a_class_fits_its_modules_and_all_inside_them() -> None:
    assert fits(nn.Linear, "head")
    assert fits(nn.Linear, "head.weight")
    assert fits(Block, "layer1.conv.weight")
    assert not fits(nn.Linear, "layer1.conv")
    assert not fits(nn.Linear, "nowhere")


def test_a_callable_gets_the_name_and_the_module_of_everything_it_lies_in() -> None:
    seen = []

    def pattern(name: str, module: object) -> bool:
        seen.append((name, module))
        return False

    assert not fits(pattern, "layer1.conv.weight")
    assert seen == [("layer1", MODULES["layer1"]), ("layer1.conv", MODULES["layer1.conv"])]
    assert fits(lambda name, _: name == "layer1", "layer1.fc")


def test_what_a_callable_gives_is_taken_as_a_truth_value() -> None:
    assert fits(lambda name, _: name, "head")
    assert not fits(lambda *_: 0, "head")


def test_the_first_fitting_pattern_is_named() -> None:
    matcher = Matcher(["fc", "layer1", nn.Linear, "re:fc"], what="ignore")
    assert matcher.find("layer1.fc", MODULES) == "'layer1'"
    assert matcher.find("layer10.fc", MODULES) == "Linear"
    assert matcher.find("layer10.conv", MODULES) is None


def test_one_pattern_and_a_list_of_it_are_the_same() -> None:
    for pattern in ("head", nn.Linear, lambda name, _: name == "head"):
        assert fits(pattern, "head")
        assert fits([pattern], "head")
        assert fits((each for each in [pattern]), "head")


def test_a_matcher_without_patterns_is_false_fits_nothing_and_refuses_nothing() -> None:
    matcher = Matcher((), what="ignore")
    assert not matcher
    assert matcher.find("head", MODULES) is None
    matcher.refuse_idle(["head"])
    assert Matcher("head", what="ignore")


def test_a_pattern_that_fitted_nothing_is_refused_with_what_there_is() -> None:
    matcher = Matcher(["head", "layre1"], what="ignore")
    for name in ("head", "layer1"):
        matcher.find(name, MODULES)
    with pytest.raises(PolicyError) as caught:
        matcher.refuse_idle(["layer1", "head"])
    assert str(caught.value) == (
        "ignore pattern 'layre1' fits nothing\n  fix: mend or remove it; there is: head, layer1"
    )


def test_a_pattern_behind_another_that_fits_the_same_is_not_idle() -> None:
    matcher = Matcher(["*", "head", nn.Linear], what="only")
    matcher.find("head", MODULES)
    matcher.refuse_idle(["head"])


def test_a_refusal_shows_eight_names_and_says_that_there_are_more() -> None:
    with pytest.raises(PolicyError) as caught:
        Matcher("x", what="match").refuse_idle([f"n{index}" for index in range(9)])
    assert str(caught.value).endswith("there is: n0, n1, n2, n3, n4, n5, n6, n7, ...")
    with pytest.raises(PolicyError) as caught:
        Matcher("x", what="match").refuse_idle([f"n{index}" for index in range(8)])
    assert str(caught.value).endswith("n6, n7")


def test_a_refusal_where_nothing_exists_says_so() -> None:
    with pytest.raises(PolicyError, match=r"pattern Linear fits nothing\n.*nothing to choose from"):
        Matcher(nn.Linear, what="match").refuse_idle([])


def test_a_bad_regular_expression_is_refused_with_what_is_wrong_in_it() -> None:
    with pytest.raises(PolicyError) as caught:
        Matcher("re:conv(", what="ignore")
    text = str(caught.value)
    assert text.startswith("ignore pattern 're:conv(' is no regular expression: missing ), unter")
    assert text.endswith("\n  fix: write it as Python's re does, or as a glob without 're:'")


def ways(first: str, last: str) -> set[str]:
    return {first, last, "layer1.conv", "head.add_0"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("layer1.conv", True),
        ("layer1.conv.weight", True),
        ("head.add_0.input_1", True),
        ("stem.anything", True),
        ("layer10.fc", True),
        ("layer1.fc", False),
        ("layer1", False),
        ("head", False),
        ("layer10", False),
    ],
)
@pytest.mark.parametrize("pattern", ["stem->layer10.fc", "  stem -> layer10.fc "])
def test_a_from_to_fits_what_the_forward_says_lies_between(
    pattern: str, name: str, expected: bool
) -> None:
    matcher = Matcher(["nothing", pattern], what="ignore", between=ways)
    assert matcher.find(name, MODULES) == (repr(pattern) if expected else None)


def test_an_arrow_in_a_regular_expression_is_one_of_its_letters() -> None:
    assert fits("re:a->b", "xa->by")
    assert not fits("re:a->b", "a")


@pytest.mark.parametrize("pattern", ["->", "layer1->", "->head", "layer1->head->fc", " -> head"])
def test_a_from_to_has_two_ends(pattern: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Matcher(pattern, what="only", between=ways)
    assert str(caught.value) == (
        f"only pattern {pattern!r} has an arrow and not two ends\n"
        "  fix: write 'layer1->layer3', with the names of two modules or call sites"
    )


def test_a_from_to_is_refused_where_no_forward_is_known() -> None:
    with pytest.raises(PolicyError) as caught:
        Matcher("layer1->head", what="match")
    assert str(caught.value) == (
        "match pattern 'layer1->head' asks for the way between two modules, and no forward is "
        "known here\n  fix: use a glob, 're:...', a class, or a callable(name, module) -> bool"
    )


def test_a_pattern_is_known_by_its_place_too() -> None:
    first, second = (lambda name, _: name == "head"), (lambda name, _: name == "layer1")
    matcher = Matcher([first, second, "re:1"], what="spec")
    assert [matcher.index(name, MODULES) for name in ("head", "layer1", "layer10", "x")] == [
        0,
        1,
        2,
        None,
    ]
    assert matcher.labels[2] == "'re:1'"


@pytest.mark.parametrize("pattern", [[5], 5, None, ["head", None], [["head"]]])
def test_anything_else_is_refused_as_no_pattern(pattern: Any) -> None:
    with pytest.raises(PolicyError) as caught:
        Matcher(pattern, what="only")
    assert ", which is no pattern\n" in str(caught.value)
    assert str(caught.value).startswith("only holds ")
    assert str(caught.value).endswith(
        "  fix: use a glob, 're:...', a class, or a callable(name, module) -> bool"
    )
