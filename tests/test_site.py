"""The documentation as a site: it is built without a warning, fetches nothing, and draws its equations in a browser."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asic3d

for needed in ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml"):
    pytest.importorskip(needed, reason="the site needs the extra 'docs'")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page of the documentation -> its HTML."""
    return {str(path.relative_to(site)): path.read_text("utf-8") for path in site.rglob("*.html")}


def test_every_page_is_built(pages):
    written = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")
    }
    assert written <= set(pages)


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for name, page in pages.items():
        needed = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]*)"', page)
        needed += re.findall(r'<link\b[^>]*\brel="(?:stylesheet|icon|preload|preconnect)"[^>]*\bhref="([^"]*)"', page)
        needed += re.findall(r'<link\b[^>]*\bhref="([^"]*)"[^>]*\brel="(?:stylesheet|icon|preload|preconnect)"', page)
        assert needed and [place for place in needed if re.match(r"(https?:)?//", place)] == [], name
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text("utf-8")), style.name


def test_every_equation_is_mathml(pages):
    written = (ROOT / "docs" / "method.md").read_text("utf-8").count("$$") // 2
    assert pages["method.html"].count('display="block"') == written > 15
    assert [name for name, page in pages.items() if "arithmatex" in page or "$$" in page] == []


def test_the_reference_has_every_public_name(pages):
    places = [f"asic3d.{asic3d._HOMES[name]}.{name}" for name in asic3d.__all__]
    assert [place for place in places if f'id="{place}"' not in pages["reference.html"]] == []
    assert ":func:" not in pages["reference.html"] and ":class:" not in pages["reference.html"]


def test_equations_and_pictures_show_in_a_browser(site, browser):
    browser.open(site / "method.html")
    equations = "[...document.querySelectorAll('.equation math')]"
    sizes = browser.evaluate(f"{equations}.map(equation => equation.getBoundingClientRect().height)")
    assert min(sizes) > 15
    assert browser.evaluate("getComputedStyle(document.querySelector('mfrac')).display").endswith("math")
    assert [address for address in browser.addresses() if not address.startswith(("file:", "data:"))] == []
    browser.open(site / "tour.html")
    assert browser.evaluate("[...document.querySelectorAll('article img')].every(i => i.naturalWidth > 300)")
    assert browser.complaints() == []
    browser.evaluate("document.querySelector('[data-md-component=search-query]').focus()")
    for letter in "cuda":
        browser.key(letter)
    found = "document.querySelectorAll('.md-search-result__item').length"
    browser.evaluate(f"new Promise(done => setInterval(() => {found} && done(), 50))")
    assert browser.evaluate("document.querySelector('.md-search-result__list').innerText").count("CUDA") > 2
