"""The navigation: sections and pages of `docs/index.md`, which readers on GitHub see too."""

import re
from pathlib import Path

from api import entries
from links import page_of, repository_path
from mkdocs.config.defaults import MkDocsConfig

LINE = re.compile(r"^## (?P<section>.+)$|^- \[(?P<title>[^]]+)\]\((?P<target>[^)]+)\): ", re.M)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation, with the API pages last."""
    nav: list[dict] = [{"Home": "index.md"}]
    for line in LINE.finditer(Path(config.docs_dir, "index.md").read_text(encoding="utf-8")):
        if line["section"]:
            nav.append({line["section"]: []})
        else:
            page = page_of(repository_path("index.md", line["target"]))
            next(iter(nav[-1].values())).append({line["title"]: page})
    config.nav = [*nav, {"API": entries()}]
    return config
