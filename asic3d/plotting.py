"""Figures of matplotlib, one call each: an alignment, points in two photos, a whole photo in another."""

from typing import TYPE_CHECKING, Any

import numpy as np

from asic3d.display import dense_pictures, ends, hues, known_photos, spread
from asic3d.extras import load_extra
from asic3d.pictures import overview_picture
from asic3d.verdict import GUESS, in_words, photo_levels, standing, verdict

if TYPE_CHECKING:
    from asic3d import Alignment, Correspondences, DenseMap

_SIDE = 480  # pixels of a photo's longer side


def plot_alignment(alignment: "Alignment") -> np.ndarray:
    """Every photo's object, cut out and coloured by its place on the object, with its quality in a word.

    Returns:
        (N,) axes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plt = _pyplot()
    count = len(alignment.names)
    columns = max(1, round((count / 2) ** 0.5 + 0.49))
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.4 * rows + 0.4), squeeze=False)
    levels = photo_levels(alignment)
    for axes in grid.flat:
        axes.axis("off")
    for index, axes in enumerate(grid.flat[:count]):
        axes.imshow(overview_picture(alignment, index, _SIDE))
        words = ", ".join(in_words(standing(alignment, index), levels[index]))
        axes.set_title(f"{_plain(alignment.names[index])}: {words}", fontsize=9, parse_math=False)
    word, sentence = verdict(alignment)
    figure.suptitle(f"{word}: {_plain(sentence)}", fontsize=10, wrap=True, parse_math=False)
    figure.tight_layout()
    return grid.reshape(-1)[:count]


def plot_correspondences(found: "Correspondences", most: int = 30) -> np.ndarray:
    """Both photos, with lines between the points; guesses are rings on broken lines.

    Args:
        found: as an alignment's methods return it.
        most: points that are drawn, spread over all.

    Returns:
        (2,) axes, in original pixels of the source and the target.

    Raises:
        MissingExtraError: matplotlib is not installed.
        AlignmentError: the photos are not known.
    """
    plt = _pyplot()
    from matplotlib.patches import ConnectionPatch

    photos = known_photos(found)
    figure, pair = plt.subplots(1, 2, figsize=(10, 5))
    for axes, photo in zip(pair, photos, strict=True):
        width, height = photo.size
        axes.imshow(photo.pixels, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axes.set_title(_plain(photo.name), fontsize=10, parse_math=False)
        axes.autoscale(False)
    drawn = spread(len(found), most)
    start, end = (points[drawn] for points in ends(found))
    colours = [tuple(value / 255 for value in colour) for colour in hues(start)]
    for one, other, colour, sure in zip(start, end, colours, found.confidence.numpy()[drawn], strict=True):
        trusted = bool(sure >= GUESS)
        face = colour if trusted else "none"
        for axes, (x, y) in zip(pair, (one, other), strict=True):
            axes.plot(x, y, "o", markersize=7, markerfacecolor=face, markeredgecolor="white" if trusted else colour)
        line = "-" if trusted else ":"
        figure.add_artist(
            ConnectionPatch(
                tuple(one), tuple(other), "data", "data", axesA=pair[0], axesB=pair[1], color=colour, linestyle=line
            )
        )
    figure.tight_layout()
    return pair


def plot_dense(dense: "DenseMap") -> np.ndarray:
    """The source, the target laid onto it, and the confidence with its scale.

    Returns:
        (3,) axes, in original pixels of the source.

    Raises:
        MissingExtraError: matplotlib is not installed.
        AlignmentError: the photos are not known.
    """
    plt = _pyplot()
    source, target = known_photos(dense)
    photo, laid, _, _ = dense_pictures(dense, _SIDE)
    figure, row = plt.subplots(1, 3, figsize=(13, 4))
    titles = _plain(source.name), f"{_plain(target.name)}, laid onto it", "confidence"
    width, height = dense.size
    options: dict[str, Any] = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5)}
    row[0].imshow(photo, **options)
    row[1].imshow(laid, **options)
    shown = row[2].imshow(dense.confidence.numpy(), vmin=0, vmax=1, cmap="cividis", **options)
    for axes, title in zip(row, titles, strict=True):
        axes.set_title(title, fontsize=10, parse_math=False)
    figure.colorbar(shown, ax=row[2], shrink=0.8)
    figure.tight_layout()
    return row


def _plain(words: str) -> str:
    """Without characters that no font shows."""
    return words if words.isprintable() else ascii(words)


def _pyplot() -> Any:
    return load_extra("matplotlib.pyplot", "Plots need matplotlib", "matplotlib")
