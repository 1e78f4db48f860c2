"""How the package is built: imports point one way, files are short, optional imports stay where they belong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import lrp_plugin

ROOT = Path(lrp_plugin.__file__).parent
LAYERS = (
    ("testing",),
    ("attribution", "plan"),
    ("propagation",),
    ("fast",),
    ("composites",),
    ("rules",),
    ("registry",),
    ("algebra", "ledger"),
    ("errors", "torch_private"),
)
"""The engine from top to bottom: a file imports from its own layer and from those below it."""


def level(module: str) -> int | None:
    parts = module.split(".")
    name = parts[1] if parts[0] == "lrp_plugin" and len(parts) > 1 else None
    return next((place for place, names in enumerate(LAYERS) if name in names), None)


def imports(path: Path) -> list[str]:
    """The package's modules a file imports at once: not under TYPE_CHECKING, not inside functions."""
    tree = ast.parse(path.read_text())
    found = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lrp_plugin"):
            found.append(node.module)
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.startswith("lrp_plugin")]
    return found


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def test_imports_point_one_way() -> None:
    wrong = []
    for path in files():
        inside = path.relative_to(ROOT)
        own = level("lrp_plugin." + inside.parts[0].removesuffix(".py"))
        for module in imports(path) if own is not None else ():
            below = level(module)
            if below is not None and own is not None and below < own:
                wrong.append(f"{inside} imports {module}")
    assert not wrong


def _name(path: Path, top: Path) -> str:
    parts = path.relative_to(top.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs when a file is imported: not under TYPE_CHECKING, not inside functions."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        for part in ("body", "orelse", "handlers", "finalbody"):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield from _statements(getattr(node, part, []) if isinstance(getattr(node, part, []), list) else [])


def _imports_of(path: Path, top: Path, known: set[str]) -> set[str]:
    """The modules among ``known`` that a file imports, relative imports too."""
    package = _name(path, top).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    found = set()
    for node in _statements(ast.parse(path.read_text()).body):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*stem, *([node.module] if node.module else [])])
            found |= {full if (full := f"{base}.{name.name}") in known else base for name in node.names}
    return found & known - {_name(path, top)}


@pytest.mark.parametrize("top", [ROOT, ROOT.parent / "benchmarks"], ids=lambda top: top.name)
def test_imports_run_in_no_circle(top: Path) -> None:
    if not top.is_dir():
        pytest.skip("not in an installed package")
    paths = sorted(top.rglob("*.py"))
    known = {_name(path, top) for path in paths}
    assert len(known) > 5
    graph = {_name(path, top): _imports_of(path, top, known) for path in paths}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None and node.end_lineno - node.lineno >= 60
    ]
    assert not long


ENGINE = ("attribution", "propagation", "rules", "algebra", "fast", "composites")


def _fields(node: ast.ClassDef) -> set[str]:
    """What a class's body annotates, and its constructor sets."""
    found = {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}
    made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    for place in (inner for one in made for inner in ast.walk(one) if isinstance(inner, ast.Attribute)):
        if isinstance(place.ctx, ast.Store) and isinstance(place.value, ast.Name) and place.value.id == "self":
            found.add(place.attr)
    return found


def test_classes_of_the_engine_have_few_fields() -> None:
    many = []
    engine = [path for room in ENGINE for path in sorted((ROOT / room).rglob("*.py"))]
    for path in [ROOT / "registry.py", ROOT / "ledger.py", *engine]:
        classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        many += [f"{path.name}: {one.name} {sorted(_fields(one))}" for one in classes if len(_fields(one)) > 10]
    assert not many


def test_rules_know_nothing_of_what_is_fast() -> None:
    wrong = [
        f"{path.name}: {name}"
        for room in ("rules", "algebra")
        for path in sorted((ROOT / room).rglob("*.py"))
        for name in re.findall(r"lrp_plugin\.fast[\w.]*", path.read_text())
        if "import" in path.read_text().split(name)[0].splitlines()[-1]
    ]
    assert not wrong


def test_the_linear_rules_are_formulas() -> None:
    """All of them in one file of at most 250 lines; z+'s formula is one line."""
    text = (ROOT / "rules" / "maps.py").read_text()
    assert len(text.splitlines()) <= 250
    zplus = next(one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef) and one.name == "zplus")
    assert len(zplus.body) == 2, "a docstring, and what is returned"


def test_no_drawers() -> None:
    drawers = {"utils", "util", "misc", "common", "helpers", "helper"}
    assert not [path for path in files() if drawers & set(path.relative_to(ROOT).with_suffix("").parts)]


def test_importing_the_package_stays_light() -> None:
    code = "import sys, lrp_plugin; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    loaded = set(done.stdout.split())
    assert not {"hypothesis", "lrp_plugin.cxr", "lrp_plugin.testing"} & loaded


def test_hypothesis_is_imported_by_testing_only() -> None:
    users = [path.relative_to(ROOT) for path in files() if "hypothesis" in _imported(path)]
    assert all(path.parts[0] == "testing" for path in users)
    assert users


def _imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {name.split(".")[0] for name in names}
