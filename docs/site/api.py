"""The API pages: one per package, a section per module, from docstrings that are read, not run."""

import ast
import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "seq1f1b_jax"
NO_CODE = {"mesh_configs"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every package, inner ones too."""
    for package in _every(PACKAGE):
        files.append(File.generated(config, _page(package), content=_content(package)))
    return files


def _packages(folder: Path) -> list[Path]:
    inner = (path.parent for path in folder.glob("*/__init__.py"))
    return sorted(path for path in inner if path.name not in NO_CODE)


def _every(folder: Path) -> list[Path]:
    return [folder, *(found for inner in _packages(folder) for found in _every(inner))]


def _page(package: Path) -> str:
    return (Path("api") / package.relative_to(PACKAGE) / "index.md").as_posix()


def entries(package: Path = PACKAGE) -> list:
    """The navigation of a package and those in it."""
    return [_page(package), *({inner.name: entries(inner)} for inner in _packages(package))]


def _name(package: Path) -> str:
    return ".".join(("seq1f1b_jax", *package.relative_to(PACKAGE).parts))


def _content(package: Path) -> str:
    name, source = _name(package), _tree(package)
    defined = [
        node.name for node in source.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    options = {"heading_level": 1, "members": defined or False}
    lines = [f"::: {name}", f"    options: {json.dumps(options)}"]
    if offered := _offered(source):
        lines += ["", f"Offered by `{name}`: {', '.join(offered)}."]
    if inner := _packages(package):
        lines += ["", "| package | |", "|---|---|"]
        lines += [f"| [{_name(path)}]({path.name}/index.md) | {_effect(path)} |" for path in inner]
    for module in sorted(path.stem for path in package.glob("[!_]*.py") if path.stem != "train"):
        lines += ["", f"::: {name}.{module}"]
    return "\n".join(lines) + "\n"


def _offered(source: ast.Module) -> list[str]:
    """Names of `__all__` that a package imports from its modules, linked where they are shown."""
    public: set[str] = set()
    origins: dict[str, str] = {}
    for node in source.body:
        if isinstance(node, ast.ImportFrom):
            origins |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            public = set(ast.literal_eval(node.value))
    return [
        f'<autoref optional identifier="{origins[name]}"><code>{name}</code></autoref>'
        for name in sorted(public & origins.keys())
    ]


def _effect(package: Path) -> str:
    """The first sentence of its docstring."""
    text = ast.get_docstring(_tree(package)) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _tree(package: Path) -> ast.Module:
    return ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
