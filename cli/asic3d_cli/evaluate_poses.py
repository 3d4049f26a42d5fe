"""``asic3d evaluate poses``: a model of COLMAP beside true cameras."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import SEED, output_options
from asic3d_cli.runs import FOLDER, RUN, photos_option

if TYPE_CHECKING:
    from rich.console import Group

_NOTE = (
    "AUC@a: over all pairs of photos, in percent, the area under the recall curve up to a degrees of the larger of two "
    "errors, of the relative rotation and of the relative translation's direction; a pair counts as wrong where a "
    "photo is not registered. The medians are over the registered pairs, in degrees."
)


@click.command(
    cls=Command,
    examples=(
        ("asic3d evaluate poses --cameras cameras.json", "Compare asic3d_out/colmap/sparse/0 with the true cameras."),
        (
            "asic3d evaluate poses mug --cameras cameras.json --model other/sparse/0",
            "Another model of the same photos.",
        ),
    ),
)
@click.argument("run", type=FOLDER, default=RUN)
@click.option("--cameras", required=True, metavar="FILE", type=FOLDER, help="JSON file with the true cameras.")
@click.option("--model", metavar="DIR", type=FOLDER, help="Model of COLMAP. [default: RUN/colmap/sparse/0]")
@click.option("--shared-camera", is_flag=True, help="For COLMAP SIFT: one camera took all photos.")
@click.option("--seed", type=SEED, default=0, show_default=True, metavar="N", help="Of COLMAP's random samples.")
@photos_option
@output_options
@click.pass_obj
def poses(
    console: Console,
    run: Path,
    cameras: Path,
    model: Path | None,
    shared_camera: bool,
    seed: int,
    photo_folder: Path | None,
) -> None:
    """Compare the poses of a model with true ones, beside COLMAP's own SIFT.

    RUN is a run folder, asic3d_out where none is named. FILE holds {"images": [{"file", "K", "R", "t"}]}, x_cam = R X +
    t. COLMAP's SIFT, exhaustive matching and incremental mapping run on the same photos, for comparison.
    """
    import asic3d
    from asic3d.config import Progress
    from asic3d_integrations.colmap.exported import first_model, image_names
    from asic3d_integrations.colmap.models import map_by_sift, poses_of, read_model, score_model
    from asic3d_integrations.reference_cameras import load_cameras

    truth = load_cameras(cameras)
    folder = model or first_model(run)
    found = poses_of(read_model(folder))
    collection = asic3d.load_alignment(run, photos=photo_folder).collection
    truth = truth.of(collection.names)
    methods = {"model": score_model(found, image_names(run / "colmap", collection.names), truth)}
    with console.progress({"sift": "COLMAP's SIFT on the same photos"}) as progress:
        progress(Progress("sift", 0, 1))
        by_sift = map_by_sift(collection, shared=shared_camera, seed=seed)
        progress(Progress("sift", 1, 1))
    methods["COLMAP SIFT"] = score_model(by_sift, collection.names, truth)
    if console.as_json:
        console.emit({"model": folder, "photos": len(collection), "methods": methods})
    else:
        console.result(_table(methods, len(collection)))


def _table(methods: dict[str, dict[str, float]], photos: int) -> "Group":
    """A row for each method, and what the figures mean."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("registered", "AUC@5", "AUC@10", "AUC@30", "rotation", "translation"):
        table.add_column(heading, justify="right")
    for method, row in methods.items():
        areas = [f"{100 * row[f'auc@{limit}']:.1f}" for limit in (5, 10, 30)]
        errors = [row["median_rotation"], row["median_translation"]]
        shown = ["–" if error != error else f"{error:.2f}" for error in errors]
        table.add_row(method, f"{row['registered']} of {photos}", *areas, *shown)
    return Group(table, "", _NOTE)
