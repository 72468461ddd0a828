"""The arrows of the design hold: who imports whom, how long a file may be, who may touch what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("seq1f1b_jax", "models", "mesh_configs")
CHECKED = (*PACKAGES, "benchmarks", "tests")
MAX_LINES = 300

# Part of the house -> the only parts of ours that it may import.
ARROWS = {
    "seq1f1b_jax.config.model": (),
    "seq1f1b_jax.config": ("seq1f1b_jax.config.model",),
    "seq1f1b_jax.config.checks": ("seq1f1b_jax.config", "seq1f1b_jax.config.model"),
    "seq1f1b_jax.paths": ("seq1f1b_jax.config",),
    "seq1f1b_jax.cli": (
        "seq1f1b_jax.cli", "seq1f1b_jax.config", "seq1f1b_jax.config.checks", "seq1f1b_jax.paths",
    ),
    "seq1f1b_jax.explore.command": (
        "seq1f1b_jax.schedule", "seq1f1b_jax.picture", "seq1f1b_jax.paths",
    ),
    "seq1f1b_jax.schedule": ("seq1f1b_jax.schedule", "seq1f1b_jax.paths"),
    "seq1f1b_jax.picture": ("seq1f1b_jax.picture", "seq1f1b_jax.schedule", "seq1f1b_jax.paths"),
    "seq1f1b_jax.ops": ("seq1f1b_jax.ops",),
    "seq1f1b_jax.pipeline": (
        "seq1f1b_jax.pipeline",
        "seq1f1b_jax.schedule",
        "seq1f1b_jax.ops",
    ),
    "seq1f1b_jax.formats": ("seq1f1b_jax.formats", "seq1f1b_jax.config"),
    "seq1f1b_jax.data": (
        "seq1f1b_jax.data", "seq1f1b_jax.formats", "seq1f1b_jax.config", "seq1f1b_jax.paths",
    ),
    "seq1f1b_jax.distributed": ("seq1f1b_jax.distributed", "seq1f1b_jax.config"),
    "seq1f1b_jax.launch": (
        "seq1f1b_jax.launch",
        "seq1f1b_jax.distributed.exits",
        "seq1f1b_jax.distributed.processes",
        "seq1f1b_jax.config",
        "seq1f1b_jax.paths",
    ),
    "seq1f1b_jax.training": (
        "seq1f1b_jax.training",
        "seq1f1b_jax.distributed",
        "seq1f1b_jax.data",
        "seq1f1b_jax.picture",
        "seq1f1b_jax.pipeline",
        "seq1f1b_jax.schedule",
        "seq1f1b_jax.ops",
        "seq1f1b_jax.config",
        "seq1f1b_jax.config.checks",
        "seq1f1b_jax.paths",
    ),
    "seq1f1b_jax.run": ("seq1f1b_jax", "models"),
    "seq1f1b_jax.models.hf": (
        "models",
        "seq1f1b_jax.config",
        "seq1f1b_jax.formats",
        "seq1f1b_jax.pipeline.params.layout",
        "seq1f1b_jax.pipeline.params.rows",
        "seq1f1b_jax.pipeline.params.sharding",
        "seq1f1b_jax.pipeline.stage",
    ),
    "models": ("models", "seq1f1b_jax.config", "seq1f1b_jax.pipeline.stage", "seq1f1b_jax.ops"),
    "mesh_configs": (),
}
# Parts that must load where nothing but these is installed.
THIRD_PARTY = {
    "seq1f1b_jax.config.model": set(),
    "seq1f1b_jax.config": set(),
    "seq1f1b_jax.config.checks": set(),
    "seq1f1b_jax.paths": set(),
    "seq1f1b_jax.cli": {"yaml", "jsonargparse"},
    "seq1f1b_jax.explore.command": {"numpy"},
    "seq1f1b_jax.schedule": {"numpy"},
    "seq1f1b_jax.picture": {"numpy", "matplotlib"},
    "seq1f1b_jax.data": {
        "numpy", "jaxtyping", "grain", "tokenizers", "pyarrow", "rich",
        "compression", "backports",  # zst: of Python from 3.14 on, and its backport
    },
    "seq1f1b_jax.launch": set(),
    "seq1f1b_jax.formats": {"numpy", "ml_dtypes", "gguf", "jaxtyping"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module, part):
    return module == part or module.startswith(part + ".")


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def exists(module):
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports(path):
    """Modules that a file imports at any depth; `from a import b` is a.b where that is a module."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; name the module in full"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if exists(full) else node.module


def part_of(path):
    return next((part for part in ARROWS if within(module_name(path), part)), None)


FILES = sources(*PACKAGES)


def test_every_file_belongs_to_a_part_of_the_house():
    homeless = [module_name(path) for path in FILES if part_of(path) is None]
    assert homeless == ["seq1f1b_jax"]


@pytest.mark.parametrize("part", ARROWS)
def test_imports_follow_the_arrows(part):
    for path in FILES:
        if part_of(path) == part:
            ours = [name for name in imports(path) if name.split(".")[0] in (*PACKAGES, "train")]
            wrong = [name for name in ours if not any(within(name, to) for to in ARROWS[part])]
            assert not wrong, f"{module_name(path)} may import {ARROWS[part]}, not {wrong}"


@pytest.mark.parametrize("part", THIRD_PARTY)
def test_light_parts_import_little(part):
    for path in FILES:
        if part_of(path) == part:
            roots = {name.split(".")[0] for name in imports(path)} - {*PACKAGES}
            foreign = roots - THIRD_PARTY[part] - set(sys.stdlib_module_names)
            assert not foreign, f"{module_name(path)} imports {foreign}"


def test_schedule_loads_where_jax_cannot():
    modules = [module_name(path) for path in sources("seq1f1b_jax/schedule")]
    names = [name for name in modules if not name.endswith("__main__")]
    assert len(names) > 5
    code = (
        "import sys, importlib\n"
        "sys.modules['jax'] = sys.modules['jaxlib'] = None\n"
        f"for name in {names}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_files_are_short():
    paths = [*sources(*CHECKED), ROOT / "train.py"]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    long = {module_name(path): lines for path, lines in lengths.items() if lines >= MAX_LINES}
    assert not long, f"one idea per file, under {MAX_LINES} lines: {long}"


def test_only_the_programs_touch_the_environment():
    for path in FILES:
        if module_name(path) == "seq1f1b_jax.launch.__main__":
            continue  # hands its own to the processes that it starts
        names = {node.attr for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
        assert not names & {"environ", "putenv", "getenv"}, module_name(path)


def test_nothing_pickles():
    for path in FILES:
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"pickle", "cloudpickle", "dill"}, module_name(path)


def test_no_handler_hides_every_error():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                assert caught not in ("everything", "Exception", "BaseException"), (
                    f"{module_name(path)}:{node.lineno} catches {caught}; name the error"
                )
