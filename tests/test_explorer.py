"""The explorer's page, in a real browser: its answers are the library's, and people can use it."""

import base64
import json
import re
import shutil
import zlib
from dataclasses import replace
from urllib.parse import quote

import cv2
import numpy as np
import pytest
import torch
from planted_alignment import RADII, SIZES, picture, plant, to_canonical

from asic3d.collection import Collection, Photo
from asic3d.errors import StorageError
from asic3d_integrations import explorer, explorer_maps, sampled_matches
from asic3d_integrations.explorer import explorer_page, is_made_from, read_tracks, stamp_of

HOSTILE = ("<b>bold</b>.jpg", "quotes'\"&amp; <script>alert(1)</script>.jpg", "süß ñ+%41 #2.jpg")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Three photos with hostile names, and a page of them with tracks."""
    alignment = plant(tmp_path_factory.mktemp("planted") / "photos", HOSTILE)
    tracks = np.array(
        [[7, 0, 40, 30], [7, 2, 44, 38], [70000, 0, 50, 30], [70000, 1, 37, 50], [70000, 2, 59, 38]], float
    )
    page = alignment.collection.root.parent / "page.html"
    page.write_bytes(explorer_page(alignment, tracks, stamp="0" * 64))
    return alignment, page


@pytest.fixture(scope="module")
def real(toy, tmp_path_factory):
    """A page of six rendered photos that were aligned, and its maps in Python."""
    page = tmp_path_factory.mktemp("toy") / "page.html"
    page.write_bytes(explorer_page(toy.alignment))
    samples = explorer_maps.sample_photos(toy.alignment)
    return toy.alignment, page, [explorer_maps.map_photo(toy.alignment, samples, i) for i in range(len(samples))]


def looked_up(browser, source: int, points) -> np.ndarray:
    """(n, N, 4) answers of the page; NaN for the photo itself, and for all photos beside the object."""
    photos = browser.evaluate("facts.photos.length")
    code = f"{json.dumps([[float(x), float(y)] for x, y in points])}.map(p => asic3d.lookup({source}, ...p))"
    answers = np.full((len(points), photos, 4), np.nan)
    for row, found in zip(answers, browser.evaluate(code), strict=True):
        for target, answer in enumerate(found or []):
            if answer:
                row[target] = [answer[name] for name in ("x", "y", "confidence", "cycle")]
    return answers


def centre_of(browser, tile: str) -> tuple[float, float]:
    """The middle of a photo, by its number, or of the plane, in the window."""
    code = f"document.querySelector('[data-photo=\"{tile}\"] .photo').getBoundingClientRect().toJSON()"
    box = browser.evaluate(code)
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def text(browser, selector: str) -> str:
    return browser.evaluate(f"document.querySelector('{selector}').textContent")


def inked(browser, tile: str) -> np.ndarray:
    """(h, w) bool: where something is drawn over a photo."""
    code = f"""(() => {{
        const canvas = document.querySelector('[data-photo="{tile}"] canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const alpha = Array.from(pixels).filter((_, i) => i % 4 == 3).map(value => String.fromCharCode(value));
        return [canvas.height, canvas.width, btoa(alpha.join(''))];
    }})()"""
    height, width, alpha = browser.evaluate(code)
    return np.frombuffer(base64.b64decode(alpha), np.uint8).reshape(height, width) > 0


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_at_samples_the_page_answers_what_the_library_does(browser, real):
    alignment, page, maps = real
    browser.open(page)
    rng = np.random.default_rng(0)
    for source in (0, 3):
        points = maps[source].samples.points
        points = points[rng.choice(len(points), 40, replace=False)]
        found = looked_up(browser, source, points)
        assert np.isnan(found[:, source]).all()
        # A sample whose four answers lie together is read off the bilinear mean, to within the last digits of a number.
        for target in set(range(len(maps))) - {source}:
            wanted = alignment.transfer(points, source=alignment.names[source], target=alignment.names[target])
            step = max(alignment.sizes[target]) / explorer_maps.STEPS
            assert np.abs(found[:, target, :2] - wanted.points.numpy()).max() <= 0.5 * step + 1e-6
            assert np.abs(found[:, target, 2] - wanted.confidence.numpy()).max() <= 0.5 / 255 + 1e-6
            most = 1.5 * max(alignment.sizes[source])
            roots = [
                np.sqrt(np.clip(error, 0, most) / most) for error in (found[:, target, 3], wanted.cycle_error.numpy())
            ]
            assert np.abs(roots[0] - roots[1]).max() <= 0.5 / 255 + 1e-6


def test_between_samples_the_page_follows_the_rule(browser, real):
    alignment, page, maps = real
    browser.open(page)
    points = np.random.default_rng(1).uniform([-0.5, -0.5], np.array(alignment.sizes[1]) - 0.5, (150, 2))
    found = looked_up(browser, 1, points)
    kinds = set()
    for row, (x, y) in zip(found, points, strict=True):
        expected = explorer_maps.look_up(maps[1], alignment.sizes, x, y)
        kinds.add(expected is None)
        if expected is None:
            assert np.isnan(row).all()
        else:
            others = [target for target in range(len(maps)) if target != 1]
            assert np.abs(row[others] - expected[others]).max() < 1e-9
    assert kinds == {True, False}


def test_answers_between_samples_are_interpolated_where_they_lie_together(planted):
    alignment, _ = planted
    samples = explorer_maps.sample_photos(alignment)
    one = explorer_maps.map_photo(alignment, samples, 0)
    for place in ([0.0, 0.0], [0.31, -0.27]):
        x, y = np.array(place) * RADII[0] + (40, 30)
        found = explorer_maps.look_up(one, SIZES, x, y)
        truth = np.array(place) * RADII[1] + (28, 50)
        assert np.abs(found[1, :2] - truth).max() < 0.01  # the maps are linear; a sample is 1.3 pixels from the next


def test_the_nearest_answer_is_taken_where_answers_jump():
    def asked(shape, x, kept=((0, 0), (0, 1), (1, 0), (1, 1))):
        inside = np.zeros(shape, bool)
        inside[tuple(np.transpose(kept))] = True
        count = len(kept)
        answers = np.zeros((2, 4, count), np.uint16)
        answers[1, 0] = explorer_maps.to_steps(np.array([0, 1, 0, 90.0])[:count], 100)
        answers[1, 2] = np.array([10, 20, 30, 40])[:count]
        samples = explorer_maps.Samples(shape[::-1], inside)
        one = explorer_maps.PhotoMap(samples, answers, np.zeros((2, count), np.uint16), np.zeros(count, np.uint16))
        return explorer_maps.look_up(one, [shape[::-1], (10, 100)], x, 0.6)

    # With 2 samples across a photo, 90 of 100 pixels are less than CLOSE sample widths; with 16 they are more.
    assert asked((2, 2), 0.6)[1, 0] == pytest.approx(0.24 * 1 + 0.36 * 90, abs=0.01)
    assert asked((2, 16), 0.6)[1] == pytest.approx([90, -101.5 + 1, 40 / 255, 0], abs=0.01)
    beside = asked((2, 16), 0.8, kept=((0, 0), (0, 1), (1, 0)))  # the nearest is not on the object: the next one
    assert beside[1, 2] == 20 / 255
    assert asked((2, 16), 9.0) is None


def test_steps_are_as_fine_as_is_said():
    pixels = np.random.default_rng(2).uniform(-4000, 7000, 1000)
    there = explorer_maps.from_steps(explorer_maps.to_steps(pixels, 4000), 4000)
    assert np.abs(there - pixels).max() <= 4000 / explorer_maps.STEPS / 2 + 1e-9
    errors = np.random.default_rng(3).uniform(0, 5000, 1000)
    steps = explorer_maps.cycle_to_steps(errors, 4000)
    back = explorer_maps.cycle_from_steps(steps, 4000)
    assert np.abs(back - errors).max() < 6000 / 255 and steps.max() <= 255
    assert abs(explorer_maps.cycle_from_steps(explorer_maps.cycle_to_steps(np.array(4.0), 4000), 4000) - 4) < 0.8


def test_packed_numbers_come_back():
    values = np.random.default_rng(4).integers(0, 65536, (5, 77)).astype(np.uint16)
    planes = np.frombuffer(zlib.decompress(base64.b64decode(explorer_maps.packed(values))), np.uint8).astype(int)
    folded = (planes[: planes.size // 2] | planes[planes.size // 2 :] << 8).reshape(5, 77)
    assert np.array_equal(np.cumsum((folded >> 1) ^ -(folded & 1), 1) & 65535, values)


# ---- the page --------------------------------------------------------------------------------------------------------


def test_pointing_marks_the_same_place_everywhere(browser, planted):
    _, page = planted
    browser.open(page)
    x, y = centre_of(browser, "0")
    browser.mouse("Moved", x, y)
    browser.settle()
    assert browser.complaints() == []
    assert text(browser, "#where") == f"1 · {HOSTILE[0]}"
    assert text(browser, '[data-photo="1"] .answer') == "0.90 · ↺ 0.0 px"
    assert text(browser, "#found") == "Sure in 2, likely in 0, a guess in 0 of 2 photos."
    point = np.array([47.5, 35.5])
    for photo in (1, 2):
        place = to_canonical(point, 0) * RADII[photo] + ((28, 50), (44, 38))[photo - 1]
        ink = inked(browser, str(photo))
        at = np.rint((place + 0.5) * ink.shape[1] / SIZES[photo][0]).astype(int)
        assert ink[at[1], at[0]] and 0.0005 < ink.mean() < 0.2
    assert inked(browser, "plane").any()
    browser.key("Escape")
    browser.settle()
    assert not any(inked(browser, tile).any() for tile in ("0", "1", "2", "plane"))


def test_the_canonical_picture_is_linked_both_ways(browser, planted):
    alignment, page = planted
    browser.open(page)
    grid = alignment.canonical_grid
    for place in ([0.0, 0.0], [0.4, -0.3], [-0.5, 0.45]):
        cell = grid.place(np.array([place], np.float32))[0]
        for photo, centre in enumerate(((40, 30), (28, 50), (44, 38))):
            pixel = np.array(place) * RADII[photo] + centre
            found = browser.evaluate(f"asic3d.placeOf({photo}, {pixel[0]}, {pixel[1]})")
            assert np.hypot(found["x"] - cell[0], found["y"] - cell[1]) < 0.02 * grid.resolution
            back = browser.evaluate(f"asic3d.locate({photo}, {cell[0]}, {cell[1]})")
            assert np.hypot(back["x"] - pixel[0], back["y"] - pixel[1]) < 0.1 * RADII[photo]
    assert browser.evaluate(f"asic3d.locate(0, {3 * grid.resolution}, 0)") is None
    browser.mouse("Moved", *centre_of(browser, "plane"))
    browser.settle()
    assert all(inked(browser, str(photo)).any() for photo in range(3))
    assert text(browser, "#where") == "A place of the object"


def test_a_box_and_a_stroke_show_their_region_everywhere(browser, planted):
    _, page = planted
    for key in ("b", "d"):
        browser.open(page)
        browser.key(key)
        x, y = centre_of(browser, "2")
        scale = browser.evaluate("tileOf(2).width") / SIZES[2][0]
        x, y = x + 5 * scale, y - 1 * scale  # the disc's middle is at (44, 38) of 80 x 80
        browser.mouse("Pressed", x - 12 * scale, y - 12 * scale, held=True)
        browser.mouse("Moved", x + 12 * scale, y + 12 * scale, held=True)
        browser.mouse("Released", x + 12 * scale, y + 12 * scale)
        browser.settle()
        for photo, centre in ((0, (40, 30)), (1, (28, 50))):
            ink = inked(browser, str(photo))
            rows, columns = np.nonzero(ink)
            unit = ink.shape[1] / SIZES[photo][0] * RADII[photo]  # canvas pixels of the disc's radius
            middle = (np.array(centre) + 0.5) * ink.shape[1] / SIZES[photo][0]
            assert abs(columns.mean() - middle[0]) < 0.12 * unit and abs(rows.mean() - middle[1]) < 0.12 * unit
            share = ink.sum() / unit**2
            stroke = (24 * 2**0.5 * 4.8 + np.pi * 2.4**2) / 30**2  # 4.8 pixels wide, with round ends
            expected = 0.8**2 if key == "b" else stroke
            assert 0.7 * expected < share < 1.5 * expected
        assert text(browser, '[data-photo="0"] .answer') == "0.90"
        browser.key("Escape")
        browser.settle()
        assert not inked(browser, "0").any()


def test_keys_alone_are_enough(browser, planted):
    _, page = planted
    browser.open(page)
    browser.evaluate("document.querySelector('#photos').focus()")
    browser.key("Tab")
    browser.settle()
    assert text(browser, "#where") == f"1 · {HOSTILE[0]}"
    before = browser.evaluate("[point.x, point.y]")
    browser.key("ArrowRight")
    browser.key("ArrowDown")
    after = browser.evaluate("[point.x, point.y]")
    assert np.allclose(np.subtract(after, before), 96 / 128)
    browser.key("Tab")  # the point goes along
    browser.settle()
    assert text(browser, "#where") == f"2 · {HOSTILE[1]}"
    moved = browser.evaluate("[point.x, point.y]")
    assert np.allclose(to_canonical(np.array(moved), 1), to_canonical(np.array(after), 0), atol=0.02)
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.key("ArrowRight", shift=True)
    browser.key("ArrowDown", shift=True)
    browser.settle()
    assert text(browser, "#where") == f"A region of 2 · {HOSTILE[1]}" and inked(browser, "0").any()
    browser.key("?")
    assert browser.evaluate("document.getElementById('help').open && document.activeElement.textContent") == "Close"
    browser.key("Escape")
    assert browser.evaluate("document.getElementById('help').open") is False
    browser.key("3")
    assert browser.evaluate("document.documentElement.dataset.layer") == "parts"
    assert browser.evaluate("tiles.slice(1).every(tile => tile.layer.src.startsWith('data:image/webp'))")


def test_a_link_restores_its_point(browser, planted):
    _, page = planted
    browser.open(page, f"photo={quote(HOSTILE[2])}&x=44&y=38")
    assert text(browser, "#where") == f"3 · {HOSTILE[2]}"
    assert browser.evaluate("[point.source, point.x, point.y, kept]") == [2, 44, 38, True]
    assert inked(browser, "0").any()
    browser.mouse("Moved", *centre_of(browser, "1"))  # a kept point stays
    browser.settle()
    assert text(browser, "#where") == f"3 · {HOSTILE[2]}"
    browser.evaluate("navigator.clipboard.writeText = async text => { window.copied = text }")
    browser.evaluate("document.getElementById('copy').click()")
    browser.settle()
    copied = browser.evaluate("window.copied")
    assert text(browser, "#notice") == "The link to this point is copied."
    browser.open(page, copied.split("#")[1])
    assert browser.evaluate("[point.source, point.x, point.y]") == [2, 44, 38]
    for photo, name in enumerate(HOSTILE):
        link = browser.evaluate(f"linkTo({{source: {photo}, x: 12.34, y: 5}})")
        browser.open(page, link[1:])
        assert browser.evaluate("[point.source, point.x, point.y]") == [photo, 12.3, 5]


def test_links_that_lead_nowhere(browser, planted):
    _, page = planted
    browser.open(page, "photo=%3Cimg%20src%3Dx%3E&x=1&y=2")
    assert text(browser, "#notice") == "The link is to a photo that is not here: <img src=x>"
    browser.open(page, f"photo={quote(HOSTILE[0])}&x=1")
    assert text(browser, "#notice") == "The link names no point: x and y are missing."
    browser.open(page, f"photo={quote(HOSTILE[0])}&x=1e9&y=-5")  # the photo's edge is the nearest there is
    assert browser.evaluate("[point.x, point.y]") == [95.5, -0.5]


def test_clicking_keeps_the_point_and_lets_it_go(browser, planted):
    _, page = planted
    browser.open(page)
    x, y = centre_of(browser, "0")
    for kept in (True, False):
        browser.mouse("Moved", x, y)
        browser.mouse("Pressed", x, y, held=True)
        browser.mouse("Released", x, y)
        assert browser.evaluate("kept") is kept
        assert ("photo=" in browser.evaluate("location.hash")) is kept


def test_the_track_of_a_point(browser, planted):
    _, page = planted
    browser.open(page, f"photo={quote(HOSTILE[0])}&x=49&y=30")
    assert text(browser, "#track") == "Track 70000: in 3 photos."
    assert browser.evaluate("tracks.byTrack.get(7).map(row => [row.photo, row.x, row.y])") == [
        [0, pytest.approx(40, abs=0.01), pytest.approx(30, abs=0.01)],
        [2, pytest.approx(44, abs=0.01), pytest.approx(38, abs=0.01)],
    ]
    browser.open(page, f"photo={quote(HOSTILE[0])}&x=45&y=40")
    assert text(browser, "#track") == ""


def test_names_are_shown_as_text(browser, planted):
    _, page = planted
    browser.open(page)
    assert browser.evaluate("[...document.querySelectorAll('#photos .name')].map(e => e.textContent)") == [
        f"{number} · {name}" for number, name in enumerate(HOSTILE, 1)
    ]
    assert browser.evaluate("document.querySelectorAll('b, script:not([type])').length") == 1
    labels = browser.evaluate("[...document.querySelectorAll('#photos .photo')].map(e => e.getAttribute('aria-label'))")
    assert labels == [f"Photo {number} · {name}" for number, name in enumerate(HOSTILE, 1)]
    assert "innerHTML" not in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["photo_01.jpg", "photo_02.jpg"], 3),
        (["IMG_1001.jpg", "IMG_2001.jpg"], 4),
        (["left/1.jpg", "right/1.jpg", "x"], 4),
        (["a/photograph.jpg", "b/photograph.jpg"], 12),
        (["same-name-in-another-format.jpg", "same-name-in-another-format.png"], 12),
    ],
)
def test_letters_that_tell_names_apart(names, count):
    assert explorer.telling(names) == count


def test_the_end_of_a_long_name_is_seen_beside_the_figures(browser, tmp_path):
    names = tuple(f"photograph_of_the_old_toy_{number:02}.jpg" for number in (1, 2, 3))
    page = tmp_path / "page.html"
    page.write_bytes(explorer_page(plant(tmp_path / "photos", names)))
    browser.open(page, f"photo={names[0]}&x=49&y=30", width=1000)
    for width in (128, 160, 240):
        browser.evaluate(f"document.querySelectorAll('#photos .tile').forEach(e => e.style.width = '{width}px')")
        browser.settle()
        seen = browser.evaluate("""[...document.querySelectorAll('#photos figcaption')].map(caption => {
            const [end, answer] = ['.end', '.answer'].map(s => caption.querySelector(s).getBoundingClientRect());
            return [caption.querySelector('.end').textContent, end.width > 5, end.right <= answer.left,
                    answer.right <= caption.getBoundingClientRect().right + 1];
        })""")
        assert seen == [[f"_{number:02}", True, True, True] for number in (1, 2, 3)]
    titles = browser.evaluate("[...document.querySelectorAll('#photos .name')].map(e => e.title)")
    assert titles == [f"{number} · {name}" for number, name in enumerate(names, 1)]


def test_the_page_asks_for_nothing_outside(browser, planted):
    _, page = planted
    browser.open(page)
    for key in "12345":
        browser.key(key)
    browser.settle()
    assert {address.split(":")[0] for address in browser.addresses()} <= {"file", "data", "blob"}
    assert [address for address in browser.addresses() if address.startswith("file")] == [page.resolve().as_uri()]
    source = page.read_text("utf-8")
    assert re.findall(r"(?:https?:)?//(?!www\.w3\.org/)[a-z0-9-]+\.[a-z]", re.sub(r"base64,[^\"]*", "", source)) == []
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', source)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "unsafe" not in policy
    assert browser.complaints() == []  # the policy has refused nothing of our own
    browser.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'hacked = 1'}))"
    )
    assert browser.evaluate("typeof hacked") == "undefined"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(browser, planted, scheme):
    _, page = planted
    browser.open(page, prefers_color_scheme=scheme)
    names = ("paper", "card", "ink", "quiet", "accent", "on-accent")
    code = "n => getComputedStyle(document.documentElement).getPropertyValue('--' + n)"
    colours = {name: luminance(browser.evaluate(f"({code})('{name}')").strip()) for name in names}
    pairs = [("ink", "paper"), ("ink", "card"), ("quiet", "paper"), ("quiet", "card"), ("on-accent", "accent")]
    for text_colour, back in pairs:
        low, high = sorted((colours[text_colour], colours[back]))
        assert (high + 0.05) / (low + 0.05) > 4.5  # WCAG AA


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    values = np.array(list(bytes.fromhex(digits))) / 255
    return float(
        np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    )


def test_a_narrow_window_holds_the_page(browser, planted):
    _, page = planted
    browser.open(page, width=400, height=800)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400
    widths = browser.evaluate("tiles.map(tile => tile.width)")
    assert min(widths) > 60


# ---- size, tracks, age -----------------------------------------------------------------------------------------------


def many(folder, count: int):
    """``count`` photos of 1600 x 1200, full of an object, with noise in them and in the answers."""
    rng = np.random.default_rng(5)
    planted = plant(folder)
    scene = cv2.resize(picture(0), (448, 336), interpolation=cv2.INTER_CUBIC)
    photos = []
    for index in range(count):
        pixels = np.clip(scene + rng.normal(0, 25, scene.shape), 0, 255).astype(np.uint8)
        photos.append(Photo(f"{index}.jpg", folder / "a.jpg", (1600, 1200), "0" * 64, pixels))
    repeated = {name: getattr(planted, name)[:1].repeat(count, 1, 1, *([1] * (name == "canonical"))) for name in
                ("canonical", "foreground", "confidence")}  # fmt: skip

    class Many(type(planted)):
        def mask(self, name):
            return np.full((1200, 1600), 255, np.uint8)

        def transfer(self, points, *, source, target):
            points = np.asarray(points) + rng.normal(0, 12, (len(points), 2))
            noise = torch.from_numpy(rng.uniform(0, 1, len(points)))
            return replace(plain, points=torch.from_numpy(points), confidence=noise, cycle_error=40 * noise)

        def part_map(self, name, mask):
            return np.where(mask > 127, 1, -1).astype(np.int8)

    plain = planted.transfer(np.zeros((1, 2)), source="a.jpg", target="b.jpg")
    return Many(Collection(folder, tuple(photos)), **repeated)


def test_thirty_photos_stay_below_15_megabytes(tmp_path):
    alignment = many(tmp_path / "photos", 30)
    samples = explorer_maps.sample_photos(alignment)
    assert 32 < samples[0].inside.shape[1] < explorer_maps.LONGEST  # coarser, because the objects are so large
    page = explorer_page(alignment)
    assert 8e6 < len(page) < 15e6


def test_of_too_many_photos_some_are_shown_with_their_tracks(browser, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "MOST_PHOTOS", 3)
    chosen = sampled_matches.spread_photos(toy.alignment, 3)
    assert [place // 2 for place in chosen] == [0, 1, 2]
    rows = np.array([[4, photo, 30 + photo, 40] for photo in range(6)], float)
    page = tmp_path / "page.html"
    page.write_bytes(explorer_page(toy.alignment, rows))
    assert rows[:, 1].tolist() == list(range(6))
    browser.open(page)
    assert text(browser, ".heading p").startswith("3 of 6 photos, from all over the collection")
    names = browser.evaluate("facts.photos.map(photo => photo.name)")
    assert names == [toy.alignment.names[place] for place in chosen]
    assert browser.evaluate("facts.trackPoints") == 3
    found = looked_up(browser, 0, [np.array(toy.alignment.sizes[chosen[0]]) / 2])
    wanted = toy.alignment.transfer([np.array(toy.alignment.sizes[chosen[0]]) / 2], source=names[0], target=names[2])
    assert np.abs(found[0, 2, :2] - wanted.points.numpy()).max() < 4


def test_a_reduced_mask_keeps_the_least_that_it_covers():
    mask = np.zeros((3000, 4000), np.uint8)
    mask[1500, 2000] = 255
    reduced = explorer_maps._reduced(mask)
    assert reduced.shape == (384, 512) and (reduced > 0).sum() == 1
    assert cv2.resize(reduced, (64, 48), interpolation=cv2.INTER_AREA).max() > 0


def tracks_file(path, **changes):
    arrays = {
        "track": np.array([0, 0, 5, 5, 5]),
        "photo": np.array([0, 1, 0, 1, 2]),
        "keypoint": np.array([0, 0, 1, 1, 0]),
        "xy": np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], np.float32),
        "names": np.array(["a.jpg", "gone.jpg", "b.jpg"]),
        "sizes": np.array([[96, 72], [10, 10], [60, 90]]),
    }
    np.savez(path, **{**arrays, **changes})
    return path


def test_tracks_are_read_for_the_photos_that_are_there(tmp_path, monkeypatch):
    path = tracks_file(tmp_path / "tracks.npz")
    rows = [[0, 0, 1, 2], [5, 0, 5, 6], [5, 1, 9, 10]]
    assert read_tracks(path, ("a.jpg", "b.jpg", "c.jpg"), SIZES).tolist() == rows
    monkeypatch.setattr(explorer, "MOST_TRACKS", 1)
    assert read_tracks(path, ("a.jpg", "b.jpg", "c.jpg"), SIZES).tolist() == rows[1:]


@pytest.mark.parametrize(
    "change",
    [
        {"track": np.zeros(4, int)},
        {"track": np.array([0, 0, 5, 5, 2**40])},
        {"photo": np.array([0, 1, 0, 1, 3])},
        {"photo": np.array([0, 1, 0, 1, -1])},
        {"xy": np.full((5, 2), np.nan)},
        {"names": np.array(["a.jpg"])},
        {"names": np.array([1, 2, 3])},
        {"sizes": np.array([[97, 72], [10, 10], [60, 90]])},
        {"track": np.array([None] * 5)},
    ],
)
def test_other_tracks_are_refused(tmp_path, change):
    path = tracks_file(tmp_path / "tracks.npz", **change)
    with pytest.raises(StorageError, match="is damaged, or of another run"):
        read_tracks(path, ("a.jpg", "b.jpg", "c.jpg"), SIZES)


def test_tracks_that_unpack_to_more_than_they_could_are_refused_before_that(tmp_path, monkeypatch):
    path = tracks_file(tmp_path / "tracks.npz")
    monkeypatch.setattr("asic3d_integrations.explorer._LARGEST", 100)
    with pytest.raises(StorageError, match="is damaged, or of another run"):
        read_tracks(path, ("a.jpg", "b.jpg", "c.jpg"), SIZES)


def test_a_page_knows_what_it_was_made_from(planted, tmp_path):
    _, page = planted
    assert is_made_from(page, "0" * 64) and not is_made_from(page, "1" * 64)
    assert not is_made_from(tmp_path / "none.html", "0" * 64)
    (tmp_path / "run.json").write_text("{}")
    stamps = {stamp_of(tmp_path)}
    (tmp_path / "colmap").mkdir()
    tracks_file(tmp_path / "colmap" / "tracks.npz")
    stamps.add(stamp_of(tmp_path))
    (tmp_path / "run.json").write_text("{ }")
    stamps.add(stamp_of(tmp_path))
    assert len(stamps) == 3 and all(re.fullmatch("[0-9a-f]{64}", stamp) for stamp in stamps)
    shutil.copy(page, tmp_path / "copy.html")
    assert is_made_from(tmp_path / "copy.html", "0" * 64)
