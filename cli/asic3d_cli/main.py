"""The ``asic3d`` command."""

import click

from asic3d import __version__
from asic3d_cli.add import add
from asic3d_cli.align import align
from asic3d_cli.batch import batch
from asic3d_cli.commands import RootGroup, help_alone
from asic3d_cli.demo import demo
from asic3d_cli.doctor import doctor
from asic3d_cli.evaluate import evaluate
from asic3d_cli.export import export
from asic3d_cli.export_colmap import export_colmap
from asic3d_cli.propagate import propagate
from asic3d_cli.transfer import transfer
from asic3d_cli.view import view


@click.group(
    cls=RootGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=(
        ("asic3d demo", "Try it on rendered photos, with nothing of your own."),
        ("asic3d align your/photos", "Align your photos; look at asic3d_out/report.html afterwards."),
        ("asic3d transfer --source a.jpg --target b.jpg --point 120,80", "Find a point of one photo in another."),
    ),
)
@click.version_option(__version__, prog_name="asic3d", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Finds which point of one photo is which point of every other.

    Takes 2 to 40 photos of one object, or of one kind of object, without training data or annotation.
    """
    help_alone(ctx)


for command in (align, batch, add, transfer, propagate, export_colmap, export, view, evaluate, demo, doctor):
    main.add_command(command)
