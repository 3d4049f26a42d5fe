"""``asic3d export-colmap``: tracks, matches and cameras for COLMAP and its relatives."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asic3d_cli.commands import Command
from asic3d_cli.console import Console
from asic3d_cli.options import SEED, WholeNumber, output_options
from asic3d_cli.runs import FOLDER, RUN, photos_option

if TYPE_CHECKING:
    from asic3d_integrations.colmap.export import Export
    from asic3d_integrations.colmap.images import Images


MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""asic3d_integrations.colmap.cameras.MODELS, which takes a while to import."""


class _FocalLength(click.ParamType):
    name = "focal"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from asic3d.errors import ExportError
        from asic3d_integrations.colmap.cameras import parse_focal

        try:
            parse_focal(value)
        except ExportError as error:
            self.fail(str(error), param, ctx)
        return value


@click.command(
    name="export-colmap",
    cls=Command,
    examples=(
        ("asic3d export-colmap", "Write asic3d_out/colmap with a database for COLMAP."),
        ("asic3d export-colmap --map", "Find the cameras too, and say whether they can be trusted."),
        ("asic3d export-colmap --shared-camera --focal 35mm", "All photos from one camera, not zoomed."),
        ("asic3d export-colmap --add-to project/database.db", "Add the matches to a copy of a database of yours."),
    ),
)
@click.argument("run", type=FOLDER, default=RUN)
@click.option("-o", "--output", metavar="DIR", type=FOLDER, help="Where to write. [default: RUN/colmap]")
@click.option("--map", is_flag=True, help="Find the cameras too: sparse/0, transforms.json, scene.glb.")
@click.option("--tracks", type=click.Choice(["auto", "canonical", "refined"]), default="auto", show_default=True,
              help="refined: exact, of one rigid object; canonical: coarse, of anything.")  # fmt: skip
@click.option("--sift/--no-sift", default=True, show_default=True, help="Join SIFT keypoints to refined tracks.")
@click.option("--max-tracks", type=WholeNumber(min=1), default=4000, show_default=True, metavar="N",
              help="Most canonical tracks, spread evenly.")  # fmt: skip
@click.option("--min-views", type=WholeNumber(min=2), default=3, show_default=True, metavar="N",
              help="Photos that a canonical track must be seen in.")  # fmt: skip
@click.option("--shared-camera", is_flag=True, help="One camera for all photos of one size, not zoomed in between.")
@click.option("--camera-model", type=click.Choice(MODELS), default="SIMPLE_RADIAL", show_default=True, metavar="MODEL",
              help="COLMAP's model; PINHOLE where Gaussian splatting follows.")  # fmt: skip
@click.option("--focal", type=_FocalLength(), metavar="F",
              help="Focal length: 1200 (pixels) or 50mm. [default: from EXIF, else a guess]")  # fmt: skip
@click.option("--masks", is_flag=True, help="Write masks/IMAGE.png too, for COLMAP's mask_path.")
@click.option("--copy-images", is_flag=True, help="Copy the photos into images/ even where COLMAP can read them.")
@click.option("--add-to", "database", metavar="DATABASE", type=FOLDER,
              help="Also add the matches to a copy of this database of COLMAP.")  # fmt: skip
@click.option("--seed", type=SEED, default=0, show_default=True, metavar="N", help="Of COLMAP's random samples.")
@click.option("--mapper", type=click.Choice(["incremental", "global"]), default="incremental", show_default=True,
              help="With --map: COLMAP's mapper.")  # fmt: skip
