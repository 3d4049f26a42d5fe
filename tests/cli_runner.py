"""Runs the command line in this process, with the planted alignment for the real one where that is enough."""

from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner, Result
from planted_alignment import plant

import asic3d
from asic3d.config import Progress
from asic3d_cli.main import main


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="asic3d")


def plant_library(tmp_path: Path, monkeypatch) -> list[dict]:
    """Photos in tmp_path/photos; align and load_alignment answer with their planted alignment; work in tmp_path.

    Returns:
        The arguments of every call of align, as they come.
    """
    planted = plant(tmp_path / "photos")
    aligned = []

    def align(collection, config, *, progress, cache=None, checkpoint=None):
        aligned.append({"config": config, "cache": cache, "checkpoint": checkpoint})
        for done in (1, 2):
            progress(Progress("features", done, 2))
        return replace(planted, config=config)

    monkeypatch.setitem(vars(asic3d), "align", align)
    monkeypatch.setitem(vars(asic3d), "load_alignment", lambda run, photos: planted)
    monkeypatch.chdir(tmp_path)
    return aligned
