"""The house: imports point one way, down the layers."""

import ast
import pathlib
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "sims_jax"
LAYERS = (
    (
        "atomic",
        "errors",
        "labels",
        "types",
        "rng",
        "images",
        "progress",
        "programs",
        "processes",
        "config",
        "words",
    ),
    ("ops",),
    ("data",),
    ("bank",),
    ("nets",),
    ("canvas",),
    ("losses", "metrics"),
    ("checkpoints", "networks", "retrieval", "pipeline", "result", "model"),
    ("training",),
    ("evaluation",),
    ("commands",),
    ("evaluate", "synthesize_command"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def imports_of(path: pathlib.Path) -> set[str]:
    """First-level names of sims_jax that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sims_jax"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


FILES = sorted(
    path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem != "__init__"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_runs_up(path):
    command = path.stem == "__main__"  # whatever package it is in
    here = "commands" if command else path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert here in LAYER, f"{here} belongs to no layer: add it to LAYERS"
    above = {name for name in imports_of(path) if LAYER[name] > LAYER[here]}
    assert not above, f"{path} imports {above} from a higher layer"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_and_say_what_they_are(path):
    assert len(path.read_text().splitlines()) <= 350
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_one_file_maps_over_devices():
    using = [path.name for path in FILES if "jax.pmap(" in path.read_text()]
    assert using == ["parallel.py"]


def test_importing_loads_neither_tensorflow_nor_torch():
    code = (
        "import sys, sims_jax, sims_jax.model, sims_jax.training.run; "
        "sys.exit(bool({'tensorflow', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(p.parent.relative_to(ROOT.parent).parts) for p in ROOT.rglob("__init__.py")}
    assert set(listed["packages"]) == found | {"sims_jax.configs"}
