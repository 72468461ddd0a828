"""Notebooks as pages, with the outputs and pictures that are stored in them."""

import base64
import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parents[2] / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every notebook, and its pictures."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        parts, pictures = [], 0
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            is_code = cell["cell_type"] == "code"
            parts.append(_fenced("python", source) if is_code else source)
            for output in cell.get("outputs", ()):
                if png := output.get("data", {}).get("image/png"):
                    pictures += 1
                    name = f"notebooks/{path.stem}-{pictures}.png"
                    content = base64.b64decode("".join(png))
                    files.append(File.generated(config, name, content=content))
                    parts.append(f"![Output]({Path(name).name})")
                elif text := output.get("text"):
                    parts.append(_fenced("text", "".join(text)))
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content="\n\n".join(parts) + "\n"))
    return files


def _fenced(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
