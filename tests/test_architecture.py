"""The arrows of the design hold: who imports whom, how long a file may be, who may touch what."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("seq1f1b_jax", "models", "mesh_configs")  # the last two are linked into the first
CHECKED = (*FOLDERS, "benchmarks", "tests")
MAX_LINES = 300
MAX_FILES = 14
"""Side by side in a folder of the package."""
MAX_SHARE = 0.17
"""Of the package's lines in one folder of it, with all that is in it."""

# Part of the house -> the only other parts of ours that it may import; none of them stands below.
ARROWS = {
    "config": (),
    "paths": ("config",),
    "formats": ("config", "paths"),
    "ops": (),
    "schedule": ("paths",),
    "picture": ("schedule", "paths"),
    "explore": ("picture", "schedule", "paths"),
    "plan": (
        "cli", "data.folder", "host", "models.hf", "ops.blocks", "ops.pairs", "picture.files",
        "schedule", "config", "paths",
    ),
    "pipeline": ("ops", "schedule"),
    "models.hf": (
        "models", "pipeline.params", "pipeline.stage", "formats", "config", "paths",
    ),
    "models": ("pipeline.stage", "ops", "config"),
    "inference": ("host", "data.tokenizer", "pipeline", "ops", "config"),
    "data": ("formats", "config", "paths"),
    "distributed": ("config",),
    "host": ("distributed", "config", "paths"),
    "launch": ("distributed.exits", "distributed.processes", "config", "paths"),
    "cli": ("config", "paths"),
    "mesh_configs": (),
    "training": (
        "cli", "distributed", "host", "data", "inference", "models", "picture", "pipeline",
        "plan", "schedule", "ops", "config", "paths",
    ),
    "report": ("training.reports", "cli", "picture.files", "host.sizes", "config", "paths"),
}  # fmt: skip
# Parts that must load where nothing but these is installed.
THIRD_PARTY = {
    "config": set(),
    "paths": set(),
    "cli": {"yaml", "jsonargparse"},
    "schedule": {"numpy"},
    "explore": {"numpy"},
    "picture": {"numpy", "matplotlib"},
    "data": {
        "numpy", "jaxtyping", "grain", "tokenizers", "jinja2", "pyarrow", "rich", "datasets",
        "huggingface_hub",
        "compression", "backports",  # zst: of Python from 3.14 on, and its backport
    },
    "launch": set(),
    "report": {"numpy", "jaxtyping", "plotly", "yaml"},
    "formats": {"numpy", "ml_dtypes", "gguf", "jaxtyping"},
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    inside = ("seq1f1b_jax",) if parts[0] in FOLDERS[1:] else ()
    return ".".join((*inside, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def within(module, part):
    return module == part or module.startswith(part + ".")


def sources(*folders):
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if not path.is_symlink())


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
    name = module_name(path).removeprefix("seq1f1b_jax.")
    return next((part for part in ARROWS if within(name, part)), None)


FILES = sources(*FOLDERS)


def ours(path):
    """What a file imports of the package, without the package's own name."""
    names = (name.partition(".") for name in imports(path))
    return [rest for root, _, rest in names if root == "seq1f1b_jax" and rest]


def test_every_file_belongs_to_a_part_of_the_house():
    homeless = [module_name(path) for path in FILES if part_of(path) is None]
    assert homeless == ["seq1f1b_jax"]


@pytest.mark.parametrize("part", ARROWS)
def test_imports_follow_the_arrows(part):
    for path in FILES:
        if part_of(path) == part:
            allowed = (part, *ARROWS[part])
            wrong = [name for name in ours(path) if not any(within(name, to) for to in allowed)]
            assert not wrong, f"{module_name(path)} may import {allowed}, not {wrong}"


def circle_in(edges):
    """Names that import each other in a circle; none if there is no such."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_a_circle_is_found():
    assert set(circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_no_arrow_points_up():
    edges = {part: {to.partition(".")[0] for to in wide} for part, wide in ARROWS.items()}
    assert circle_in(edges) == []


def beside(folder):
    """Of each file and folder in a folder: which others in it its files import."""
    name = module_name(folder / "__init__.py")
    edges = {}
    for path in FILES:
        module = module_name(path)
        if path.name == "__init__.py" and path.parent == folder or not within(module, name):
            continue
        child = module.removeprefix(name + ".").partition(".")[0]
        inner = [f"seq1f1b_jax.{to}" for to in ours(path)]
        inner = [to.removeprefix(name + ".").partition(".")[0] for to in inner if within(to, name)]
        edges.setdefault(child, set()).update({to for to in inner if to not in (child, name)})
    return edges


PACKAGES = sorted({path.parent for path in FILES})


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_circle_among_what_stands_side_by_side(folder):
    assert circle_in(beside(folder)) == []


def test_folders_are_narrow():
    count = {folder: len(list(folder.glob("[!_]*.py"))) for folder in PACKAGES}
    wide = {str(folder): number for folder, number in count.items() if number > MAX_FILES}
    assert not wide, f"at most {MAX_FILES} files side by side: {wide}"


def test_no_folder_is_most_of_the_house():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    share = {
        str(folder.relative_to(ROOT)): sum(lines[path] for path in lines if folder in path.parents)
        / sum(lines.values())
        for folder in PACKAGES
        if folder != ROOT / "seq1f1b_jax"
    }
    large = {folder: f"{part:.1%}" for folder, part in share.items() if part > MAX_SHARE}
    assert not large, f"above {MAX_SHARE:.0%} of the lines: {large}"


@pytest.mark.parametrize("part", THIRD_PARTY)
def test_light_parts_import_little(part):
    for path in FILES:
        if part_of(path) == part:
            roots = {name.split(".")[0] for name in imports(path)} - {"seq1f1b_jax"}
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
        if module_name(path) in ("seq1f1b_jax.launch.__main__", "seq1f1b_jax.plan.__main__"):
            continue  # they hand theirs on: to processes that it starts, to JAX
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