@click.option("--strict", is_flag=True, help="With --map: exit with 1 where the cameras can't be trusted.")
@click.option("--force", is_flag=True, help="With --map: look for cameras also where they would mean nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export.")
@photos_option
@output_options
@click.pass_context
def export_colmap(
    ctx: click.Context,
    run: Path,
    output: Path | None,
    database: Path | None,
    strict: bool,
    photo_folder: Path | None,
    focal: str | None,
    **options: Any,
) -> None:
    """Write what COLMAP, hloc and numpy need of an alignment.

    RUN is a run folder, asic3d_out where none is named. The folder gets database.db, pairs.txt, tracks.npz, text files
    for COLMAP 3.8, features.h5 and matches.h5 for hloc (with the extra hloc), report.json, and images/ where COLMAP
    can't read the photos as they are. Nothing that is there is replaced unless asked for.
    """
    _refuse_meaningless(ctx)
    console: Console = ctx.obj
    folder = output or run / "colmap"
    console.after_interrupt = lambda: f"Stopped. Nothing was written, and what was in '{folder}' is as it was."
    import asic3d
    from asic3d_cli.runs import held_for, warn_of_doubts
    from asic3d_integrations.colmap.export import STAGES, ExportOptions, export_colmap

    with held_for(run, folder), console.progress(STAGES) as progress:
        wanted = ExportOptions(focal=focal or "", **options)
        alignment = asic3d.load_alignment(run, photos=photo_folder).present
        _refuse_views(ctx, len(alignment.names))
        warn_of_doubts(console, alignment)
        export = export_colmap(alignment, folder, wanted, database=database, progress=progress)
    if console.as_json:
        console.emit({"folder": folder, **export.report, "warnings": console.warned})
    else:
        for line in _lines(export):
            console.show(line)
    if strict and "mapping" in export.report and not export.report["mapping"].get("trusted"):
        raise click.exceptions.Exit(1)


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _refuse_meaningless(ctx: click.Context) -> None:
    """Refuses options that would change nothing."""
    tracks = ctx.params["tracks"]
    for name, idle, needed in (
        ("mapper", not ctx.params["map"], "--map"),
        ("strict", not ctx.params["map"], "--map"),
        ("force", not ctx.params["map"], "--map"),
        ("max_tracks", tracks == "refined", "--tracks canonical, or auto"),
        ("min_views", tracks == "refined", "--tracks canonical, or auto"),
        ("sift", tracks == "canonical", "--tracks refined, or auto"),
    ):
        if idle and _given(ctx, name):
            option = "--sift/--no-sift" if name == "sift" else f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} means something with {needed}. Leave it out, or add that.")


def _refuse_views(ctx: click.Context, photos: int) -> None:
    views = ctx.params["min_views"]
    if _given(ctx, "min_views") and views > photos:
        raise click.BadParameter(f"{views} is more than the {photos} photos of the run.", param_hint="'--min-views'")


def _lines(export: "Export") -> list[str]:
    """What was written, in words."""
    from asic3d_integrations.colmap.adding import COPY
    from asic3d_integrations.colmap.exchange import missing_for_hloc

    report = export.report
    shown = report["inlier_ratio"]
    lines = [
        f"{report['tracks']} {report['kind']} tracks, seen in {report['mean_track_length']:.1f} photos on average; a "
        f"point is exact to about {report['deviation']:.1f} pixels.",
        f"{report['pairs_verified']} of {report['pairs_matched']} pairs of photos verified, with {shown or 0:.0%} of "
        f"their matches within {report['verification']['max_error']:.0f} pixels.",
    ]
    left = [
        f"'{photo['name']}' takes no part: {photo['left_out']}." for photo in report["photos"] if "left_out" in photo
    ]
    lines += [*left, *_copied_lines(export.images)]
    if not report["hloc"]:
        lines.append(missing_for_hloc())
    lines += [
        *_mapping_lines(report.get("mapping", {})),
        "",
        f"Database  {export.folder / 'database.db'}",
        f"Images    {export.image_folder}",
    ]
    if export.mapped and export.mapped.reconstructions:
        lines.append(f"Cameras   {export.folder / 'sparse' / '0'}")
    if export.added:
        added = export.added
        lines += ["", f"{added.matches} matches of {added.pairs} pairs were added to a copy: {export.folder / COPY}"]
        lines += [f"Not in that database: {', '.join(added.missing)}"] if added.missing else []
    return lines


def _copied_lines(images: "Images") -> list[str]:
    """Why all photos were copied, in one line, however many the photos that need it are."""
    from asic3d.photo_folder import shown

    if not images.copies:
        return []
    if not images.reasons:
        return ["All photos were copied, as was asked for."]
    (first, reason), *others = images.reasons.items()
    rest = f" and {len(others)} more" if others else ""
    several = "; for the other reasons see report.json" if {reason} != set(images.reasons.values()) else ""
    return [f"All photos were copied, because of {shown(first)}{rest}: {reason}{several}."]


def _mapping_lines(mapping: dict[str, Any]) -> list[str]:
    """What was found out about the cameras, in words."""
    if not mapping:
        return []
    if "refused" in mapping:
        return ["", f"No cameras were looked for. {mapping['refused']} To look all the same: --force."]
    lines = ["", f"{mapping['registered']} of {mapping['of']} photos have a camera. {mapping['verdict']}"]
    lines += [f"Without a camera: '{name}': {reason}." for name, reason in mapping["unregistered"].items()]
    if "points" in mapping:
        lines.append(
            f"{mapping['points']} points, seen in {mapping['mean_track_length']:.1f} photos on average "
            f"(tracks: {mapping['mean_track_length_exported']:.1f})."
        )
    return lines
