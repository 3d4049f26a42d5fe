"""One evaluation for every data set: align each category, score it and its baselines, tell the figures."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asic3d
from asic3d.baselines import BUDDIES, IDENTITY, NEAREST_NEIGHBOUR, baselines
from asic3d.config import AlignmentConfig, Progress, ProgressCallback
from asic3d_integrations.datasets.annotated import AnnotatedCollection, Reader, load_photos
from asic3d_integrations.datasets.cub import read_cub
from asic3d_integrations.datasets.pf_willow import read_pf_willow
from asic3d_integrations.datasets.published import MEAN, SOURCES, published_figures, published_mean
from asic3d_integrations.datasets.samurai import read_samurai
from asic3d_integrations.datasets.spair import read_spair
from asic3d_integrations.keypoint_sets import named_transfer
from asic3d_integrations.scoring import score_keypoints, score_returns

READERS: dict[str, Reader] = {
    "spair": read_spair,
    "cub": read_cub,
    "pf-willow": read_pf_willow,
    "samurai": read_samurai,
}
"""Name of a data set -> what reads it."""

ALIGNMENT = "asic3d"
METHODS = (IDENTITY, NEAREST_NEIGHBOUR, BUDDIES, ALIGNMENT)
LENGTHS = (2, 3, 4)
"""Photos in the cycles that are walked."""

FIGURES = (
    "pck@0.1",
    "pck@0.05",
    "pck@0.1_per_image",
    "pck@0.05_per_image",
    *(f"cycle{k}@0.1_{part}" for k in LENGTHS for part in ("hops", "return")),
)
"""Every figure that can be told, in order."""


@dataclass(frozen=True, eq=False)
class CategoryScores:
    """The figures of one category, or the mean of several.

    Attributes:
        name: of the category, or "mean".
        photos: how many photos.
        pairs: how many pairs PCK is measured on; 0 where nothing is annotated.
        methods: method -> figure -> value in [0, 1], and "points".
        published: what was published for ASIC, figure -> value in [0, 1]; empty where nothing is known.
        backbone: the network.
        warnings: what looked wrong in the alignment.
    """

    name: str
    photos: int
    pairs: int
    methods: dict[str, dict[str, float]]
    published: dict[str, float]
    backbone: str = ""
    warnings: tuple[str, ...] = ()


def evaluate_collection(
    annotated: AnnotatedCollection,
    config: AlignmentConfig,
    *,
    data_set: str = "",
    cache: Path | None = None,
    cycles: int = 1000,
    progress: ProgressCallback | None = None,
) -> CategoryScores:
    """Aligns the photos of a category without its annotation, and scores the alignment beside its baselines.

    Args:
        annotated: a category as a reader yields it.
        config: settings of the alignment; its seed is that of the sampled cycles too.
        data_set: a name in READERS, for the published figures.
        cache: folder where the photos' features are kept.
        cycles: cycles of each length to walk at most.
        progress: called with the stages of :func:`asic3d.align` and with each method of METHODS.

    Raises:
        CollectionError: a photo can't be read.
        AlignmentError: the photos can't be aligned.
    """
    collection = load_photos(annotated, progress)
    alignment = asic3d.align(collection, config, progress=progress, cache=cache)
    methods = {}
    for method, by_name in {**baselines(alignment), ALIGNMENT: alignment.transfer}.items():
        transfer = named_transfer(by_name, annotated.photo_names)
        points, extents = annotated.keypoints, annotated.extents
        options = {"lengths": LENGTHS, "cycles": cycles, "seed": config.seed}
        if annotated.pairs is None:
            methods[method] = score_returns(transfer, points, extents, **options)
        else:
            methods[method] = score_keypoints(transfer, annotated.pairs, points, extents, **options)
        if progress is not None:
            progress(Progress(method, 1, 1))
    return CategoryScores(
        name=annotated.name,
        photos=len(annotated),
        pairs=0 if annotated.pairs is None else len(annotated.pairs),
        methods=methods,
        published=published_figures(data_set, annotated.name),
        backbone=alignment.backbone,
        warnings=alignment.warnings,
    )


def mean_scores(scores: Sequence[CategoryScores], data_set: str = "") -> CategoryScores:
    """The mean over categories of each figure, categories weighing the same whatever their size.

    A figure that one of them has not is absent; "points", photos and pairs are sums.
    """
    methods = {}
    for method in scores[0].methods:
        rows = [score.methods[method] for score in scores]
        shared = [figure for figure in FIGURES if all(figure in row for row in rows)]
        methods[method] = {figure: sum(row[figure] for row in rows) / len(rows) for figure in shared}
        methods[method]["points"] = sum(row["points"] for row in rows)
    return CategoryScores(
        name=MEAN,
        photos=sum(score.photos for score in scores),
        pairs=sum(score.pairs for score in scores),
        methods=methods,
        published=published_mean(data_set, len(scores)),
        backbone=scores[0].backbone,
    )


def scores_as_json(data_set: str, scores: Sequence[CategoryScores]) -> dict[str, Any]:
    """All figures as JSON can hold them, in [0, 1]."""
    every = [*scores, mean_scores(scores, data_set)]
    categories = [
        {
            "name": score.name,
            "photos": score.photos,
            "pairs": score.pairs,
            "methods": score.methods,
            "asic_published": score.published,
            "warnings": list(score.warnings),
        }
        for score in every
    ]
    return {
        "data_set": data_set,
        "backbone": scores[0].backbone,
        "categories": categories[:-1],
        "mean": {key: value for key, value in categories[-1].items() if key not in ("name", "warnings")},
        "asic_published_source": SOURCES.get(data_set, ""),
    }


def scores_as_csv(data_set: str, scores: Sequence[CategoryScores]) -> bytes:
    """A table with a row for each category and method, figures in [0, 1], empty where there are none.

    ASIC's published figures stand in the columns ``asic_published_*`` of every row of their category.
    """
    every = [*scores, mean_scores(scores, data_set)]
    published = [name for name in FIGURES if any(name in score.published for score in every)]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    names = [f"asic_published_{name}" for name in published]
    rows.writerow(["data_set", "category", "photos", "pairs", "method", "points", *FIGURES, *names])
    for score in every:
        for method, row in score.methods.items():
            figures = [_short(row.get(name)) for name in FIGURES]
            others = [_short(score.published.get(name)) for name in published]
            start = [data_set, score.name, score.photos, score.pairs, method, row["points"]]
            rows.writerow([*start, *figures, *others])
    return text.getvalue().encode("utf-8")


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
