import colorsys
import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from planted_alignment import RADII, SIZES, canonical_of_pixels, picture, plant, to_canonical

from asic3d import pictures, verdict
from asic3d.config import make_config
from asic3d.errors import StorageError
from asic3d.judgement import UNRELATED, standing_warnings
from asic3d_integrations import report, report_sections
from asic3d_integrations.report import write_report
from asic3d_integrations.sampled_matches import sample_matches

HOSTILE = "sub folder/<script>alert(1)<&'\"$version é.jpg"
VOID = {"meta", "img", "br"}


@pytest.fixture
def planted(tmp_path):
    return plant(tmp_path / "photos")


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order, and its attributes are kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def coloured(alignment, photo: int, mask: np.ndarray) -> np.ndarray:
    paint = pictures.paint_picture(alignment, photo, SIZES[photo], 1.0)
    return pictures.colour_picture(alignment, photo, mask, paint, 1.0)


def page_of(alignment, folder) -> tuple[Page, str]:
    text = write_report(alignment, folder).read_text("utf-8")
    return Page(text), text


# ---- colours -------------------------------------------------------------------------------------------------------


def test_colours_tell_places_apart_and_agree_on_the_same_place():
    line = np.linspace(-1, 1, 9)
    places = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    places = places[np.hypot(*places.T) <= 1.01]
    colours = pictures.canonical_colours(places, 1.0) * 255
    assert np.array_equal(colours, pictures.canonical_colours(places, 1.0) * 255)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1e9 * np.eye(len(places))
    assert distance.min() > 8


def test_colours_are_vivid_at_the_rim_and_pale_in_the_centre():
    angles = np.linspace(0, 2 * np.pi, 60)
    rim = pictures.canonical_colours(np.stack([np.cos(angles), np.sin(angles)], -1), 1.0)
    saturation = [colorsys.rgb_to_hsv(*colour)[1] for colour in rim]
    centre = pictures.canonical_colours(np.zeros(2), 1.0)
    assert min(saturation) > 0.3
    assert np.ptp(centre) < 0.02 and centre.min() > 0.8


def test_black_numbers_are_readable_on_every_colour():
    line = np.linspace(-2, 2, 41)
    colours = pictures.canonical_colours(np.stack(np.meshgrid(line, line), -1), 1.0)
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert ((luminance + 0.05) / 0.05).min() > 4.5  # WCAG AA


def test_values_of_the_grid_are_read_at_the_pixels_they_belong_to(planted):
    for photo, size in enumerate(SIZES):
        found = pictures.at_pixels(planted.canonical[photo], size)
        truth = canonical_of_pixels(photo)
        inner = np.hypot(*truth.transpose(2, 0, 1)) < 1
        assert np.abs(found - truth)[inner].max() < 1e-4


def test_a_part_has_the_same_colour_in_every_photo(planted):
    place = np.array([0.37, -0.41])  # in the canonical plane
    seen = []
    for photo, name in enumerate(planted.names):
        colours = coloured(planted, photo, planted.mask(name))
        x, y = np.rint(place * RADII[photo] + np.array(((40, 30), (28, 50), (44, 38))[photo])).astype(int)
        exact = pictures.canonical_colours(to_canonical(np.array([x, y]), photo), 1.0) * 255
        assert np.abs(colours[y, x, :3] - exact).max() <= 1  # between the lines of the grid the colour is pure
        seen.append(colours[y, x, :3].astype(int))
    assert np.ptp(seen, axis=0).max() < 14  # the nearest pixel is up to half a pixel off


def test_colours_end_at_the_mask_and_fade_with_confidence(planted):
    doubtful = replace(planted, confidence=planted.confidence * 0.3)
    mask = planted.mask("a.jpg")
    sure, unsure = (coloured(a, 0, mask)[..., 3] for a in (planted, doubtful))
    assert (sure[mask == 0] == 0).all()
    assert (sure[30, 40], unsure[30, 40]) == (242, 114)


def test_lines_lie_at_equal_places_of_the_plane(planted):
    mask = np.full((72, 96), 255, np.uint8)
    plain = pictures.canonical_colours(pictures.at_pixels(planted.canonical[0], (96, 72)), 1.0)
    lines = coloured(planted, 0, mask)[..., :3] / 255 - plain
    assert lines[30, 35].max() > 0.05 and lines[30, 45].max() > 0.05  # x = -0.25 and 0.25
    assert np.abs(lines[32, 37]).max() < 0.01  # between lines, in both directions


