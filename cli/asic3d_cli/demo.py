"""``asic3d demo``: photos that are rendered here, aligned, and compared with the truth."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import WholeNumber, config_options, output_options, settings
from asic3d_cli.runs import FOLDER

if TYPE_CHECKING:
    from asic3d import Alignment, AlignmentConfig
    from asic3d.rendering import RenderedCollection

_CYCLES = 60


@click.command(
    cls=Command,
    notes=settings(),
    examples=(
        ("asic3d demo", "Write asic3d_demo; look at asic3d_demo/report.html afterwards."),
        ("asic3d demo -o other --photos 12 --seed 3", "Other photos, and more of them."),
    ),
)
@click.option("-o", "--output", "run", default=Path("asic3d_demo"), metavar="RUN", type=FOLDER,
              help="Run folder. [default: asic3d_demo]")  # fmt: skip
@click.option("--photos", "count", type=WholeNumber(2, 40), default=8, show_default=True, metavar="N",
              help="How many photos to render.")  # fmt: skip
@config_options
@click.option("--overwrite", is_flag=True, help="Replace a finished demo.")
@output_options
@click.pass_obj
def demo(console: Console, run: Path, count: int, config: "AlignmentConfig", overwrite: bool) -> None:
    """Render photos of a toy in changing places, align them, and compare with the truth.

    Needs no photos and no network: the embedded backbone is used where none is named. The photos, their
    true masks, keypoints and cameras are kept in RUN/collection.
    """
    from asic3d.backbones import EMBEDDED
    from asic3d.config import Progress
    from asic3d.rendering import render_collection
    from asic3d.verdict import STAGES
    from asic3d_cli.scores import METHODS, score_table, scores
    from asic3d_cli.summary import run_as_json, show_run
    from asic3d_integrations.keypoint_sets import load_keypoint_set
    from asic3d_integrations.run_making import align_folder, prepared

    if config.backbone == "auto" and not config.weights:  # the demo shall be the same everywhere, and fetch nothing
        config = replace(config, backbone=EMBEDDED)
    labels = {"rendering": "Rendering the photos", **STAGES, **METHODS}
    with prepared(run, overwrite=overwrite), console.progress(labels) as progress:
        rendered = render_collection(count, config.seed)
        rendered.save(run / "collection")
        progress(Progress("rendering", 1, 1))
        truth = load_keypoint_set(run / "collection")
        alignment, seconds = align_folder(truth.photo_folder, run, config, progress)
        figures = scores(alignment, truth, progress, cycles=_CYCLES, seed=config.seed)
    overlap = _mask_overlap(alignment, rendered)
    if console.as_json:
        console.emit({**run_as_json(alignment, run, seconds), "truth": {"methods": figures, "mask_iou": overlap}})
        return
    show_run(console, alignment, run, seconds)
    console.show("", "Compared with the truth, which only rendered photos have:", "", score_table(figures))
    console.show("", f"Masks: {100 * overlap:.1f} percent overlap (IoU) with the true ones, mean over the photos.")


def _mask_overlap(alignment: "Alignment", rendered: "RenderedCollection") -> float:
    """Mean IoU of the masks with the true ones."""
    from asic3d.metrics import mask_iou

    pairs = zip(rendered.names, rendered.photos, strict=True)
    return sum(mask_iou(alignment.mask(name) > 127, photo.mask) for name, photo in pairs) / len(rendered)
