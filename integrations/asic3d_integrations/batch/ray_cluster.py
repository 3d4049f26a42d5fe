"""Several collections at once on a Ray cluster. Its machines see the photos and the run folders at the same paths."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from asic3d.errors import ConfigError
from asic3d.extras import load_extra
from asic3d_integrations.batch.plan import Job
from asic3d_integrations.batch.work import Outcome, align_collection, failed

_RETRIES = 3  # after a machine or a process was lost; the run folder keeps what was done


def on_ray(jobs: Sequence[Job], address: str = "auto") -> Iterator[tuple[Job, Outcome | None]]:
    """Aligns collections on all machines of a running cluster, each with as many cores as it wants.

    Each takes a card where the device is ``cuda``, or ``auto`` and the cluster has cards; with ``cpu`` none does.
    A worker that dies midway is replaced: the run goes on from its checkpoint and its features.

    Args:
        jobs: the collections.
        address: of the cluster: ``auto`` for the one of this machine or of ``RAY_ADDRESS``, ``host:port``, or
            ``ray://host:port``.

    Yields:
        Each collection with None when it is handed over, and with its outcome when it ends.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: there is no cluster at the address.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    _connect(ray, address)
    running = {}
    try:
        for job in jobs:
            running[_handed_over(ray, job)] = job
            yield job, None
        while running:
            for reference in ray.wait(list(running))[0]:
                yield running.pop(reference), _outcome(ray, reference)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return load_extra("ray", "--ray needs Ray", "ray")


def _connect(ray: Any, address: str) -> None:
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"There is no Ray cluster at '{address}' ({reason}). Start one with 'ray start --head', or give the "
            "address of another."
        ) from None


def _handed_over(ray: Any, job: Job) -> Any:
    """A worker process takes one collection and ends, so that no collection finds what another has left."""
    device = job.config.device
    on_a_card = ray.cluster_resources().get("GPU", 0) >= 1 if device == "auto" else device.startswith("cuda")
    wants = {"num_cpus": job.threads, "num_gpus": int(on_a_card)}
    task = ray.remote(max_calls=1, max_retries=_RETRIES, **wants)(align_collection)
    return task.options(name=f"asic3d {job.name}").remote(job)


def _outcome(ray: Any, reference: Any) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:500]
        return failed(
            f"Ray could not run it ({reason}). See that its machines are up, then begin it again with --retry."
        )