def test_outline_encloses_the_mask_with_its_holes():
    mask = np.zeros((60, 80), np.uint8)
    cv2.circle(mask, (40, 30), 22, 255, -1)
    cv2.circle(mask, (40, 30), 8, 0, -1)
    path = pictures.outline(mask)
    drawn = np.zeros_like(mask)
    loops = [np.array(re.findall(r"[\d.]+", part), float).reshape(-1, 2) - 0.5 for part in path.split("Z") if part]
    cv2.fillPoly(drawn, [np.rint(loop).astype(np.int32) for loop in loops], 255)  # even-odd, as the page fills it
    assert len(loops) == 2
    assert (drawn != mask).mean() < 0.03


def test_outline_of_nothing_is_empty():
    assert pictures.outline(np.zeros((5, 5), np.uint8)) == ""


def test_a_part_has_its_colour_on_the_object_alone(planted):
    mask = planted.mask("a.jpg")
    painted = pictures.parts_picture(planted, 0, mask)
    left, right = painted[30, 30], painted[30, 50]
    assert (left[:3] == pictures.PART_COLOURS[0]).all() and (right[:3] == pictures.PART_COLOURS[1]).all()
    assert ((painted[..., 3] > 0) == (mask > 0)).all()


def test_colour_blind_people_can_tell_the_parts_apart():
    linear = (pictures.PART_COLOURS / 255) ** 2.2
    for red_green in ((0.625, 0.7), (0.567, 0.558)):  # strongest mixtures of red and green in common simulations
        red = linear[:, 0] * red_green[0] + linear[:, 1] * (1 - red_green[0])
        green = linear[:, 0] * red_green[1] + linear[:, 1] * (1 - red_green[1])
        seen = np.stack([red, green, linear[:, 2] * 0.7 + linear[:, 1] * 0.3], 1) ** (1 / 2.2)
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(8)
        assert distance.min() > 0.08


# ---- points --------------------------------------------------------------------------------------------------------


def test_sampled_points_are_on_the_object_spread_and_followed_exactly(planted):
    samples = sample_matches(planted, count=12)
    for source in range(3):
        points = samples.points[source]
        canonical = [to_canonical(points[photo].astype(float), photo) for photo in range(3)]
        assert points.shape == (3, 12, 2)
        assert (np.hypot(*canonical[source].T) <= 1).all()
        assert np.abs(canonical[0] - canonical[1]).max() < 1e-5 and np.abs(canonical[0] - canonical[2]).max() < 1e-5
        apart = np.linalg.norm(canonical[0][:, None] - canonical[0][None], axis=-1) + 9 * np.eye(12)
        assert apart.min() > 0.3  # twelve discs of radius 0.15 in a disc of radius 1 are not crowded
        assert (samples.confidence[source][source] == 1).all()


def test_pair_confidence_is_the_mean_over_points(planted):
    table = sample_matches(planted, count=10).pair_confidence()
    assert np.isnan(np.diagonal(table)).all()
    assert np.allclose(table[~np.eye(3, dtype=bool)], 0.9)


def test_reference_is_the_photo_that_the_others_confirm(planted):
    samples = sample_matches(planted, count=5)
    samples.confidence[0][1:] = 0.2
    samples.confidence[1][[0, 2]] = 0.3
    assert samples.reference() == 2


def test_a_photo_without_object_still_gives_points(planted):
    nothing = replace(planted, foreground=planted.foreground * 0)
    assert [points.shape[1] > 0 for points in sample_matches(nothing, count=6).points] == [True] * 3


