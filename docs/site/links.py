"""Links of the pages to files of the repository, for the site; on GitHub they work as they are.

One to a module or package leads to its API page, one to a page to that page, and one to any other
file to a page made here that shows it: MkDocs is given `tests/conftest.py` as
`repository/tests/conftest.py.md`. A link to a folder without a page becomes plain text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
SHOWN = "repository/"
"""Where pages stand that are made of files outside `docs/`."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)((?:#[^)\s]*)?)\)")
LANGUAGES = {
    ".cff": "yaml", ".py": "python", ".sbatch": "bash", ".sh": "bash", ".yaml": "yaml",
}  # fmt: skip


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages for the files outside `docs/` that pages link to, those added here too."""
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        page, text = waiting.pop()
        for _, target, _ in LINK.findall(text):
            path = repository_path(page, target)
            made = page_of(path)
            if made.startswith(SHOWN) and made not in files.src_uris and (ROOT / path).is_file():
                content = shown(path)
                files.append(File.generated(config, made, content=content))
                waiting.append((made, content if path.endswith(".md") else ""))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let every link into the repository lead to a page of the site."""

    def replaced(link: re.Match[str]) -> str:
        text, target, anchor = link.groups()
        path = repository_path(page.file.src_uri, target)
        if not (ROOT / path).exists():
            return link[0]
        made, _, heading = page_of(path).partition("#")
        if made not in files.src_uris:
            return text
        anchor = anchor or ("#" + heading if heading else "")
        to = posixpath.relpath(made, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{text}]({to}{anchor})"

    return LINK.sub(replaced, markdown)


def repository_path(page: str, target: str) -> str:
    """Where a link of a page leads, relative to the root of the repository.

    Example:
      >>> repository_path("design/memory.md", "../../models/hf")
      'models/hf'
    """
    here = f"docs/{page}"
    if page.startswith((SHOWN, "notebooks/")):  # a notebook lies where its page does
        here = page.removeprefix(SHOWN)
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), target))


def page_of(path: str) -> str:
    """The page that stands for a path of the repository, with a heading in it where that is a part.

    Example:
      >>> page_of("docs/data.md"), page_of("models/hf/rules.py")
      ('data.md', 'api/models/hf/index.md#seq1f1b_jax.models.hf.rules')
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    if not path.startswith(("seq1f1b_jax/", "models")):
        return SHOWN + (path if path.endswith(".md") else f"{path}.md")
    inside = Path(path.removeprefix("seq1f1b_jax/").removesuffix("/__init__.py"))
    package = inside.parent if inside.suffix == ".py" else inside
    page = posixpath.normpath(f"api/{package.as_posix()}/index.md")
    return f"{page}#seq1f1b_jax.{'.'.join(inside.with_suffix('').parts)}"


def shown(path: str) -> str:
    """A file as a page: Markdown as it is, anything else as code that searches leave out."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    language = LANGUAGES.get(Path(path).suffix, "text")
    head = "---\nsearch:\n  exclude: true\nhide: [toc]\n---\n"
    return f"{head}\n# {path}\n\n````{language}\n{text}\n````\n"
