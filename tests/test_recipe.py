from pathlib import Path

import pytest

from qdq.errors import RecipeError
from qdq.recipe import Recipe, read_recipe, shipped

WHOLE = """
name = "net"
[model]
factory = "a:b"
[data]
source = "digits"
"""


def write(folder: Path, text: str) -> str:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_shipped_recipe_reads_and_says_what_it_is() -> None:
    assert "lenet_digits" in shipped()
    for name in shipped():
        recipe = read_recipe(name)
        assert recipe.name == name
        assert recipe.description


def test_a_short_recipe_gets_the_documented_defaults(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, WHOLE))
    assert recipe.export.targets == ("tensorrt", "onnxruntime")
    assert recipe.export.opset == 13
    assert recipe.data.batch_size == 64
    assert recipe.insert.ignore == ()


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        (WHOLE + "[calibrate]\nmethdo = 'max'", "unknown key 'calibrate.methdo'", "'method'"),
        (WHOLE + "[calibrat]\nmethod = 'max'", "unknown key 'calibrat'", "'calibrate'"),
        ("nmae = 'x'\n" + WHOLE, "unknown key 'nmae'", "'name'"),
        ("name = 'x'\n[data]\nsource = 'digits'", "the key 'model' is missing", "model ="),
        (WHOLE + "[export]\ntargets = []", "export.targets = []", "correct the value"),
        (WHOLE.replace('"net"', '"../net"'), "name = '../net'", "correct the value"),
        (WHOLE + "batch_size = 0", "data.batch_size = 0", "correct the value"),
        (WHOLE + "batch_size = ", "this is no TOML", "lenet_digits.toml"),
    ],
)
def test_a_wrong_recipe_is_told_what_where_and_how(
    tmp_path: Path, text: str, what: str, fix: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert what in caught.value.what
    assert caught.value.at == path
    assert fix in caught.value.fix


def test_a_missing_recipe_names_the_nearest_one() -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe("lenet_digit")
    assert caught.value.what == "there is no recipe 'lenet_digit'"
    assert "did you mean 'lenet_digits'?" in caught.value.fix


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, "#" * (1 << 20) + "\n")
    with pytest.raises(RecipeError, match="more than 1 MiB"):
        read_recipe(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot read this"):
        read_recipe(str(path))


def test_options_replace_what_the_recipe_says_and_are_checked(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, WHOLE))
    changed = recipe.replaced({"calibrate.method": "max", "export.targets": ["onnxruntime"]})
    assert (changed.calibrate.method, changed.export.targets) == ("max", ("onnxruntime",))
    assert recipe.calibrate.method == "mse"
    with pytest.raises(RecipeError, match=r"data\.batch_size = 0"):
        recipe.replaced({"data.batch_size": 0})


def test_a_recipe_survives_its_own_dump(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, WHOLE))
    assert Recipe.model_validate(recipe.model_dump(by_alias=True)) == recipe
