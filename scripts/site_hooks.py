"""What mkdocs calls while it builds the site, so that a page needs nothing from the network when it is read."""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.utils import get_relative_url

_EQUATION = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.S)
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):(?=<code>)")
_SHIM = "https://unpkg.com/iframe-worker/shim"
"""What Material's offline plugin lets pages fetch; docs/search_worker.js takes its place."""


def on_page_content(content: str, **_: object) -> str:
    r"""A page's HTML with its equations as MathML, which browsers draw without a script, and without docstrings' roles.

    Args:
        content: equations are elements of the class ``arithmatex``, LaTeX between ``\(`` and ``\)`` or between ``\[``
            and ``\]``.
    """
    return _ROLE.sub("", _EQUATION.sub(_drawn, content))


def on_post_page(output: str, page: Any, **_: object) -> str:
    """A page as it is written, with our own script for the search."""
    return output.replace(_SHIM, get_relative_url("search_worker.js", page.url))


def on_post_template(output_content: str, **_: object) -> str:
    """The same of the page for addresses that lead nowhere, which is read at any depth."""
    return output_content.replace(_SHIM, "/search_worker.js")


def _drawn(found: re.Match[str]) -> str:
    kind, text = found[1], html.unescape(found[2]).strip()
    mathml = convert(text[2:-2].strip(), display="block" if kind == "div" else "inline")
    return f'<div class="equation">{mathml}</div>' if kind == "div" else mathml
