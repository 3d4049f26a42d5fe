"""``asic3d evaluate``: how right an alignment is where the truth is known."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asic3d_cli.commands import Command, Group, help_alone
from asic3d_cli.console import Console
from asic3d_cli.evaluate_poses import poses
from asic3d_cli.evaluate_sets import set_command
from asic3d_cli.options import WholeNumber, config_options, output_options, settings
from asic3d_cli.runs import FOLDER

if TYPE_CHECKING:
    from asic3d import AlignmentConfig


@click.group(
    cls=Group,
    examples=(
        ("asic3d evaluate keypoints cows", "Align the annotated photos in 'cows' and score them."),
        ("asic3d evaluate spair --root SPair-71k --category cat", "The same for a category of a published data set."),
    ),
)
@click.pass_context
def evaluate(ctx: click.Context) -> None:
    """Measure how right an alignment is, where the truth is known."""
    help_alone(ctx)


@evaluate.command(
    cls=Command,
    notes=settings(),
    examples=(
        ("asic3d evaluate keypoints cows", "Align the photos that cows/keypoints.json names and score them."),
        ("asic3d evaluate keypoints cows --json > cows.json", "The same for programs."),
    ),
)
@click.argument("keypoint_set", metavar="SET", type=FOLDER)
@config_options
@click.option("--cycles", type=WholeNumber(min=1), default=300, show_default=True, metavar="N",
              help="Cycles to walk at most; all of them where there are fewer.")  # fmt: skip
@output_options
@click.pass_obj
def keypoints(console: Console, keypoint_set: Path, config: "AlignmentConfig", cycles: int) -> None:
    """Align annotated photos and compare with their keypoints.

    SET holds keypoints.json: {"images": [{"file", "size": [w, h], "bbox": [x0, y0, x1, y1], "keypoints": {NAME: [x, y,
    visible]}}]}. Nothing of it is used for the alignment. PCK@a is the share of keypoints found within a times the
    longer side of the target's bbox, pooled over points. Cycles carry points over 2 or 3 photos and back: scored at
    every hop, and (in brackets) at the return alone.
    """
    import asic3d
    from asic3d.verdict import STAGES
    from asic3d_cli.runs import warn_of_doubts
    from asic3d_cli.scores import METHODS, score_table, scores
    from asic3d_integrations.keypoint_sets import load_keypoint_set

    truth = load_keypoint_set(keypoint_set)
    with console.progress({**STAGES, **METHODS}) as progress:
        collection = asic3d.load_collection(truth.photo_folder, progress=progress)
        alignment = asic3d.align(collection, config, progress=progress)
        warn_of_doubts(console, alignment)
        figures = scores(alignment, truth, progress, cycles=cycles, seed=config.seed)
    if console.as_json:
        console.emit({"set": keypoint_set, "photos": len(truth), "backbone": alignment.backbone, "methods": figures})
    else:
        console.result(score_table(figures))


evaluate.add_command(poses)
for data_set in ("spair", "cub", "pf-willow", "samurai"):
    evaluate.add_command(set_command(data_set))
