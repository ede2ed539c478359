"""Where batches come from: registered sources, the digits, and functions of the user's."""

import sys
from pathlib import Path

import pytest
import torch

from qdq.data.opening import open_source
from qdq.data.sources import Request, TensorBatches, call_named, digits, import_attribute
from qdq.errors import InputError, RegistryError, SpecError

REQUEST = Request(split="test", batch_size=100)


def test_tensors_come_in_order_and_as_often_as_one_likes() -> None:
    data = TensorBatches(torch.arange(7), torch.arange(7) * 10, 3)
    for _ in range(2):
        assert [x.tolist() for x, _ in data] == [[0, 1, 2], [3, 4, 5], [6]]
        assert [y.tolist() for _, y in data] == [[0, 10, 20], [30, 40, 50], [60]]
    assert len(data) == 3


def test_the_digits_are_the_blocks_of_scikit_learn_and_never_overlap() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    raw = datasets.load_digits()
    test, train = digits("test", 100), digits("train", 100)
    assert (len(test.inputs), len(train.inputs)) == (599, 1198)
    assert train.inputs.dtype == torch.float32
    assert train.inputs.shape[1:] == (1, 32, 32)
    assert (float(train.inputs.min()), float(train.inputs.max())) == (0.0, 1.0)
    assert torch.equal(test.targets, torch.from_numpy(raw.target[::3]).long())
    blocks = test.inputs[5, 0].reshape(8, 4, 8, 4)
    expected = torch.from_numpy(raw.images[15] / 16).float()
    assert torch.equal(blocks, expected[:, None, :, None].expand(8, 4, 8, 4))
    assert torch.equal(train.targets[:2], torch.from_numpy(raw.target[1:3]).long())


def test_without_scikit_learn_the_digits_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError) as caught:
        digits("test", 1)
    assert str(caught.value) == (
        "the digits come with scikit-learn, which is not installed\n  fix: pip install 'qdq[demo]'"
    )


@pytest.fixture
def my_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's: `make` gives batches, `broken` and `ours` raise."""
    (tmp_path / "my_batches.py").write_text(
        "from qdq.errors import SpecError\n"
        "def make(split, size):\n    return [split] * size\n"
        "def broken(split, size):\n    raise ValueError('first line\\nsecond')\n"
        "def ours(split, size):\n    raise SpecError('mine')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_batches", raising=False)
    return "my_batches"


def test_a_source_is_a_registered_name_or_a_function_of_the_users(my_batches: str) -> None:
    assert len(open_source("digits", REQUEST)) == 6  # type: ignore[arg-type]
    request = Request(split="train", batch_size=2)
    assert open_source(f"{my_batches}:make", request) == ["train", "train"]


def test_an_unknown_source_names_the_known() -> None:
    with pytest.raises(
        RegistryError, match=r"no data source 'digit'\n  fix: did you mean 'digits'"
    ):
        open_source("digit", REQUEST)


def test_what_a_named_function_raises_is_passed_on_with_the_call_that_failed(
    my_batches: str,
) -> None:
    with pytest.raises(InputError) as caught:
        open_source(f"{my_batches}:broken", REQUEST)
    assert str(caught.value) == (
        "data 'my_batches:broken' failed: ValueError: first line\n"
        "  fix: call it by itself, broken('test', 100), to see where"
    )
    assert isinstance(caught.value.__cause__, ValueError)


def test_our_own_errors_pass_through_a_named_function_unchanged(my_batches: str) -> None:
    with pytest.raises(SpecError, match=r"^mine$"):
        call_named(f"{my_batches}:ours", "test", 1, what="data")


@pytest.mark.parametrize("path", ["json", "json:", ":loads", ""])
def test_a_path_that_names_no_function_is_refused_with_the_form(path: str) -> None:
    with pytest.raises(InputError) as caught:
        import_attribute(path, what="model factory")
    assert str(caught.value) == (
        f"model factory {path!r} does not name a function\n"
        "  fix: write package.module:function, as in models.lenet:lenet_digits"
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:nothing", "AttributeError: module 'json' has no attribute 'nothing'"),
    ],
)
def test_a_path_that_does_not_import_says_why(path: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        import_attribute(path, what="data")
    assert str(caught.value) == (
        f"data {path!r} does not import: {said}\n"
        "  fix: run from the folder that holds the module, and check the spelling"
    )


def test_a_path_that_names_no_callable_is_refused_by_its_type() -> None:
    with pytest.raises(InputError) as caught:
        import_attribute("json:__name__", what="data")
    assert str(caught.value) == (
        "data 'json:__name__' is a str, which cannot be called\n  fix: name a function or a class"
    )
