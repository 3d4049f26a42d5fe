"""Collections for the tests of batches: what runs, what only pretends to, and what is there afterwards."""

import re
import time
from pathlib import Path

from asic3d.config import AlignmentConfig
from asic3d.rendering import render_collection
from asic3d.storage import write_json
from asic3d_integrations.batch.plan import Job

QUICK = AlignmentConfig(
    backbone="efficientnet-lite0",
    device="cpu",
    grid=16,
    affine_rounds=1,
    spline_rounds=0,
    metric_rounds=1,
    turns=False,
    flips=False,
    outliers=False,
)
SETTINGS = [f"--set={name}={value}" for name, value in vars(QUICK).items() if value != vars(AlignmentConfig())[name]]


def photos_in(folder: Path, seed: int = 0) -> Path:
    """Three rendered photos."""
    rendered = render_collection(3, seed=seed, size=(120, 90))
    rendered.save(folder.parent / f".{folder.name}")
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / f".{folder.name}" / "images").rename(folder)
    return folder


def job_of(photos: Path, runs: Path, **changes) -> Job:
    return Job(photos.name, photos, runs / photos.name, QUICK, **changes)


def finishing(job: Job) -> dict:
    """What a real job leaves, without the work: as much of a run folder as is looked at."""
    from asic3d.photo_folder import find_photos, match_masks
    from asic3d.storage import sha256_of

    files = find_photos(job.photos).photos
    masks = {} if job.masks is None else match_masks(list(files), job.masks)
    write_json(
        job.run / "run.json",
        {
            "format_version": 1,
            "config": vars(job.config),
            "photos": [
                {"name": name, "sha256": sha256_of(path), "mask_given": name in masks} for name, path in files.items()
            ],
            "left_out": {},
            "warnings": [],
            "quality": {"confidence": 0.5},
        },
    )
    verdict = {"level": "good", "text": "All is well."}
    return {"state": "finished", "photos": len(files), "verdict": verdict, "quality": {}, "seconds": 1.0}


class Pretended:
    """An executor that does as it is told: job by name -> what to do; by default it finishes."""

    def __init__(self, **what) -> None:
        self.what, self.asked = what, []

    def __call__(self, jobs):
        for job in jobs:
            self.asked.append(job.name)
            yield job, None
            yield job, self.what.get(job.name, finishing)(job)


def fails(_: Job) -> dict:
    return {"state": "failed", "error": "There is no photo."}


def three_jobs(folder: Path) -> list[Job]:
    """Jobs of three folders with a file that is taken for a photo."""
    jobs = []
    for name in ("cup", "mug", "vase"):
        (folder / "photos" / name).mkdir(parents=True)
        (folder / "photos" / name / "a.jpg").write_bytes(name.encode())
        jobs.append(job_of(folder / "photos" / name, folder / "runs"))
    return jobs


def states(records: dict) -> dict[str, str]:
    return {name: record["state"] for name, record in records.items()}


def owner(run: Path, seconds: float = 120) -> int:
    """The process that writes a run folder, whose number is in the lock, as soon as there is one."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            found = re.match(r"process (\d+)", (run / ".asic3d.lock").read_text())
        except OSError:
            found = None
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError("nobody began")
