"""From a folder of photos to a finished run folder, with its report: what several commands and every batch do."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asic3d.errors import Asic3dError

if TYPE_CHECKING:
    from asic3d import Alignment, AlignmentConfig
    from asic3d.config import Progress

CHECKPOINT = "checkpoint.safetensors"
"""The file in a run folder from which an interrupted run goes on."""


@contextmanager
def prepared(
    run: Path, *, overwrite: bool, resume: bool = False, photos: Path | None = None, patience: float = 0.0
) -> Iterator[None]:
    """A run folder that nobody else writes; where it was new and nothing came into it, it is gone again afterwards.

    Raises:
        StorageError: as :func:`asic3d.run_lock.claim_run`.
    """
    from asic3d.run_lock import claim_run
    from asic3d.storage import MARKER

    new = not run.exists()
    try:
        with claim_run(run, overwrite=overwrite, resume=resume, photos=photos, patience=patience):
            if not resume:
                (run / CHECKPOINT).unlink(missing_ok=True)
            yield
    except (Asic3dError, KeyboardInterrupt):
        if new and run.is_dir() and [entry.name for entry in run.iterdir()] == [MARKER]:
            (run / MARKER).unlink()
            run.rmdir()
        raise


def align_folder(
    photos: Path,
    run: Path,
    config: "AlignmentConfig",
    progress: "Callable[[Progress], None]",
    *,
    masks: Path | None = None,
    strict: bool = False,
) -> tuple["Alignment", dict[str, float]]:
    """Aligns a folder of photos and writes the whole run folder, which is :func:`prepared`.

    Returns:
        The alignment, and the seconds of every stage, from loading the photos to writing the report.

    Raises:
        Asic3dError: as :func:`asic3d.load_collection`, :func:`asic3d.align` and :meth:`asic3d.Alignment.save`.
    """
    import asic3d
    from asic3d.backbones import check_backbone
    from asic3d.devices import choose_device
    from asic3d.errors import CollectionWarning
    from asic3d.photo_folder import listed

    choose_device(config.device)  # what is wrong is said before the photos are loaded
    check_backbone(config.backbone, config.weights)
    start = time.perf_counter()
    collection = asic3d.load_collection(
        photos, masks=masks, strict=strict, max_memory=config.max_memory, progress=progress
    )
    loading = time.perf_counter() - start
    alignment = asic3d.align(collection, config, progress=progress, cache=run / "cache", checkpoint=run / CHECKPOINT)
    if changed := collection.changed():
        said = (
            f"Changed, or gone, while they were being aligned: {listed(changed)}. The run is of the photos as they "
            "were: put them back, or align again with --overwrite."
        )
        warnings.warn(said, CollectionWarning, stacklevel=2)
    return alignment, {"photos": loading, **alignment.timings, **write_run(alignment, run, progress)}


def write_run(alignment: "Alignment", run: Path, progress: "Callable[[Progress], None]") -> dict[str, float]:
    """Saves an alignment with its report: all files or none, so that a finished run has its report.

    Returns:
        The seconds of both.

    Raises:
        StorageError: the folder can't be written.
    """
    from asic3d.config import Progress
    from asic3d.scratch import give_back
    from asic3d_integrations.report import report_files

    start = time.perf_counter()
    report = report_files(alignment)
    progress(Progress("report", 1, 1))
    give_back()
    reported = time.perf_counter()
    alignment.save(run, overwrite=True, others=report)
    (run / CHECKPOINT).unlink(missing_ok=True)
    progress(Progress("saving", 1, 1))
    return {"report": reported - start, "saving": time.perf_counter() - reported}
