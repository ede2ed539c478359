"""A recipe: the whole way from a float model to a validated INT8 file, as one TOML file."""

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qdq.errors import RecipeError
from qdq.registry import choose_one_of

_LARGEST = 1 << 20  # bytes


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPart(_Part):
    """Where the float model comes from."""

    factory: Annotated[str, Field(description="package.module:function that builds the model")]
    weights: Annotated[str | None, Field(description="a .safetensors or .npz file")] = None
    sha256: Annotated[str | None, Field(description="of the weights file")] = None
    factory_loads: Annotated[
        bool, Field(description="the factory takes the path of the weights and loads them itself")
    ] = False


class DataPart(_Part):
    """Where images and labels come from."""

    source: Annotated[str, Field(description="a kind of data, or package.module:function")]
    path: Annotated[str, Field(description="file or folder; $QDQ_DATA")] = ""
    mean: Annotated[tuple[float, ...], Field(description="per channel, of images in 0..1")] = ()
    std: Annotated[tuple[float, ...], Field(description="per channel")] = ()
    size: Annotated[int | None, Field(ge=1, description="square to cut from a folder's")] = None
    batch_size: Annotated[int, Field(ge=1, description="rows a batch")] = 64


class InsertPart(_Part):
    """Which layers get quantizers."""

    ignore: Annotated[tuple[str, ...], Field(description="layers to leave float")] = ()
    only: Annotated[tuple[str, ...], Field(description="leave all others float")] = ()


class CalibratePart(_Part):
    """How ranges are chosen."""

    method: Annotated[str, Field(description="mse, max, percentile, entropy, coverage, auto")] = (
        "mse"
    )
    tier: Annotated[str, Field(description="plain, or best: weights are repaired too")] = "plain"
    repair: Annotated[tuple[str, ...], Field(description="repairs besides those of the tier")] = ()
    batches: Annotated[int | None, Field(ge=1, description="of the train split; all")] = None


class ExportPart(_Part):
    """What is written."""

    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("tensorrt", "onnxruntime")
    opset: Annotated[int, Field(description="13 to the newest that onnx and onnxruntime know")] = 13


class SensitivityPart(_Part):
    """Which layers suffer; leave the table out to skip it."""

    mode: Annotated[Literal["one_on", "one_off"], Field(description="one_on or one_off")] = "one_on"
    batches: Annotated[int | None, Field(ge=1, description="of the train split; all")] = 4


class FinetunePart(_Part):
    """Training with quantizers on; leave the table out to skip it."""

    epochs: Annotated[int, Field(ge=1)] = 1
    lr: Annotated[float, Field(gt=0)] = 1e-3
    loss: Annotated[str, Field(description="cross_entropy")] = "cross_entropy"
    optimizer: Annotated[str, Field(description="sgd or adamw")] = "sgd"
    trainable: Annotated[tuple[str, ...], Field(description="parameters that learn")] = ("*",)
    target: Annotated[str | None, Field(description="simulated; the first to export")] = None
    distill: Annotated[bool, Field(description="learn from the float model too")] = False
    tier: Annotated[str, Field(description="plain, or best: weights are repaired too")] = "plain"
    repair: Annotated[tuple[str, ...], Field(description="repairs besides those of the tier")] = ()
    batches: Annotated[int | None, Field(ge=1, description="of the train split; all")] = None
    val_batches: Annotated[int, Field(ge=0, description="last ones kept to judge epochs by")] = 8


class ValidatePart(_Part):
    """What the files are tried on."""

    batches: Annotated[int | None, Field(ge=1, description="of the test split; all")] = None


class Recipe(_Part):
    """Everything `qdq run` needs; two runs of one recipe on one machine give the same bytes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    description: str = ""
    seed: int = 0
    model: ModelPart
    data: DataPart
    insert: InsertPart = InsertPart()
    calibrate: CalibratePart = CalibratePart()
    sensitivity: SensitivityPart | None = None
    export: ExportPart = ExportPart()
    finetune: FinetunePart | None = None
    validation: Annotated[ValidatePart, Field(alias="validate")] = ValidatePart()

    def replaced(self, values: Mapping[str, object]) -> "Recipe":
        """This recipe with other values, checked like those of a file.

        Args:
            values: "table.key" -> value.

        Raises:
            RecipeError: a value that does not belong.
        """
        tables = self.model_dump(by_alias=True)
        for place, value in values.items():
            table, key = place.split(".")
            tables[table][key] = value
        try:
            return Recipe.model_validate(tables)
        except ValidationError as error:
            raise _explained(error, self.name) from error


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("qdq") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or one of the user's by path.

    Args:
        name: as `shipped` lists them, or a path ending in .toml.

    Raises:
        RecipeError: no such recipe, no TOML, or a key or value that does not belong.
    """
    text = _text(name)
    try:
        return Recipe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(
            f"this is no TOML: {error}", at=name, fix="see qdq/recipes/lenet_digits.toml"
        ) from error
    except ValidationError as error:
        raise _explained(error, name) from error


def _text(name: str) -> str:
    if name in shipped():
        return (resources.files("qdq") / "recipes" / f"{name}.toml").read_text("utf-8")
    path = Path(name)
    if not path.is_file():
        raise RecipeError(
            f"there is no recipe {name!r}",
            fix=f"{choose_one_of(name, shipped())}; or pass the path of a .toml file",
        )
    if path.stat().st_size > _LARGEST:
        raise RecipeError("a recipe of more than 1 MiB", at=name, fix="is this the right file?")
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read this: {error}", at=name, fix="save it as UTF-8") from error


def _explained(error: ValidationError, name: str) -> RecipeError:
    """The first thing that is wrong, in one sentence."""
    first = error.errors()[0]
    *parents, key = [str(part) for part in first["loc"]]
    place = ".".join([*parents, key])
    known = _known(parents)
    if first["type"] == "extra_forbidden":
        return RecipeError(f"unknown key {place!r}", at=name, fix=choose_one_of(key, known))
    if first["type"] == "missing":
        return RecipeError(f"the key {place!r} is missing", at=name, fix=f"add it: {place} = ...")
    return RecipeError(
        f"{place} = {first['input']!r}: {first['msg'].lower()}",
        at=name,
        fix="correct the value; `qdq run --help` shows a whole recipe",
    )


def _known(parents: list[str]) -> list[str]:
    """The keys of the table that `parents` lead to."""
    part: type[BaseModel] = Recipe
    for parent in parents:
        field = next((f for n, f in part.model_fields.items() if parent in (n, f.alias)), None)
        tables = [] if field is None else _tables(field.annotation)
        if not tables:
            return []
        part = tables[0]
    return sorted(field.alias or name for name, field in part.model_fields.items())


def _tables(annotation: object) -> list[type[BaseModel]]:
    """The kind of table an annotation stands for, also one that may be left out."""
    kinds = get_args(annotation) or (annotation,)
    return [each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)]
