"""The page in 3-D, in a real browser: it shows what the stages hold and asks for nothing."""

import base64
import re
import sys
import time
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from colmap_scene import model_of, scene
from PIL import Image
from planted_alignment import plant

from asic3d.errors import MissingExtraError
from asic3d_integrations.colmap.scene import CAMERA, scene_of
from asic3d_integrations.explorer import is_made_from
from asic3d_integrations.scene_page import scene_page, stamp_of
from asic3d_integrations.stages import Shot, stage_of_cameras, stage_of_descriptors, stage_of_plane

HOSTILE = ("<b>bold</b>.jpg", "quotes'\"&amp; <script>alert(1)</script>.jpg", "a/süß ñ+%41 #2\udce9.jpg")
BLUE = (20, 40, 250)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Cameras with blue photos, a plane and descriptors; of photos with hostile names."""
    pytest.importorskip("viser", reason="viser is not installed (extra viz)")
    planted = plant(tmp_path_factory.mktemp("planted"))
    renamed = [replace(photo, name=name) for photo, name in zip(planted.collection, HOSTILE, strict=True)]
    planted = replace(planted, collection=replace(planted.collection, photos=tuple(renamed)))
    blue = np.full((30, 40, 3), BLUE, np.uint8)
    cameras = stage_of_cameras(scene_of(model_of()))
    shots = tuple(replace(shot, photo=blue) for shot in cameras.shots)
    shots = (*shots[:-1], Shot(HOSTILE[2], shots[-1].corners, None))
    return replace(cameras, shots=shots), stage_of_plane(planted), stage_of_descriptors(planted)


@pytest.fixture(scope="module")
def page(stages, tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.html"
    path.write_bytes(scene_page(stages, "<i>mug</i>", stamp="a" * 64, explorer="explorer.html"))
    return path


def held(page, key: str) -> bytes:
    """What the page holds of a stage, unpacked: a length, packed messages, and the arrays as they are."""
    zstandard = pytest.importorskip("zstandard")
    found = re.search(rf'data-stage="{key}" data-facts="[^"]*">([^<]*)</script>', page.read_text("utf-8"))
    return zstandard.ZstdDecompressor().decompressobj().decompress(base64.b64decode(found[1])[8:])


def seen(browser, path, wanted) -> np.ndarray:
    """(h, w, 3) int: the window, once a test of it holds; viser fades in, and slowly where there is no GPU."""
    for _ in range(60):
        browser.picture(path)
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        if wanted(pixels):
            break
        time.sleep(0.25)
    return pixels


def like(pixels: np.ndarray, colour) -> np.ndarray:
    return np.abs(pixels - np.array(colour)).max(-1) < 40


def complaints(browser) -> list[str]:
    """What the page complains about; not that the driver of a machine without GPU is slow."""
    return [text for text in browser.complaints() if "GL Driver Message" not in text]


def test_the_page_holds_the_stages_points_and_photos(page, stages):
    content = page.read_bytes()
    assert len(content) < 1_500_000
    for stage in stages:
        recorded = held(page, stage.key)
        assert all(cloud.points.tobytes() in recorded for cloud in stage.clouds)
        assert all(cloud.colours.tobytes() in recorded for cloud in stage.clouds)
    assert held(page, "cameras").count(b"\xff\xd8\xff") == 4  # JPEG; one camera has no photo
    assert is_made_from(page, "a" * 64) and not is_made_from(page, "b" * 64)


def test_the_page_names_no_address(page):
    text = re.sub(r"http://www\.w3\.org/2000/svg", "", page.read_text("utf-8"))
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']*)""", text) == ["explorer.html"]
    assert not re.search(r"https?://[a-z]", text)
    assert "default-src 'none'" in text


