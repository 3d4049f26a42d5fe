"""What notebooks show: HTML and matplotlib figures of alignments, points and dense maps."""

import base64
import io
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from planted_alignment import CENTRES, RADII, plant

from asic3d.correspondences import Correspondences
from asic3d.display import alignment_html, matches_picture
from asic3d.errors import AlignmentError, MissingExtraError
from asic3d.pictures import carried_picture
from asic3d.plotting import plot_alignment

ROOT = Path(__file__).parents[1]


@pytest.fixture
def figures():
    """matplotlib without a display; figures are closed afterwards."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def planted(folder, **changes):
    """With the reduced masks that a real alignment has."""

    class WithMasks(type(plant(folder))):
        @property
        def masks(self):
            return tuple(self.mask(name).astype(np.float32) / 255 for name in self.names)

    alignment = plant(folder, **changes)
    return WithMasks(**vars(alignment))


def pictures_of(html: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


def some_points(toy) -> Correspondences:
    first, second = toy.alignment.names[:2]
    return toy.alignment.transfer(toy.pair(first, second)[0], source=first, target=second)


# ---- HTML ----------------------------------------------------------------------------------------------------------


def test_an_alignment_shows_its_verdict_photos_and_figures(toy):
    html = toy.alignment._repr_html_()
    assert f"<b>{len(toy.alignment.names)} photos, aligned</b> with efficientnet-lite0" in html
    assert all(name in html for name in toy.alignment.names)
    assert all(label in html for label in ("Confidence", "Agreement of pairs", "Support"))
    pictures = pictures_of(html)
    assert len(pictures) == len(toy.alignment.names)
    for picture in pictures:
        height, width = picture.shape[:2]
        assert width % 2 == 0 and max(height, width // 2) == 130
    assert not re.search(r"<script|<style|https?:|onerror", html)


def test_the_cut_out_is_the_mask(toy):
    names = toy.alignment.names
    for picture, name in zip(pictures_of(toy.alignment._repr_html_()), names, strict=True):
        left = picture[:, : picture.shape[1] // 2].astype(int)
        mask = np.asarray(Image.fromarray(toy.alignment.mask(name)).resize(left.shape[1::-1])) > 127
        beside = np.abs(left - 238).max(2) < 25
        assert (beside == ~mask).mean() > 0.9


def test_names_can_do_no_harm(tmp_path):
    alignment = planted(
        tmp_path, names=("<img src=x onerror=alert(1)>.jpg", "b&\"'.jpg", "c\udcff\n.jpg"), warnings=("<b>bold</b>",)
    )
    html = alignment_html(alignment)
    assert "<img src=x" not in html and "&lt;img src=x onerror=alert(1)&gt;.jpg" in html
    assert "b&amp;&quot;&#x27;.jpg" in html
    assert "c\\udcff\\n.jpg" in html
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    html.encode("utf-8")


def test_points_show_both_photos_and_a_table(toy):
    found = some_points(toy)
    html = found._repr_html_()
    first, second = toy.alignment.names[:2]
    assert f"<b>{len(found)} points</b> of {first} in {second}" in html
    (picture,) = pictures_of(html)
    assert picture.shape[1] > 340
    rows = re.findall(r"<tr>((?:<td>[^<]*</td>)+)</tr>", html)
    cells = [re.findall(r"<td>([^<]*)</td>", row) for row in rows]
    assert len(cells) == min(10, len(found))
    start = toy.pair(first, second)[0]
    assert [float(cell) for cell in cells[0][1:3]] == pytest.approx(start[0].tolist(), abs=0.05)
    assert [float(cell) for cell in cells[0][3:5]] == pytest.approx(found.points[0].tolist(), abs=0.05)
    assert float(cells[0][5]) == pytest.approx(float(found.confidence[0]), abs=0.005)


def test_marks_lie_on_the_points(toy):
    first, second = toy.alignment.names[:2]
    plain = toy.alignment.transfer([], source=first, target=second)
    one = toy.alignment.transfer(toy.pair(first, second)[0][:1], source=first, target=second)
    changed = np.abs(matches_picture(one, 240).astype(int) - matches_picture(plain, 240)).max(2) > 0
    width = toy.alignment.sizes[0][0]
    (x, y), (x2, y2) = one.start[0].round().int().tolist(), one.points[0].round().int().tolist()
    assert changed[y, x - 6 : x + 7].all() and changed[y2, width + 10 + x2 - 6 : width + 10 + x2 + 7].all()


def test_many_and_no_points(toy):
    first, second = toy.alignment.names[:2]
    points = np.stack(np.meshgrid(np.arange(50, 90, 4), np.arange(50, 90, 4)), -1).reshape(-1, 2)
    html = toy.alignment.transfer(points, source=first, target=second)._repr_html_()
    assert "<b>100 points</b>" in html and "30 of them are drawn" in html and "and 90 more points" in html
    html = toy.alignment.transfer([], source=first, target=second)._repr_html_()
    assert "<b>0 points</b>" in html and "<table" not in html


def test_points_without_photos_are_a_table():
    points = torch.tensor([[1.0, 2.0]])
    html = Correspondences(points, torch.tensor([0.5]), torch.tensor([0.25]))._repr_html_()
    assert "<img" not in html and "<b>1 point</b>" in html and "<td>0.50</td>" in html


def test_a_dense_map_shows_the_target_on_the_source(toy):
    first, second = toy.alignment.names[:2]
    html = toy.alignment.dense(first, second)._repr_html_()
    assert len(pictures_of(html)) == 4 and f"{second}, laid onto {first}" in html


def test_the_target_is_carried_where_it_belongs(tmp_path):
    alignment = plant(tmp_path)
    dense = alignment.dense("a.jpg", "b.jpg")
    carried = carried_picture(dense, alignment.collection["b.jpg"]).astype(int)
    own = alignment.collection["a.jpg"].pixels.astype(int)
    y, x = np.indices(own.shape[:2])
    inside = np.hypot(x - CENTRES[0][0], y - CENTRES[0][1]) < 0.9 * RADII[0]
    assert np.abs(carried[..., :3] - own)[inside].mean() < 8  # the disc's waves are the same in all photos
    assert (carried[..., 3][inside] == 255).all() and carried[0, 0, 3] < 50


def test_a_dense_map_without_photos(tmp_path):
    dense = plant(tmp_path).dense("a.jpg", "b.jpg")
    assert dense._repr_html_().count("<img") == 0
    with pytest.raises(AlignmentError, match="do not know their photos"):
        dense.plot()


def test_answers_print_without_their_photos(toy):
    assert "Photo" not in repr(some_points(toy)) and "photos" not in repr(toy.alignment.dense(*toy.alignment.names[:2]))


# ---- matplotlib ----------------------------------------------------------------------------------------------------


def test_an_alignment_is_plotted(figures, toy):
    axes = toy.alignment.plot()
    assert [one.get_title().split(":")[0] for one in axes] == list(toy.alignment.names)
    assert all(len(one.images) == 1 for one in axes)
    assert "fit" in axes[0].figure.get_suptitle()


def test_points_are_plotted_in_pixels(figures, toy):
    found = some_points(toy)
    axes = found.plot(most=5)
    for one, wanted in zip(axes, (found.start, found.points), strict=True):
        drawn = [line.get_xydata()[0] for line in one.lines]
        assert len(drawn) == 5
        assert np.abs(np.array(drawn)[0] - wanted[0].numpy()).max() < 1e-9
    assert [one.get_title() for one in axes] == list(toy.alignment.names[:2])
    width, height = toy.alignment.sizes[0]
    assert axes[0].get_xlim() == (-0.5, width - 0.5) and axes[0].get_ylim() == (height - 0.5, -0.5)
    assert len(axes[0].figure.artists) == 5


def test_a_dense_map_is_plotted(figures, toy):
    axes = toy.alignment.dense(*toy.alignment.names[:2]).plot()
    assert len(axes) == 3 and axes[2].get_title() == "confidence"


def test_names_are_no_formulas(figures, tmp_path):
    alignment = planted(tmp_path, names=("$x$.jpg", "b$.jpg", "c.jpg"))
    axes = plot_alignment(alignment)
    axes[0].figure.canvas.draw()
    assert not axes[0].title.get_parse_math()


def test_without_matplotlib(monkeypatch, toy):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingExtraError, match=r"^Plots need matplotlib: pip install matplotlib\.$"):
        toy.alignment.plot()


# ---- a notebook ----------------------------------------------------------------------------------------------------


def test_a_notebook_shows_all_of_it(toy, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    toy.alignment.save(tmp_path / "run")
    first, second = toy.alignment.names[:2]
    points = toy.pair(first, second)[0].tolist()
    cells = [
        f"import asic3d\nalignment = asic3d.load_alignment({str(tmp_path / 'run')!r})\nalignment",
        f"alignment.transfer({points}, source={first!r}, target={second!r})",
        f"alignment.dense({first!r}, {second!r})",
        f"_ = alignment.transfer({points}, source={first!r}, target={second!r}).plot()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    path = os.pathsep.join(str(ROOT / part) for part in (".", "cli", "integrations"))
    monkeypatch.setenv("PYTHONPATH", path)
    for folder in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(folder, str(tmp_path / folder))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    data = [cell.outputs[-1]["data"] for cell in notebook.cells]
    assert [pictures_of(one["text/html"]) != [] for one in data[:3]] == [True] * 3
    assert "image/png" in data[3]


def test_a_display_is_told_by_pythons_own_rules(toy):
    formatters = pytest.importorskip("IPython.core.formatters")
    html = formatters.HTMLFormatter()
    assert html(some_points(toy)) == some_points(toy)._repr_html_()
    assert "aligned</b>" in html(replace(toy.alignment, warnings=("Look.",)))
