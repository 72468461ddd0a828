"""Run notebooks: from `NAME.py`, whose cells begin with `# %%`, to `NAME.ipynb` with its outputs.

    make notebooks              all of them, some minutes on two cores
    python notebooks NAME ...   some of them

`NAME.py` is what to edit; both are committed, and tests/docs/test_notebooks.py holds them together.
"""

import argparse
import os
from copy import deepcopy
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS = 600
"""What a cell may take."""


def names() -> list[str]:
    """The notebooks of the folder."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def load(name: str) -> nbformat.NotebookNode:
    """Read the cells of a source, without outputs; always the same notebook for the same source."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    for index, cell in enumerate(notebook.cells):
        cell["id"], cell["metadata"] = f"cell-{index:02}", {}
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run the cells in this folder, on the CPU, with the package of this clone; keep the outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(FOLDER.parent)}
    client = NotebookClient(
        notebook, kernel_name=KERNEL["name"], timeout=SECONDS, record_timing=False,
        coalesce_streams=True, resources={"metadata": {"path": str(FOLDER)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    metadata = deepcopy(notebook.metadata)
    executed = client.execute(env=environment)
    executed.metadata = metadata  # without the version of the Python that ran it
    return executed


def main() -> None:
    """Run the notebooks that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python notebooks", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[[], *names()], default=names())
    for name in parser.parse_args().name:
        print(f"running {name} ...", flush=True)
        nbformat.write(run(load(name)), FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main()
