from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from qdq.calibration.choosing import calibrate
from qdq.errors import InputError, StepError
from qdq.insertion.checkpoints import load, save, save_ranges
from qdq.insertion.replacing import insert
from qdq.insertion.switches import disable_quantization, quantizers
from qdq.targets import get


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.tail = nn.Conv2d(width, width, 3)
        self.head = nn.Linear(width * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.tail(torch.relu(self.norm(self.conv(x))))).flatten(1))


X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def float_net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    net = Net().eval()
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.5, 2)
    return net


def quantized(target: str = "onnxruntime") -> Net:
    net = float_net()
    insert(net, X, target=target, ignore="tail")
    calibrate(net, [X], method="max", progress=False)
    return net


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_fresh_float_model_becomes_the_saved_one(tmp_path: Path, target: str) -> None:
    saved = quantized(target)
    save(saved, tmp_path / "m.safetensors")
    fresh = float_net(seed=9)
    load(fresh, tmp_path / "m.safetensors")
    with torch.no_grad():
        assert torch.equal(fresh(X), saved(X))
    assert type(fresh.tail) is nn.Conv2d
    assert fresh.state_dict().keys() == saved.state_dict().keys()
    for (site, ours), theirs in zip(
        quantizers(saved).items(), quantizers(fresh).values(), strict=True
    ):
        assert (ours.spec, ours.on, ours.limits) == (theirs.spec, theirs.on, theirs.limits), site


def test_switches_and_options_of_the_target_come_back(tmp_path: Path) -> None:
    from qdq.insertion.placing import insertion_of
    from qdq.spec import QuantSpec

    net = float_net()
    target = get("tensorrt", activation=QuantSpec(bits=5))
    insert(net, X, target=target)
    calibrate(net, [X], method="max", progress=False)
    disable_quantization(net, "head")
    save(net, tmp_path / "m.safetensors")
    fresh = float_net(seed=9)
    load(fresh, tmp_path / "m.safetensors")
    assert insertion_of(fresh) == insertion_of(net)
    assert not quantizers(fresh)["head.weight"].enabled
    with torch.no_grad():
        assert torch.equal(fresh(X), net(X))


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(quantized(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_ranges_are_kept_by_site(tmp_path: Path) -> None:
    net = quantized()
    save_ranges(net, tmp_path / "r.safetensors")
    kept = load_file(tmp_path / "r.safetensors")
    assert kept["conv.input.amin"] == X.min()
    assert kept["conv.input.amax"] == X.max()
    assert {name.rpartition(".")[0] for name in kept} == {
        "conv.input",
        "conv.output",
        "head.input",
        "head.output",
    }


def test_saving_a_float_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="nothing was inserted into this model"):
        save(float_net(), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_a_text_and_float_weights_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load(float_net(), tmp_path / "none")
    (tmp_path / "text").write_text("hello", encoding="utf-8")
    with pytest.raises(InputError, match="this is no safetensors file"):
        load(float_net(), tmp_path / "text")
    save_file(float_net().state_dict(), tmp_path / "float")
    with pytest.raises(InputError, match=r"this file was not written by qdq\.save"):
        load(float_net(), tmp_path / "float")


@pytest.mark.parametrize(
    ("text", "kept"),
    [("{", False), ("[]", False), ('{"format": 1}', False), ('{"format": "x" * 9}', False)],
)
def test_a_hostile_description_is_refused(tmp_path: Path, text: str, kept: bool) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m", metadata={"qdq": text})
    net = float_net()
    with pytest.raises(InputError, match=r"was not written by qdq\.save"):
        load(net, tmp_path / "m")
    assert any(hasattr(module, "_input_quantizer") for module in net.modules()) is kept


def test_another_architecture_is_refused_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    save(quantized(), tmp_path / "m.safetensors")
    wide = Net(width=6).eval()
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    kinds = [type(module) for module in wide.modules()]
    with pytest.raises(InputError) as caught:
        load(wide, tmp_path / "m.safetensors")
    assert "do not fit this Net" in caught.value.what
    assert "(4, 1, 3, 3) in the file and (6, 1, 3, 3) in the model" in caught.value.what
    assert caught.value.at == str(tmp_path / "m.safetensors")
    assert [type(module) for module in wide.modules()] == kinds
    assert wide.state_dict().keys() == before.keys()
    assert all(torch.equal(value, wide.state_dict()[name]) for name, value in before.items())


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    save(quantized(), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="the file holds a layer 'conv' that this Linear has not"):
        load(nn.Linear(2, 2), tmp_path / "m.safetensors")
