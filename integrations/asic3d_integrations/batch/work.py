"""One collection, aligned in a process of its own: what becomes of it is an answer, never an error."""

import os
import time
import traceback
import warnings
from typing import Any

from asic3d.errors import AlignmentError, Asic3dError, Asic3dWarning, CollectionError
from asic3d_integrations.batch.plan import Job

_PATIENCE = 60.0  # seconds; what a batch left that was killed takes a while to end
FINISHED, FAILED = "finished", "failed"
Outcome = dict[str, Any]
"""What became of a collection, as ``batch.json`` has it: ``state``, and with it either what is known of the run
(``photos``, ``left_out``, ``backbone``, ``verdict``, ``quality``, ``warnings``, ``seconds``) or the ``error``, with
``passing`` where the machine was at fault: a full disk, too little memory, a package that is missing."""


def align_collection(job: Job) -> Outcome:
    """Aligns one collection and writes its run folder; goes on with one that was interrupted.

    Returns:
        What became of it. A fault of ours has its traceback beside its sentence.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when the libraries are imported
        os.environ[name] = str(job.threads)
    start = time.perf_counter()
    try:
        return {"state": FINISHED, **_aligned(job), "seconds": time.perf_counter() - start}
    except (CollectionError, AlignmentError) as error:
        return failed(str(error), seconds=time.perf_counter() - start)
    except Asic3dError as error:  # the machine's fault, not the collection's
        return failed(str(error), passing=True, seconds=time.perf_counter() - start)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
            said = "There is not enough memory for it. Run fewer at once (--jobs), or on another machine."
            return failed(said, passing=True)
        what = " ".join(f"{type(error).__name__}: {error}".split())
        sentence = f"A fault in asic3d stopped it ({what}). Please report it with the traceback in batch.json."
        return failed(sentence, traceback=traceback.format_exc())


def failed(sentence: str, **more: Any) -> Outcome:
    """The outcome of a collection that could not be aligned."""
    return {"state": FAILED, "error": sentence, **more}


def _aligned(job: Job) -> Outcome:
    import cv2
    import torch

    from asic3d.verdict import verdict, warnings_of
    from asic3d_integrations.run_making import align_folder, prepared

    torch.set_num_threads(job.threads)
    cv2.setNumThreads(job.threads)
    with (
        warnings.catch_warnings(record=True) as said,
        prepared(job.run, overwrite=True, resume=True, photos=job.photos, patience=_PATIENCE),
    ):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", Asic3dWarning)
        alignment, _ = align_folder(job.photos, job.run, job.config, lambda _: None, masks=job.masks, strict=job.strict)
    level, sentence = verdict(alignment)
    return {
        "photos": len(alignment.names),
        "left_out": alignment.collection.left_out,
        "backbone": alignment.backbone,
        "verdict": {"level": level, "text": sentence},
        "quality": alignment.quality,
        "warnings": list(dict.fromkeys([*(str(one.message) for one in said), *warnings_of(alignment)])),
    }
