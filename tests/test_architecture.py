"""The house: imports only go down, the public face is lazy and complete, nothing shadows it."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import qdq

ROOT = Path(qdq.__file__).parent
FLOORS = (
    ("errors", "spec", "registry", "sites", "progress", "version"),
    ("records", "data", "numerics"),
    ("targets",),
    ("graph", "report", "nn"),
    ("insertion",),
    ("repair",),
    ("calibration",),
    ("export",),
    ("validation",),
    ("analysis", "training"),
    ("compat",),
    ("recipe", "staging", "loading", "pipeline"),
    ("commands", "cli"),
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
SOURCES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_module_imports_only_from_its_own_floor_or_below(path: Path) -> None:
    own = FLOOR[path.relative_to(ROOT).parts[0].removesuffix(".py")]
    for name in imported(path):
        if name.startswith("qdq."):
            part = name.split(".")[1]
            assert FLOOR[part] <= own, f"{module_name(path)} imports {name}, which stands above it"


def test_there_is_no_import_loop() -> None:
    graph = {
        module_name(path): {name for name in imported(path) if name.startswith("qdq.")}
        for path in SOURCES
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_order_check_sees_an_import_that_goes_up() -> None:
    assert FLOOR["cli"] > FLOOR["pipeline"] > FLOOR["export"] > FLOOR["nn"] > FLOOR["errors"]
    assert "qdq.pipeline" in set(imported(ROOT / "cli.py"))


def test_the_face_is_lazy_complete_and_stable() -> None:
    assert list(qdq.__all__) == sorted(name for name in dir(qdq) if not name.startswith("_"))
    for name in qdq.__all__:
        assert getattr(qdq, name) is getattr(qdq, name)


def test_a_public_function_stays_one_after_every_module_is_imported() -> None:
    before = {name: getattr(qdq, name) for name in qdq.__all__}
    for path in SOURCES:
        __import__(module_name(path))
    assert {name: getattr(qdq, name) for name in qdq.__all__} == before


def test_no_module_bears_a_public_functions_name() -> None:
    functions = {name for name in qdq.__all__ if callable(getattr(qdq, name))}
    modules = {module_name(path).rpartition(".")[2] for path in SOURCES}
    assert not functions & modules


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = qdq.quantise


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import qdq, qdq.cli",
        "import qdq.records.decisions, qdq.targets.placement",
        "import qdq.numerics.histogram, qdq.numerics.thresholds, qdq.numerics.distance",
        "import qdq; qdq.graph.lint",
        "import qdq; qdq.graph.bench, qdq.graph.diff, qdq.graph.explain, qdq.graph.explain_engine",
        "import qdq; qdq.graph.quantize, qdq.graph.retarget, qdq.graph.simulate",
        "import qdq.graph.passes, qdq.graph.files, qdq.graph.lowering, qdq.graph.coverage",
        "import qdq.graph.speed",
        "import qdq.report.page, qdq.report.table",
    ],
)
def test_these_need_no_torch(statement: str) -> None:
    assert "torch" not in loaded_after(statement)


def test_everything_imports_without_the_extras() -> None:
    names = ", ".join(module_name(path) for path in SOURCES if path.name != "page.py")
    loaded = loaded_after(f"import {names}")
    assert not loaded & {"sklearn", "jinja2", "plotly", "numba", "lightning", "torchvision"}


def test_models_and_the_package_know_nothing_of_each_other() -> None:
    models = ROOT.parent / "models"
    for path in models.rglob("*.py"):
        assert not any(name.split(".")[0] == "qdq" for name in imported(path)), path
    for path in SOURCES:
        assert "models" not in {name.split(".")[0] for name in imported(path)}, path


def test_no_two_test_modules_bear_one_name() -> None:
    names = Counter(path.name for path in (ROOT.parent / "tests").rglob("*.py"))
    assert [name for name, times in names.items() if times > 1] == []
