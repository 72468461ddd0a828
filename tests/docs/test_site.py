"""The documentation as a site: built strictly, complete, and nothing in it comes from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.journey.pages import PAGES, ROOT

pytest.importorskip("mkdocstrings", reason="needs the extra docs")

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("use", "href")}


class Links(HTMLParser):
    """What a page loads, and where its links lead."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded: set[str] = set()
        self.linked: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if (tag, name) in LOADED:
                self.loaded.add(value)
            elif (tag, name) == ("a", "href"):
                self.linked.add(value)
            elif name == "id":
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert build.returncode == 0, build.stderr
    assert "WARNING" not in build.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    found = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    return {name: Links(path.read_text("utf-8")) for name, path in found.items()}


def test_every_page_is_in_the_site(pages):
    inside = {path.relative_to(ROOT / "docs") for path in PAGES if ROOT / "docs" in path.parents}
    assert {path.with_suffix(".html").as_posix() for path in inside} <= pages.keys()
    assert "repository/launch/index.html" in pages  # launch/README.md


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for name, page in pages.items():
        assert not [url for url in page.loaded if re.match(r"(https?:)?//", url)], name
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", style.read_text("utf-8")), style


def test_links_lead_to_something(site, pages):
    """Those that our hooks make, too; MkDocs checks only the links that it sees in Markdown."""
    for name, page in pages.items():
        for link in page.linked:
            path, _, anchor = link.partition("#")
            if re.match(r"\w+:|/", link) or name == "404.html":
                continue
            to = os.path.normpath(Path(name).parent / path) if path else name
            assert (site / to).exists(), (name, link)
            if anchor and to in pages:
                assert anchor in pages[to].anchors, (name, link)


def test_a_link_to_a_source_leads_to_its_page(pages):
    map_of_the_code = pages["architecture.html"].linked
    assert "api/schedule/index.html#seq1f1b_jax.schedule.validate" in map_of_the_code
    assert "api/models/hf/index.html#seq1f1b_jax.models.hf.export" in map_of_the_code
    assert "repository/tests/test_architecture.py.html" in map_of_the_code
    assert "repository/mesh_configs/default.yaml.html" in pages["training.html"].linked


def test_examples_are_shown_as_code(site):
    """`Example:` is no heading that the parser of docstrings knows (docs/site/docstrings.py)."""
    page = (site / "api/schedule/index.html").read_text("utf-8")
    examples = re.findall(r'<span class="gp">&gt;&gt;&gt; </span>', page)
    assert len(examples) > 50
    assert "<blockquote>" not in page


def test_examples_of_the_hooks_run():
    hook = ROOT / "docs" / "site" / "links.py"
    run = subprocess.run(
        [sys.executable, "-m", "doctest", str(hook)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