def test_of_many_photos_the_best_of_every_stretch_is_followed(planted):
    confidence = planted.confidence * torch.tensor([0.5, 0.9, 0.7]).reshape(3, 1, 1)
    samples = sample_matches(replace(planted, confidence=confidence), count=4, most=2)
    assert samples.sources == (1, 2)  # of the first two photos and of the last
    assert [points.shape for points in samples.points] == [(3, 4, 2)] * 2
    sure = samples.of(2)[1]
    assert (sure[2] == 1).all() and np.allclose(sure[:2], 0.9)
    assert np.isnan(samples.pair_confidence()).tolist() == [[False, True, False], [False, False, True]]
    samples.confidence[0][:] = 0.3
    assert samples.reference() == 2


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fits", "level", "sentence"),
    [
        ((0.9, 0.8, 0.7), "good", "All 3 photos fit together."),
        ((0.9, 0.8, 0.35), "good", "All 3 photos fit together, “c.jpg” loosely."),
        (
            (0.3, 0.3, 0.7),
            "fair",
            "All 3 photos fit together, though loosely: check the points below before relying on them.",
        ),
        ((0.9, 0.1, 0.9), "fair", "2 of 3 photos fit together; “b.jpg” hardly fits the others."),
        ((0.9, 0.9, 0.3), "fair", "2 of 3 photos fit together; “c.jpg” hardly fits the others."),  # not as the others
        ((0.1, 0.1, 0.9), "poor", "Only 1 of 3 photos fit together; the points below are mostly guesses."),
    ],
)
def test_verdict(planted, fits, level, sentence):
    confidence = torch.tensor(fits).reshape(3, 1, 1).expand_as(planted.confidence)
    assert verdict.verdict(replace(planted, confidence=confidence)) == (level, sentence)


@pytest.mark.parametrize(("count", "start"), [(2, "Both photos fit together."), (3, "All 3 photos fit together.")])
def test_a_verdict_counts_as_people_do(planted, count, start):
    photos = replace(planted.collection, photos=planted.collection.photos[:count])
    few = replace(
        planted, collection=photos, confidence=planted.confidence[:count], foreground=planted.foreground[:count]
    )
    assert verdict.verdict(few)[1] == start


def changed(planted, *pixels):
    """The alignment with the pixels of its photos exchanged."""
    photos = (replace(photo, pixels=new) for photo, new in zip(planted.collection.photos, pixels, strict=True))
    figures = {"confidence": 0.9, "matches_per_pair": 400.0}
    return replace(planted, collection=replace(planted.collection, photos=tuple(photos)), quality=figures)


def flat(*colour):
    return np.full((90, 120, 3), colour, np.uint8)


def noise(seed, size=(300, 400, 3)):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def untrained(planted):
    """A network that has hardly learned: its map agrees with itself, the matches do not agree with it."""
    figures = {"confidence": 0.9, "weakest_photo": 0.9, "pair_agreement": 1.0, "agreeing_matches": 0.2}
    return replace(planted, config=make_config("paper"), quality={**figures, "matches_per_pair": 300.0})


def test_a_network_that_is_not_trained_has_no_good_figures_of_its_map(planted):
    levels = {figure.label: figure.level for figure in verdict.quality_figures(untrained(planted))}
    assert levels == {
        "Confidence": "poor",
        "Weakest photo": "poor",
        "Agreement of pairs": "poor",
        "Matches that agree": "poor",
        "Matches per pair": "good",
    }
    assert verdict.photo_levels(untrained(planted)) == ("poor",) * 3
    assert verdict.photo_levels(replace(untrained(planted), config=planted.config)) == ("good",) * 3


def test_of_few_photos_it_is_not_sure_that_they_show_nothing_in_common(planted, monkeypatch):
    unrelated = replace(planted, quality={"support": 0.0001})
    level, sentence = verdict.verdict(unrelated)
    assert level == "poor" and sentence.endswith(" Of so few photos that is easily wrong: more of them tell it better.")
    monkeypatch.setattr(verdict, "_FEW", 3)
    assert verdict.verdict(unrelated)[1].endswith("what was found in common is mostly chance.")


def test_doubts_about_answers(planted):
    assert verdict.doubts(planted, planted.names) == ()
    (sentence,) = verdict.doubts(untrained(planted), ())
    assert sentence.startswith("Only 20% of the matches agree with the trained map")
    (sentence,) = verdict.doubts(replace(planted, quality={"support": 0.0001}), ())
    assert sentence.startswith("These photos do not seem to show one thing")
    strange = replace(planted, outliers=("c.jpg",))
    assert verdict.doubts(strange, ["a.jpg", "c.jpg"]) == (
        "Points of or in 'c.jpg' are guesses: it seems to show something else.",
    )
    assert verdict.doubts(strange, ["a.jpg", "b.jpg"]) == ()


def test_a_photo_of_something_else_is_not_painted_by_part(planted, tmp_path):
    text = page_of(replace(planted, outliers=("c.jpg",)), tmp_path)[1]
    assert text.count("painted by part of the object") == 2
    assert 'aria-label="Photo 3 · c.jpg, not painted"' in text


