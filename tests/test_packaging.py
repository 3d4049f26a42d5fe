"""What the packaging promises: layers that name every module, light imports, public names, data files, one version."""

import importlib
import subprocess
import sys
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest

import asic3d

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HEAVY = ("torch", "timm", "cv2", "numpy", "PIL", "trimesh", "rich")


def loaded_by(statement: str, modules: tuple[str, ...], cwd: Path) -> set[str]:
    """Which of the modules a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*(m for m in {modules!r} if m in sys.modules))"
    path = repr([entry for entry in sys.path if entry])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path[:] = {path}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    return set(done.stdout.split())


def test_the_layers_name_every_module_once():
    contract = PROJECT["tool"]["importlinter"]["contracts"][1]
    listed = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    modules = {f"asic3d.{path.stem}" for path in (ROOT / "asic3d").glob("[a-z]*.py")}
    modules |= {f"asic3d.{path.parent.name}" for path in (ROOT / "asic3d").glob("*/__init__.py")}
    assert sorted(listed) == sorted(modules)


@pytest.mark.parametrize(
    "statement", ["import asic3d", "import asic3d.config, asic3d.errors", "import asic3d_cli.main"]
)
def test_light_imports_stay_light(statement, tmp_path):
    assert loaded_by(statement, HEAVY, tmp_path) == set()


def test_the_probe_sees_a_heavy_import(tmp_path):
    assert loaded_by("import asic3d\nasic3d.Photo", HEAVY, tmp_path) >= {"numpy", "PIL"}


@pytest.mark.parametrize("name", asic3d.__all__)
def test_public_names_resolve(name):
    home = importlib.import_module(f"asic3d.{asic3d._HOMES[name]}")
    assert getattr(asic3d, name) is getattr(home, name)


def test_public_names_are_few_and_each_has_a_home():
    assert set(asic3d.__all__) == set(asic3d._HOMES)
    assert len(asic3d.__all__) <= 20


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'asic3d' has no attribute 'aling'$"):
        _ = asic3d.aling  # pyright: ignore[reportAttributeAccessIssue]


PAGES = [f"{page}.{kind}" for page in ("report", "explorer") for kind in ("html", "css", "js")]


@pytest.mark.parametrize("name", [*PAGES, "explorer_maps.js", "explorer_drawing.js", "scene.html"])
def test_the_pages_have_their_files_beside_their_code(name):
    assert (resources.files("asic3d_integrations") / name).is_file()


def test_one_version():
    assert PROJECT["project"]["version"] == asic3d.__version__


def test_the_installed_package_is_this_one():
    try:
        installed = metadata.version("asic3d")
    except metadata.PackageNotFoundError:
        pytest.skip("asic3d is not installed; these tests run from the checkout")
    assert installed == asic3d.__version__


def test_all_is_every_extra_but_those_for_developing():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {f"asic3d[{name}]" for name in extras if name not in ("all", "dev", "docs")}
    assert set(extras["all"]) == wanted
    assert "asic3d[docs]" in extras["dev"]
