import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from asic3d.alignment import align
from asic3d.config import AlignmentConfig
from asic3d.errors import MemoryLimitError
from asic3d.features import principal_axes, project
from asic3d.memory import Load, check_memory, expected_memory

SCRIPT = """
import re, sys
import asic3d
from asic3d import memory, screening
def noted(load, config):
    print(memory.expected_memory(load, config, memory.held_now()))
screening.check_memory = noted
from asic3d_integrations.run_making import align_folder, prepared
from pathlib import Path
config = asic3d.AlignmentConfig(backbone="efficientnet-lite0", device="cpu", max_memory=1000)
with prepared(Path(sys.argv[2]), overwrite=False):
    align_folder(Path(sys.argv[1]), Path(sys.argv[2]), config, lambda _: None)
# Of this process alone: what getrusage says begins with the size of the process that started it.
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells there")
def test_an_alignment_and_its_report_stay_within_max_memory(toy, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(toy.folder / "images"), str(tmp_path / "run")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected, taken = map(float, done.stdout.split())
    assert 0.3 < taken <= expected < taken + 1


def test_more_than_max_memory_is_refused_before_the_work(toy):
    reports = []
    with pytest.raises(MemoryLimitError, match=r"^6 photos may take \d\.\d GB of memory, and max_memory allows 0\.1\."):
        align(toy.collection, replace(toy.config, max_memory=0.1), cache=toy.cache, progress=reports.append)
    assert reports == []


def test_memory_grows_with_photos_and_cells():
    config = AlignmentConfig()
    some, many = (expected_memory(Load.usual(count), config) for count in (30, 300))
    assert some < many
    assert expected_memory(Load.usual(300), replace(config, grid=30)) < many
    assert expected_memory(Load.usual(30), replace(config, turns=False)) < some


def test_the_remedy_is_one_that_helps():
    load = Load(100, 0.25e9, 304, 250_000, 144_000)
    for config, remedy in (
        (AlignmentConfig(max_memory=1), {"turns": False}),
        (AlignmentConfig(max_memory=1, turns=False), {"grid": 30}),
    ):
        with pytest.raises(MemoryLimitError) as refused:
            check_memory(load, config)
        ((name, value),) = remedy.items()
        assert f"--set {name}={str(value).lower()}" in str(refused.value)
        assert expected_memory(load, replace(config, **remedy)) < expected_memory(load, config)


def test_three_hundred_photos_fit_in_four_gigabytes():
    for photos, most in ((300, 4), (30, 2)):
        load = Load(photos, photos * 2.4e6, 304, 250_000, 144_000)
        assert expected_memory(load, AlignmentConfig()) < most
        assert expected_memory(load, AlignmentConfig(), held=0.9e9 + min(load.pixels, 256 * 2**20)) < most  # with CUDA


def test_in_blocks_it_is_what_it_is_at_once(monkeypatch):
    features = torch.nn.functional.normalize(torch.randn(7, 5, 5, 12, generator=torch.manual_seed(0)), dim=-1)
    used = torch.rand(7, 5, 5, generator=torch.manual_seed(1)) > 0.3
    for cells in (None, used):
        axes, mean = principal_axes(features, cells)
        whole = project(features, axes[:, :4], mean, cells)
        plain = features.flatten(0, 2) if cells is None else features[cells]
        covariance = np.cov(plain.double().numpy().T, bias=True) * len(plain)
        assert np.allclose(covariance @ axes.numpy(), axes.numpy() * np.linalg.eigvalsh(covariance)[::-1], atol=1e-4)
        monkeypatch.setattr("asic3d.features.BLOCK", 50)  # two photos at a time, one in the last block
        assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(principal_axes(features, cells), (axes, mean)))
        assert torch.allclose(project(features, axes[:, :4], mean, cells), whole, atol=1e-6)
        monkeypatch.undo()
