"""Grids of the user's own and from-to patterns, through everything that places again."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qdq
from qdq.errors import ExportError, PolicyError
from qdq.spec import QuantSpec

FOUR, SIXTEEN = QuantSpec(bits=4), QuantSpec(bits=16, signed=False, symmetric=False)
X = torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)
TARGETS = ("tensorrt", "onnxruntime")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head((self.body(x) + x).mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def inserted(target: str, spec: Any, **options: Any) -> nn.Module:
    model = net()
    qdq.insert(model, X, target=target, spec=spec, **options)
    qdq.calibrate(model, [X], method="max", progress=False)
    return model


def specs(model: nn.Module) -> dict[str, QuantSpec]:
    return {site: quantizer.spec for site, quantizer in qdq.quantizers(model).items()}


@pytest.mark.parametrize("target", TARGETS)
def test_a_grid_of_the_users_own_stands_where_the_targets_stood_and_nowhere_else(
    target: str,
) -> None:
    own, plain = (specs(inserted(target, spec)) for spec in ({"head": SIXTEEN}, None))
    changed = {site for site in own if own[site] != plain[site]}
    assert changed == {"head.input", "head.weight", "head.output"}
    assert own["head.input"] == own["head.output"] == SIXTEEN


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_a_weight_has_as_many_codes_as_its_bits_say_and_keeps_a_scale_per_channel(
    target: str, bits: int
) -> None:
    model = inserted(target, {"body.weight": QuantSpec(bits=bits)})
    layer = model.get_submodule("body")
    weight = layer.weight.detach()
    found = layer._weight_quantizer(weight).detach().numpy()
    most = 2 ** (bits - 1) - 1
    scale = np.abs(weight.numpy()).max((1, 2, 3), keepdims=True).astype(np.float32) / most
    np.testing.assert_allclose(found, np.rint(weight.numpy() / scale) * scale, rtol=1e-6)


def test_an_explicit_axis_of_a_weight_is_taken() -> None:
    model = inserted("tensorrt", {"head.weight": QuantSpec(bits=4, keep_axis=1)})
    assert specs(model)["head.weight"].keep_axis == 1
    assert torch.isfinite(model(X)).all()


def test_a_users_grid_outlives_another_target_a_switch_a_copy_and_a_file(tmp_path: Path) -> None:
    wish = {"head.input": SIXTEEN, "*.weight": FOUR}
    model = inserted("tensorrt", wish)
    before = specs(model)
    with qdq.disable_quantization(model, "stem"):
        pass
    assert specs(model) == before
    copied = copy.deepcopy(model)
    qdq.save(copied, tmp_path / "m.safetensors")
    loaded = net()
    qdq.load(loaded, tmp_path / "m.safetensors")
    for each in (model, copied, loaded):
        assert specs(each) == before
        qdq.retarget(each, "onnxruntime")
        assert specs(each)["head.input"] == SIXTEEN
        assert specs(each)["body.weight"] == QuantSpec(bits=4, keep_axis=0)
        assert not specs(each)["stem.input"].signed
    with torch.no_grad():
        assert torch.equal(loaded(X), model(X))


def test_the_report_says_whose_grid_it_is() -> None:
    model = net()
    report = qdq.insert(model, X, spec={"head": SIXTEEN})
    why = {row.name: row.why for row in report.rows}
    assert why["head.input"] == (
        "input of an integer op (T08, O01); uint16 affine per-tensor by spec="
    )
    assert why["head.weight"].endswith("; uint16 affine per-channel(0) by spec=")
    assert not any("by spec=" in text for name, text in why.items() if "head" not in name)
    assert "by spec=" not in why["head.output"]  # it is off


def test_sixteen_bits_cannot_be_exported_and_the_site_is_named(tmp_path: Path) -> None:
    model = inserted("tensorrt", {"head.input": SIXTEEN})
    with pytest.raises(ExportError, match=r"head\.input") as caught:
        qdq.export_onnx(model, X, tmp_path / "m.onnx")
    assert "uint16 affine per-tensor has no QuantizeLinear" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_of_another_form_can_be_exported_and_run(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = inserted("tensorrt", {"body.input": QuantSpec(signed=False, symmetric=False)})
    qdq.export_onnx(model, X, tmp_path / "m.onnx")
    session = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        want = model(X).numpy()
    np.testing.assert_allclose(session.run(None, {"input": X.numpy()})[0], want, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_from_to_leaves_a_stretch_float_call_sites_included(target: str) -> None:
    model = net()
    report = qdq.insert(model, X, target=target, ignore="add_0->head")
    skipped = {row.name: row.why for row in report.select("skip")}
    assert skipped == dict.fromkeys(("add_0", "mean_0", "head"), "ignored by 'add_0->head'")
    assert {site.partition(".")[0] for site in qdq.quantizers(model)} == {"stem", "body"}


def test_only_from_to_quantizes_a_stretch() -> None:
    model = net()
    qdq.insert(model, X, only="stem->body")
    assert {site.partition(".")[0] for site in qdq.quantizers(model)} == {"stem", "body"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ignore": "head->stem"}, "no way leads from 'head' to 'stem'"),
        ({"spec": {"heda": FOUR}}, "spec pattern 'heda' fits nothing"),
        ({"spec": {"*": FOUR, "head": SIXTEEN}}, "spec pattern 'head' decides nothing"),
        ({"spec": {"head": QuantSpec(keep_axis=0)}}, "spec pattern 'head' keeps scales along"),
        ({"spec": FOUR}, "spec is a QuantSpec"),
        ({"only": "nothing"}, "only pattern 'nothing' fits nothing"),
        ({"spec": {"head": FOUR}, "ignore": "head"}, "spec pattern 'head' fits nothing"),
    ],
)
def test_a_refused_wish_leaves_the_model_as_it_was(options: Any, said: str) -> None:
    model = net()
    kinds, state = [type(each) for each in model.modules()], list(model.state_dict())
    with pytest.raises(PolicyError) as caught:
        qdq.insert(model, X, **options)
    assert str(caught.value).startswith(said)
    assert [type(each) for each in model.modules()] == kinds
    assert list(model.state_dict()) == state


def test_a_file_of_before_has_no_grids_of_anybodys_own(tmp_path: Path) -> None:
    import json

    from safetensors import safe_open
    from safetensors.torch import save_file

    model = inserted("onnxruntime", None)
    qdq.save(model, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        text = json.loads(file.metadata()["qdq"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert text.pop("specs") == {}
    save_file(tensors, tmp_path / "old.safetensors", {"qdq": json.dumps(text)})
    loaded = net()
    qdq.load(loaded, tmp_path / "old.safetensors")
    assert specs(loaded) == specs(model)