@pytest.mark.parametrize(
    "pixels",
    [
        [flat(7, 7, 7)] * 3,
        [flat(200, 30, 30), flat(30, 200, 30), flat(250, 250, 0)],
        [picture(0)] * 3,
        [noise(0), noise(1), noise(2)],
        [noise(0, (1000, 800, 3)), noise(1, (600, 1024, 3)), noise(2, (64, 64, 3))],
        [picture(0), flat(0, 0, 0), noise(1)],  # nothing to compare the one photo with
    ],
    ids=["grey", "colours", "same", "noise", "noise of other sizes", "one photo left"],
)
def test_photos_that_show_nothing_are_no_success(planted, pixels):
    empty = changed(planted, *pixels)
    assert verdict.verdict(empty) == (
        "poor",
        "These photos are all the same picture, or without shapes: there is nothing to compare in them.",
    )
    assert {figure.level for figure in verdict.quality_figures(empty)} == {"poor"}
    assert set(verdict.photo_levels(empty)) == {"poor"}


def test_a_photo_without_shapes_is_no_success_among_others(planted):
    mixed = changed(planted, picture(0), picture(1), noise(0))
    assert verdict.photo_levels(mixed) == ("good", "good", "poor")
    assert verdict.verdict(mixed) == ("fair", "2 of 3 photos fit together; “c.jpg” hardly fits the others.")
    assert {figure.level for figure in verdict.quality_figures(mixed)} == {"good"}


def captions(alignment, folder) -> list[list[str]]:
    """What stands below each photo of the report's first overview, without its name."""
    text = page_of(alignment, folder)[1]
    overview = text.split('class="rows pairs"')[1].split("</ol>")[0]
    found = [re.findall(r'<span class="(?:tag|fit \w+)">([^<]*)</span>', item) for item in overview.split("</li>")]
    return [words for words in found if words]


def test_of_many_photos_those_that_fit_least_come_first(planted, tmp_path, monkeypatch):
    confidence = planted.confidence * torch.tensor([1.0, 0.7, 0.4])[:, None, None]
    alignment = replace(planted, confidence=confidence, outliers=("b.jpg",))

    def order(folder):
        text = page_of(alignment, folder)[1]
        overview = text.split('class="rows pairs"')[1].split("</ol>")[0]
        return re.findall(r'class="name">\d · ([^<]*)<', overview), "The photos that fit least come first." in text

    assert order(tmp_path / "few") == (["a.jpg", "b.jpg", "c.jpg"], False)
    monkeypatch.setattr(report_sections, "_WEAKEST", 2)
    assert order(tmp_path / "many") == (["b.jpg", "c.jpg", "a.jpg"], True)


def test_captions_say_how_a_photo_stands(planted, tmp_path):
    fits = ["fits well"]
    assert captions(planted, tmp_path / "a") == [fits] * 3
    first = replace(planted, turns=(1, 3, 2), mirrored=(False, True, False))
    assert captions(first, tmp_path / "b") == [
        ["turned by 90 degrees to the left", *fits],
        ["turned by 90 degrees to the right, mirrored", *fits],
        ["turned by 180 degrees", *fits],
    ]


def test_another_thing_does_not_fit_however_confident_it_looks(planted, tmp_path):
    strange = replace(planted, mirrored=(False, True, True), turns=(0, 0, 1), outliers=(planted.names[2],))
    assert captions(strange, tmp_path) == [["fits well"], ["mirrored", "fits well"], ["shows something else"]]
    assert verdict.photo_levels(strange) == ("good", "good", "poor")


def test_fit_of_a_photo_is_its_confidence_on_the_object(planted):
    assert verdict.photo_fits(planted) == pytest.approx((0.95, 0.95, 0.95))


def test_figures_are_judged_and_explained(planted):
    judged = [
        verdict.quality_figures(replace(planted, quality={name: value}))[0]
        for name, value in (
            ("confidence", 0.5),
            ("confidence", 0.3),
            ("agreeing_matches", 0.5),
            ("matches_per_pair", 250.4),
        )
    ]
    assert [(figure.text, figure.level) for figure in judged] == [
        ("0.50", "good"),
        ("0.30", "fair"),
        ("50.0%", "poor"),
        ("250", "good"),
    ]
    assert all(figure.meaning.endswith(".") for figure in judged)


