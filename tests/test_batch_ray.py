"""A batch on a Ray cluster of two nodes, which are processes of this machine."""

import os
import signal
from dataclasses import replace
from unittest.mock import Mock

import pytest
from batch_jobs import job_of, owner, photos_in

from asic3d.errors import ConfigError
from asic3d.storage import read_json
from asic3d_integrations.batch.batch import run_batch
from asic3d_integrations.batch.ray_cluster import on_ray

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        found = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False},
        )
        found.add_node(num_cpus=1, object_store_memory=80_000_000)
        yield found.address
        ray.shutdown()
        found.shutdown()


def test_a_batch_on_two_nodes_survives_a_worker_that_is_killed(cluster, tmp_path):
    runs, killed, nodes = tmp_path / "runs", [], set()
    jobs = [job_of(photos_in(tmp_path / "photos" / name), runs) for name in ("mug", "vase", "cup")]
    jobs.append(job_of(tmp_path / "photos" / "gone", runs))

    def executor(waiting):
        for job, outcome in on_ray(waiting, cluster):
            yield job, outcome
            if outcome is None and job.name == "cup":  # handed over; wait until a worker is at it
                nodes.update(node["NodeID"] for node in ray.nodes() if node["Alive"])
                killed.append(_kill_the_worker_of(runs / "mug"))

    records = run_batch(jobs, runs, executor)
    assert len(nodes) == 2 and killed
    assert {name: record["state"] for name, record in records.items()} == {
        "mug": "finished",
        "vase": "finished",
        "cup": "finished",
        "gone": "failed",
    }
    assert "There is no folder" in records["gone"]["error"]
    assert all(job.is_finished() for job in jobs[:3])
    assert read_json(runs / "batch.json")["collections"]["mug"]["state"] == "finished"


def _kill_the_worker_of(run) -> int:
    """Kills the process that writes a run folder."""
    number = owner(run)
    os.kill(number, signal.SIGKILL)
    return number


def test_no_cluster_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", _refuse)
    with pytest.raises(ConfigError, match=r"^There is no Ray cluster at 'here:1' \(nobody answers\)\. Start one with"):
        next(iter(on_ray([job_of(tmp_path, tmp_path)], "here:1")))


@pytest.mark.parametrize(
    ("device", "resources", "cards"),
    [
        ("auto", {"CPU": 4.0, "GPU": 2.0}, 1),
        ("auto", {"CPU": 4.0}, 0),
        ("cuda:1", {"CPU": 4.0}, 1),
        ("cpu", {"CPU": 4.0, "GPU": 2.0}, 0),
    ],
)
def test_a_card_is_asked_for_where_the_cluster_has_some(device, resources, cards, tmp_path, monkeypatch):
    asked, job = [], job_of(tmp_path, tmp_path)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(ray, "remote", lambda **wants: asked.append(wants) or Mock())
    monkeypatch.setattr(ray, "cancel", Mock())
    begun = on_ray([replace(job, config=replace(job.config, device=device))])
    next(iter(begun))
    begun.close()
    assert asked[0]["num_gpus"] == cards


def _refuse(**_):
    raise ConnectionError("nobody answers")
