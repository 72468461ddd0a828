"""Every example of every docstring runs, standing alone.

It knows what its own module defines, as after `from MODULE import *`; all else it imports itself.
"""

import ast
import doctest
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("seq1f1b_jax", "models", "benchmarks")
FOUND = (path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py")))
FILES = [ROOT / "train.py", *(path for path in FOUND if not path.is_symlink())]
HEADING = re.compile(r"^[ \t]*Examples?:[ \t]*$", re.MULTILINE)
OTHERWISE = {"train": "command lines; those of README are run by tests/test_readme.py"}
"""Docstrings whose `Example:` is no Python, and what runs it instead."""


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return f"seq1f1b_jax.{name}" if name.startswith("models") else name


def docstrings(path: Path) -> Iterator[tuple[str, str, int]]:
    """Dotted name, text and line of every docstring of a file, those of nested functions too."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

    def within(node: ast.AST, name: str) -> Iterator[tuple[str, str, int]]:
        if isinstance(node, documented) and (text := ast.get_docstring(node, clean=False)):
            yield name, text, node.body[0].lineno - 1
        for child in ast.iter_child_nodes(node):
            part = getattr(child, "name", "") if isinstance(child, documented) else ""
            yield from within(child, f"{name}.{part}" if part else name)

    yield from within(ast.parse(path.read_text(encoding="utf-8")), module_name(path))


def defined(name: str) -> dict[str, object]:
    """What a module defines or, being a package, offers; nothing that it merely imports."""
    module = importlib.import_module(name)
    own = set(getattr(module, "__all__", ()))
    for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            own.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            own |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {key: getattr(module, key) for key in own}


def examples(path: Path) -> list[doctest.DocTest]:
    """The examples of a file, one for each docstring that has any."""
    parser = doctest.DocTestParser()
    found = [
        parser.get_doctest(text, {}, name, str(path), line)
        for name, text, line in docstrings(path)
    ]
    return [test for test in found if test.examples]


WITH_EXAMPLES = {module_name(path): path for path in FILES if examples(path)}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run(name, tmp_path, monkeypatch, own_schedules):
    jax.devices()  # sets variables of its own
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in examples(WITH_EXAMPLES[name]):
        test.globs = {"__name__": "__main__"} | defined(name)
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    assert not any(tmp_path.iterdir()), "an example leaves files where it runs; use tempfile"
    assert dict(os.environ) == environment


def test_a_heading_is_followed_by_an_example_that_runs_or_by_a_reason():
    bare = {
        name
        for path in FILES
        for name, text, _ in docstrings(path)
        if HEADING.search(text) and ">>>" not in text
    }
    assert bare == set(OTHERWISE)


def test_most_of_the_examples_are_found():
    assert sum(len(examples(path)) for path in WITH_EXAMPLES.values()) >= 90