def test_figures_without_a_meaning_are_shown_all_the_same(planted):
    assert verdict.quality_figures(planted) == (verdict.Figure("Planted figure", "0.812", "", ""),)


# ---- the page ------------------------------------------------------------------------------------------------------


def test_page_is_well_formed_and_needs_nothing_from_outside(planted, tmp_path):
    page, text = page_of(planted, tmp_path / "run")
    outside = [
        (tag, name, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action") and not value.startswith(("data:image/", "#"))
    ]
    assert outside == []
    assert re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]+\.", text) == []
    assert "url(" not in text.replace("url(#object-", "")
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_page_can_be_read_without_seeing_it(planted, tmp_path):
    page, _ = page_of(planted, tmp_path / "run")
    assert [a for a in page.all("img") if not a.get("alt")] == []
    drawings = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert len(drawings) == 7 * 3 and all(a["role"] == "img" and a["aria-label"] for a in drawings)
    assert next(iter(page.all("html")))["lang"] == "en"
    labels = {a["aria-labelledby"] for a in page.all("section") if "aria-labelledby" in a}
    assert labels and labels <= {a.get("id") for a in page.all("h2")}


def test_ids_are_unique_and_every_reference_leads_somewhere(planted, tmp_path):
    page, text = page_of(planted, tmp_path / "run")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    used = {attributes["href"][1:] for attributes in page.all("use")} | set(re.findall(r"url\(#([\w-]+)\)", text))
    assert len(ids) == len(set(ids))
    assert used and used <= set(ids)


def test_names_and_texts_are_escaped(tmp_path):
    names = (HOSTILE, "b.jpg", "c.jpg")
    hostile = plant(tmp_path / "<b>photos", names, warnings=("<img src=x onerror=alert(1)>",), backbone="<i>net</i>")
    page, text = page_of(hostile, tmp_path / "run")
    assert text.count("<script") == 2 and "<script>alert" not in text and "<img src=x" not in text
    assert "<b>" not in text and "<i>" not in text
    assert page.texts["h1"] == ["<b>photos"]
    assert f"1 · {HOSTILE}" in page.texts["span"]
    assert f"{html.escape(HOSTILE)}" in text  # and $version in it was not filled in


def test_names_that_are_not_unicode_do_not_cost_the_report(tmp_path):
    planted = plant(tmp_path / "photos")
    photos = tuple(replace(photo, name=photo.name.replace("a", "\udce4")) for photo in planted.collection.photos)
    odd = replace(planted, collection=replace(planted.collection, photos=photos))
    assert "1 · ?.jpg" in page_of(odd, tmp_path / "run")[0].texts["span"]


@pytest.mark.parametrize("where", ["no photo", "one photo", "no cell is sure"])
def test_a_report_is_made_where_no_object_was_found(planted, tmp_path, where):
    nothing = torch.tensor([0.0, 1.0, 1.0] if where == "one photo" else [0.0, 0.0, 0.0])[:, None, None]

    class Nothing(type(planted)):
        def mask(self, name):
            index = self.collection.index(name)
            return super().mask(name) * np.uint8(where == "no cell is sure" or nothing[index, 0, 0])

    objects = planted.foreground if where == "no cell is sure" else planted.foreground * nothing
    bare = Nothing(planted.collection, planted.canonical, objects, planted.confidence * nothing)
    page, _ = page_of(bare, tmp_path / "run")
    assert len([a for a in page.all("svg") if a.get("aria-hidden") != "true"]) == 7 * 3
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {
        "canonical.png", "colours.jpg", "distortion.png", "masks.jpg", "parts.jpg", "points.jpg",
    }  # fmt: skip


def test_points_of_the_script_are_those_of_the_alignment(planted, tmp_path):
    _, text = page_of(planted, tmp_path / "run")
    data = json.loads(re.search(r'<script type="application/json" id="matches">(.*?)</script>', text, re.S)[1])
    assert data["names"] == ["1 · a.jpg", "2 · b.jpg", "3 · c.jpg"]
    for source in range(3):
        places = [np.array(flat, float).reshape(-1, 3) for flat in data["points"][source]]
        assert len(places[0]) == len(data["colours"][source]) > 60
        canonical = [to_canonical(place[:, :2] - 0.5, photo) for photo, place in enumerate(places)]
        rounding = sum(0.71 / radius for radius in RADII[:2])
        assert np.linalg.norm(canonical[0] - canonical[1], axis=1).max() < rounding
        assert set(places[source][:, 2]) == {100} and set(places[source - 1][:, 2]) == {90}