def test_cameras_points_and_photos_are_drawn(browser, page, tmp_path):
    browser.open(page)
    wanted = lambda pixels: like(pixels, BLUE).sum() > 500 and like(pixels, (255, 0, 0)).sum() > 200  # noqa: E731
    pixels = seen(browser, tmp_path / "window.png", wanted)
    assert wanted(pixels)
    assert like(pixels, CAMERA).sum() > 200
    assert complaints(browser) == []
    sent = [address for address in browser.addresses() if not address.startswith(("data:", "blob:"))]
    assert sent == [page.resolve().as_uri()]
    assert browser.evaluate("document.querySelector('#about h1').textContent") == "<i>mug</i>"
    assert browser.evaluate("document.querySelector('[aria-current]').textContent") == "Cameras"
    facts = browser.evaluate("document.querySelector('#about .facts').textContent")
    assert facts == f"5 cameras with their photos, and {len(scene()[2])} points that several photos show."


@pytest.mark.parametrize(("number", "key"), [(2, "plane"), (3, "descriptors")])
def test_a_key_changes_the_stage(browser, page, stages, tmp_path, number, key):
    browser.open(page)
    browser.key(str(number))
    for _ in range(100):
        if browser.evaluate("document.readyState == 'complete' && window.asic3d?.stage") == key:
            break
        time.sleep(0.2)
    browser.evaluate("asic3d.ready")
    stage = next(stage for stage in stages if stage.key == key)
    assert browser.evaluate("document.querySelector('[aria-current]').textContent") == stage.title
    assert browser.evaluate("document.querySelector('#about .facts').textContent") == stage.facts

    def colourful(pixels):
        return (np.ptp(pixels, axis=-1) > 60)[:, 400:].sum() > 3000

    assert colourful(seen(browser, tmp_path / "window.png", colourful))
    assert complaints(browser) == []


def test_photos_can_be_switched_off(browser, page, tmp_path):
    """T opens the list, and the eye beside the cameras hides them."""
    browser.open(page)
    seen(browser, tmp_path / "window.png", lambda pixels: like(pixels, BLUE).sum() > 500)
    browser.key("t")
    browser.settle()
    rows = browser.evaluate("document.querySelector('[data-playback-scene-tree]').innerText.split('\\n')")
    assert {"/points", "/cameras"} <= set(rows)
    code = """(() => {
      const list = document.querySelector('[data-playback-scene-tree]'), tree = list.getBoundingClientRect();
      const box = [...list.querySelectorAll('*')].find(e => e.textContent === '/cameras').getBoundingClientRect();
      return [tree.left + 29, box.top + box.height / 2];
    })()"""
    x, y = browser.evaluate(code)
    for kind, down in (("Moved", False), ("Pressed", True), ("Released", False)):
        browser.mouse(kind, x, y, held=down)
    gone = seen(browser, tmp_path / "window.png", lambda pixels: like(pixels, BLUE).sum() < 50)
    assert like(gone, BLUE).sum() < 50 and like(gone, (255, 0, 0)).sum() > 200


def test_names_are_text(browser, page):
    browser.open(page, "plane")
    assert browser.evaluate("document.querySelectorAll('i, b').length") == 0
    facts = re.findall(r'data-facts="([^"]*)"', page.read_text("utf-8"))
    assert len(facts) == 3 and all("<" not in unescape(text) for text in facts)


def test_making_a_page_prints_nothing(stages, capfd):
    scene_page(stages[:1], "mug")
    assert capfd.readouterr() == ("", "")


def test_without_viser(stages, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "viser", None)
    for make in (lambda: scene_page(stages, "mug"), lambda: stamp_of(tmp_path, None)):
        with pytest.raises(MissingExtraError, match=r"^The 3-D page needs viser: pip install viser\.$"):
            make()


def test_the_stamp_is_of_the_run_and_the_model(tmp_path):
    pytest.importorskip("viser", reason="viser is not installed (extra viz)")
    (tmp_path / "run.json").write_text("{}")
    model = tmp_path / "model"
    model.mkdir()
    stamps = [stamp_of(tmp_path, None), stamp_of(tmp_path, model)]
    model_of().write_binary(model)
    stamps.append(stamp_of(tmp_path, model))
    (tmp_path / "run.json").write_text("{ }")
    stamps.append(stamp_of(tmp_path, model))
    assert stamp_of(tmp_path, model) == stamps[-1] and len(set(stamps)) == 4
