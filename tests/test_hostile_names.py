"""Names of photos that are pieces of a page, in every page and in a real browser: they are shown, and do nothing."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from colmap_scene import model_of
from planted_alignment import plant

from asic3d.display import alignment_html
from asic3d_integrations.colmap.scene import scene_of
from asic3d_integrations.explorer import explorer_page
from asic3d_integrations.report import report_files
from asic3d_integrations.stages import stage_of_cameras, stage_of_plane

NAMES = (
    "<img src=x onerror=window.harmed=1>.jpg",
    "a</script></title></style><script>window.harmed=1<!--.jpg",
    "\"' onmouseover=window.harmed=1 autofocus onfocus='window.harmed=1' x=`${window.harmed=1}`.jpg",
)
WARNING = "<svg onload=window.harmed=1>\u2028</script><script>window.harmed=1</script>"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("photos") / NAMES[0], NAMES, warnings=(WARNING,), backbone=WARNING)


def report(alignment) -> bytes:
    return report_files(alignment)["report.html"]


def explorer(alignment) -> bytes:
    tracks = np.array([[7, 0, 40, 30], [7, 2, 44, 38]], float)
    return explorer_page(alignment, tracks, stamp="0" * 64)


def scene(alignment) -> bytes:
    pytest.importorskip("viser", reason="viser is not installed (extra viz)")
    from asic3d_integrations.scene_page import scene_page

    cameras = stage_of_cameras(scene_of(model_of()))
    shots = tuple(replace(shot, name=name) for shot, name in zip(cameras.shots, NAMES, strict=False))
    stages = (replace(cameras, shots=(*shots, *cameras.shots[len(shots) :])), stage_of_plane(alignment))
    return scene_page(stages, NAMES[0], stamp="a" * 64, explorer="explorer.html")


def notebook(alignment) -> bytes:
    class WithMasks(type(alignment)):  # the reduced ones that a real alignment has
        masks = property(lambda self: tuple(self.mask(name).astype(np.float32) / 255 for name in self.names))

    shown = alignment_html(WithMasks(**{one.name: getattr(alignment, one.name) for one in fields(alignment)}))
    return f"<!DOCTYPE html><meta charset=utf-8>{shown}".encode()


@pytest.mark.parametrize("make", [report, explorer, scene, notebook])
def test_a_name_does_nothing_in_a_page(browser, hostile, tmp_path, make):
    page: Path = tmp_path / "page.html"
    page.write_bytes(make(hostile))
    browser.open(page)
    browser.evaluate("document.querySelectorAll('*').forEach(one => { one.dispatchEvent(new Event('mouseover')) })")
    browser.settle()
    assert browser.evaluate("window.harmed") is None
    strangers = "[onerror], [onload], [onmouseover], [onfocus], img[src='x'], svg[onload]"
    assert browser.evaluate(f'document.querySelectorAll("{strangers}").length') == 0
    sent = [address for address in browser.addresses() if not address.startswith(("data:", "blob:"))]
    assert sent == [page.resolve().as_uri()]


def test_the_browser_would_notice(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8>{NAMES[0]}", encoding="utf-8")
    browser.open(page)
    assert browser.evaluate("window.harmed") == 1