@pytest.fixture
def of_many(planted, tmp_path, monkeypatch):
    """The page of three photos, as if they were too many."""
    monkeypatch.setattr(report, "_MANY", 2)
    monkeypatch.setattr(report, "SOURCES", 2)
    confidence = planted.confidence * torch.tensor([0.5, 0.9, 0.7]).reshape(3, 1, 1)
    return write_report(replace(planted, confidence=confidence), tmp_path / "run")


def test_the_page_of_many_photos_follows_some_of_them_and_says_so(of_many):
    text = of_many.read_text("utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="matches">(.*?)</script>', text, re.S)[1])
    assert (data["sources"], data["reference"]) == ([1, 2], 1)
    assert [len(photos) for photos in data["points"]] == [3, 3]
    assert "Of these 3 photos, points of 2 were followed into all others" in text
    table = re.search(r'<table class="matrix">.*?</table>', text, re.S)[0]
    heads = re.findall(r"<th [^>]*>(.*?)</th>", table)
    assert heads[:2] == ["2", "3"] and sorted(heads[2:]) == ["1 · a.jpg", "2 · b.jpg", "3 · c.jpg"]


def test_in_a_photo_of_many_the_reference_photos_points_are_pointed_at(of_many, browser):
    browser.open(of_many)
    browser.evaluate("document.querySelector('svg[data-photo=\"0\"]').scrollIntoView() ?? 0")
    box = browser.evaluate("document.querySelector('svg[data-photo=\"0\"]').getBoundingClientRect().toJSON()")
    browser.mouse("Moved", box["x"] + 0.45 * box["width"], box["y"] + 0.45 * box["height"])
    browser.settle()
    said = browser.evaluate("document.getElementById('status').textContent")
    assert said == "A point of photo 2 · b.jpg: found with confidence in 2 of 2 others."
    circles = browser.evaluate(
        "[...document.querySelectorAll('.live circle')].map(one => [+one.getAttribute('cx'), +one.getAttribute('cy')])"
    )
    places = [to_canonical(np.array(circle) - 0.5, photo) for photo, circle in enumerate(circles)]
    assert len(places) == 3 and np.ptp(places, axis=0).max() < 2 * 0.71 / min(RADII)
    assert browser.complaints() == []


def test_numbered_points_carry_their_confidence(planted, tmp_path):
    def unsure(points, *, source, target, exact=planted.transfer):
        found = exact(points, source=source, target=target)
        return replace(found, confidence=torch.where(torch.arange(len(points)) == 1, 0.15, 0.9))

    class Unsure(type(planted)):
        transfer = staticmethod(unsure)

    alignment = Unsure(planted.collection, planted.canonical, planted.foreground, planted.confidence)
    _, text = page_of(alignment, tmp_path / "run")
    assert text.count('class="mark guess"') == 2 and text.count('class="mark sure"') == 34
    assert text.count("point 2, confidence 15 of 100") == 2
    assert "Photo 2 · b.jpg: 11 of 12 points found with confidence" in text


def test_page_tells_figures_time_warnings_and_settings(tmp_path):
    told = plant(tmp_path / "photos", warnings=("The first warning.", "The first warning.", "Another."))
    page, text = page_of(told, tmp_path / "run")
    assert page.texts["li"][:2] == ["The first warning.", "Another."]
    assert "Planted figure" in page.texts["dt"] and "0.812" in page.texts["span"]
    assert "3 photos · planted · aligned in 2.0 s on cpu" in text
    assert "Reading the photos with the network" in page.texts["th"] and "1.5 s" in page.texts["td"]
    assert {"preset", "backbone", "seed"} <= set(page.texts["dt"])


def test_without_warnings_there_is_no_list_of_them(planted, tmp_path):
    page, _ = page_of(planted, tmp_path / "run")
    assert page.texts["p"].count("What to look at") == 0 and "What to look at" not in page.texts["h2"]


@pytest.mark.parametrize(("folder", "title"), [("mug", "mug"), ("mug/images", "mug"), ("mug/photos", "mug")])
def test_page_is_called_after_the_photo_folder(tmp_path, folder, title):
    page, _ = page_of(plant(tmp_path / folder), tmp_path / "run")
    assert page.texts["h1"] == [title] and page.texts["title"][0] == f"{title} · asic3d report"


def test_pictures_are_written_as_files(planted, tmp_path):
    path = write_report(planted, tmp_path / "run")
    assert path == tmp_path / "run" / "report.html"
    for name in ("colours.jpg", "points.jpg", "masks.jpg", "parts.jpg", "canonical.png", "distortion.png"):
        with Image.open(tmp_path / "run" / "figures" / name) as sheet:
            assert sheet.format == ("JPEG" if name.endswith("jpg") else "PNG") and min(sheet.size) > 150


def test_the_page_shows_parts_and_the_canonical_picture(planted, tmp_path):
    page, text = page_of(planted, tmp_path / "run")
    grid = planted.canonical_grid
    assert f"a PSNR of {grid.psnr.mean():.1f} dB" in text
    assert f"{grid.psnr[1]:.1f} dB · {grid.psnr_matched[1]:.1f} dB in its light" in text
    assert text.count("painted by part of the object") == 3
    assert [part for part in ("Part 1", "Part 4", "Part 5") if part in text] == ["Part 1", "Part 4"]
    assert {"Angles changed", "Areas stretched or shrunk", "Where the photos disagree"} <= {
        image["alt"] for image in page.all("img")
    }


def test_many_parts_have_different_colours():
    colours = pictures.part_colours(24)
    assert len({tuple(colour) for colour in colours.tolist()}) == 24
    assert np.array_equal(colours[:8], pictures.PART_COLOURS)


def test_the_sheet_of_parts_explains_its_colours(planted, tmp_path):
    write_report(planted, tmp_path / "run")
    with Image.open(tmp_path / "run" / "figures" / "parts.jpg") as sheet:
        key = np.asarray(sheet)[-30:].reshape(-1, 3).astype(int)
    shown = [(np.abs(key - colour).max(1) < 12).sum() > 150 for colour in pictures.PART_COLOURS[:7].astype(int)]
    assert shown == [True] * 4 + [False] * 3


def test_mask_sheet_shows_the_object_on_grey(planted, tmp_path):
    write_report(planted, tmp_path / "run")
    with Image.open(tmp_path / "run" / "figures" / "masks.jpg") as sheet:
        pixels = np.asarray(sheet).astype(int)
    grey = (np.abs(pixels - 238) < 12).all(-1).mean()
    assert grey > 0.02  # where the backgrounds were, which are 60, 100 and 140 in the photos
    assert (np.abs(pixels - 100) < 6).all(-1).mean() < 0.001


def test_a_second_report_replaces_the_first(planted, tmp_path):
    write_report(planted, tmp_path / "run")
    write_report(replace(planted, warnings=("Now with a warning.",)), tmp_path / "run")
    assert "Now with a warning." in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == [
        "canonical_grid.safetensors",
        "figures",
        "report.html",
    ]


def test_a_place_that_cant_be_written_is_an_error(planted, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StorageError, match="can't be written"):
        write_report(planted, tmp_path / "run")


@pytest.mark.parametrize("change", ["no object", "no confidence", "one place"])
def test_hopeless_alignments_are_reported_too(planted, tmp_path, change):
    hopeless = {
        "no object": replace(planted, foreground=planted.foreground * 0),
        "no confidence": replace(planted, confidence=planted.confidence * 0),
        "one place": replace(planted, canonical=planted.canonical * 0),
    }[change]
    _, text = page_of(hopeless, tmp_path / "run")
    assert ('class="badge poor"' in text) == (change != "one place")
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower()


def test_how_photos_stand_is_not_said_of_photos_that_show_no_one_thing():
    def said(support: float) -> list[str]:
        return list(standing_warnings(["a.jpg", "b.jpg"], [1, 0], [False, True], {"support": support}))

    assert [sentence.split(" for ")[0] for sentence in said(1.01 * UNRELATED)] == ["Turned", "Mirrored"]
    assert said(0.99 * UNRELATED) == []


def test_of_unrelated_photos_no_figure_is_good(planted):
    chance = replace(planted, quality={**planted.quality, "support": 0.99 * UNRELATED})
    assert verdict.verdict(chance)[0] == "poor"
    assert set(verdict.photo_levels(chance)) == {"poor"}
    levels = {figure.level for figure in verdict.quality_figures(chance)}
    assert "poor" in levels and "good" not in levels
