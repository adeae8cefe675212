"""The documentation site: built strictly from the pages as they are; no dead link; complete; as GitHub shows it."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from in_process import Run, imported
from markdown_it import MarkdownIt
from places import ROOT

import nst_fast
from nst_fast.cli.commands import COMMANDS
from nst_fast.errors import InputError
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared

DOCS = ROOT / "docs"
SAME = ("h1", "h2", "h3", "h4", "p", "li", "table", "tr", "pre", "img", "em", "strong")  # elements, on GitHub and here
LOADED = {"script": "src", "img": "src", "link": "href"}


class Page(HTMLParser):
    """What a page of the site links to, loads, names and shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.elements: Counter[str] = Counter()
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.names |= {given["id"]} if given.get("id") else set()
        self._inside |= tag == "article"
        if self._inside and tag in SAME:
            self.elements[tag] += 1
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in LOADED and given.get(LOADED[tag]) and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(str(given[LOADED[tag]]))

    def handle_endtag(self, tag: str) -> None:
        self._inside &= tag != "article"


@pytest.fixture(scope="module")
def make() -> Iterator[ModuleType]:
    pytest.importorskip("zensical", reason="zensical is not installed: pip install -e '.[docs]'")
    with imported(DOCS / "site", ("reference", "make_site")) as found:
        yield found["make_site"]


@pytest.fixture(scope="module")
def work(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "work"
    make.fill(folder)
    make.build(folder)
    return folder


@pytest.fixture(scope="module")
def site(work: Path) -> dict[Path, Page]:
    """Every page by its file."""
    return {path: Page(path.read_text("utf-8")) for path in (work / "site").rglob("*.html") if path.name != "404.html"}


def file_of(page: str, work: Path) -> Path:
    """``docs/gallery.md`` -> the file that a browser gets at docs/gallery/."""
    path = Path(page)
    return work / "site" / (path.parent if path.name == "README.md" else path.with_suffix("")) / "index.html"


def test_every_page_of_the_docs_is_in_the_navigation(make: ModuleType, work: Path) -> None:
    nav = make.navigation()
    written = {path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md")}
    on_the_site = {path.relative_to(work / "pages").as_posix() for path in (work / "pages").rglob("*.md")}
    assert written - set(nav) == set()
    assert set(nav) <= on_the_site
    assert len(nav) == len(set(nav))


def test_every_link_leads_to_a_file_of_the_site_and_to_a_name_in_it(site: dict[Path, Page], work: Path) -> None:
    dead = []
    for path, page in site.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = site[target].names if target in site else {unquote(parts.fragment)}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in known):
                dead.append((path.relative_to(work).as_posix(), link))
    assert sum(len(page.links) for page in site.values()) > 1000
    assert dead == []


def test_pages_load_nothing_from_other_hosts(site: dict[Path, Page]) -> None:
    assert {load for page in site.values() for load in page.loads if urlsplit(load).netloc} == set()


def test_pages_have_the_elements_that_github_shows(site: dict[Path, Page], work: Path, make: ModuleType) -> None:
    github = MarkdownIt("commonmark").enable("table")
    for page in make.navigation():
        expected = Page(f"<article>{github.render((work / 'pages' / page).read_text('utf-8'))}</article>")
        assert site[file_of(page, work)].elements == expected.elements, page


def test_the_reference_has_every_option_command_and_public_name(work: Path) -> None:
    folder = work / "pages" / "docs" / "reference"
    options, commands, python = (
        (folder / f"{name}.md").read_text("utf-8") for name in ("options", "commands", "python")
    )
    assert {item.flag for item in declared(StylizeConfig).values()} == set(
        re.findall(r"^\| `(--[\w-]+)`", options, re.MULTILINE)
    )
    assert list(COMMANDS) == re.findall(r"^## (.+)$", commands, re.MULTILINE)
    assert "### weights fetch" in commands
    assert set(re.findall(r"^## (.+)$", python, re.MULTILINE)) == set(nst_fast.__all__) - {"__version__"}
    assert ":func:" not in python


def test_a_link_to_what_the_site_cannot_have_ends_the_build(
    make: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "ROOT", tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").touch()
    for target in ("none.md", "folder", ".hidden", "../../etc/passwd"):
        (tmp_path / "page.md").write_text(f"[there]({target})\n")
        with pytest.raises(InputError, match=r"page\.md: a link leads to"):
            make.stage(["page.md"], tmp_path / "pages")
        shutil.rmtree(tmp_path / "pages")


def test_a_link_to_a_heading_that_there_is_not_ends_the_build(make: ModuleType, work: Path, tmp_path: Path) -> None:
    shutil.copytree(work, tmp_path / "work")
    with (tmp_path / "work" / "pages" / "docs" / "gallery.md").open("a") as page:
        page.write("\n[there](looks.md#nowhere)\n")
    with pytest.raises(InputError, match="anchor does not exist"):
        make.build(tmp_path / "work")


def test_the_script_says_where_the_site_is_and_what_is_wrong(
    make: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Run
) -> None:
    monkeypatch.setattr(make, "build", lambda work: work / "site")
    code, out, _ = script(make.main, "--work", tmp_path / "work")
    assert (code, out) == (0, f"{tmp_path / 'work' / 'site'}\n")
    monkeypatch.setattr(make, "navigation", lambda: ["none.md"])
    code, _, err = script(make.main, "--work", tmp_path / "work")
    assert (code, "the navigation: a link leads to" in err) == (3, True)
