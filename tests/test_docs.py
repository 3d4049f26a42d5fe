"""The documentation is true: its commands and snippets run, its options, names, tables and quoted messages exist."""

import ast
import dataclasses
import importlib
import json
import re
import shlex
import shutil
import webbrowser
from pathlib import Path

import click
import miniature_sets
import pycolmap
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from asic3d import backbones, hypercolumns
from asic3d.config import AlignmentConfig
from asic3d.rendering import RenderedCollection, render_collection
from asic3d.storage import read_json
from asic3d_cli.main import main
from asic3d_integrations.keypoint_sets import load_keypoint_set

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in PAGES}
SNIPPETS = [page for page, text in TEXTS.items() if "```python" in text]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.M | re.S)


def documented_commands() -> list[str]:
    """Every ``asic3d`` command of the pages, each once, without what a shell does with its output."""
    lines = [line for page in TEXTS for block in blocks(page, "sh") for line in block.splitlines()]
    parts = [part.split(" > ")[0].strip() for line in lines for part in line.split("&&")]
    return sorted({part.removeprefix(".venv/bin/") for part in parts if re.match(r"(\.venv/bin/)?asic3d ", part)})


def table(page: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without their backquotes."""
    below = TEXTS[page].split(f"{heading}\n", 1)[1]
    rows = re.search(r"^\|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", below, re.M)
    assert rows, f"{page} has no table below '{heading}'"
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[1].splitlines()]


def named(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def all_commands(group: click.Group = main) -> list[click.Command]:
    found = []
    for command in group.commands.values():
        found += [command, *(all_commands(command) if isinstance(command, click.Group) else [])]
    return found


def write_known_model(folder: Path, rendered: RenderedCollection) -> None:
    """The true cameras of your/photos as cameras.json and as a model of COLMAP; a database of COLMAP's with them."""
    cameras, model = [], pycolmap.Reconstruction()
    (folder / "project").mkdir()
    with pycolmap.Database.open(folder / "project" / "database.db") as database:
        for number, (letter, photo) in enumerate(zip("abc", rendered.photos, strict=False), 1):
            name = f"{letter}.jpg"
            cameras.append({"file": name, "K": photo.K.tolist(), "R": photo.R.tolist(), "t": photo.t.tolist()})
            camera = pycolmap.Camera.create_from_model_name(number, "PINHOLE", photo.K[0, 0], *photo.size)
            image = pycolmap.Image(name=name, camera_id=number, image_id=number)
            database.write_camera(camera, use_camera_id=True)
            database.write_image(image, use_image_id=True)
            model.add_camera_with_trivial_rig(camera)
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(photo.R), photo.t)
            model.add_image_with_trivial_frame(image, pose)
    (folder / "cameras.json").write_text(json.dumps({"images": cameras}))
    (folder / "known" / "sparse" / "0").mkdir(parents=True)
    model.write_binary(folder / "known" / "sparse" / "0")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that the documentation names, and a finished run of its photos."""
    folder = tmp_path_factory.mktemp("world")
    rendered = render_collection(4, seed=2, size=(240, 180))
    rendered.save(folder / "rendered_once")
    images, masks = folder / "rendered_once" / "images", folder / "rendered_once" / "masks"
    for place in ("your/photos", "masks"):
        (folder / place).mkdir(parents=True)
    for letter, name in zip("abc", rendered.names, strict=False):
        shutil.copy(images / name, folder / "your" / "photos" / f"{letter}.jpg")
        shutil.copy(masks / f"{name}.png", folder / "masks" / f"{letter}.jpg.png")
    shutil.copy(images / rendered.names[3], folder / "new.jpg")
    Image.new("RGBA", (240, 180), (255, 0, 0, 90)).save(folder / "edit.png")
    (folder / "points.csv").write_text("x,y\n120,80\n90,70\n")
    render_collection(3, seed=3, size=(160, 120)).save(folder / "cows")
    cows = load_keypoint_set(folder / "cows")
    miniature_sets.write_spair(folder / "SPair-71k", cows)
    miniature_sets.write_cub(folder / "CUB_200_2011", cows)
    miniature_sets.write_pf_willow(folder / "PF-dataset", cows)
    miniature_sets.write_samurai(folder / "samurai", cows)
    write_known_model(folder, rendered)
    shutil.rmtree(folder / "rendered_once")
    with pytest.MonkeyPatch.context() as patch:
        # 'auto' without a network and without a look at what is on this machine
        weights = hypercolumns._package_weights()
        patch.setattr(
            backbones, "choose_backbone", lambda _: backbones.Choice(backbones.EMBEDDED, weights, "it is a test")
        )
        patch.chdir(folder)
        run(["align", "your/photos"])
        yield folder


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """A copy of the world as the working directory."""
    shutil.copytree(world, tmp_path / "copy")
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def run(words: list[str]) -> str:
    result = CliRunner().invoke(main, words, prog_name="asic3d")
    assert result.exit_code == 0, result.output
    return result.output


def test_the_lines_for_a_new_machine():
    blocks_of_readme = [block.strip() for block in blocks("README.md", "sh")]
    assert blocks_of_readme[:2] == [
        "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/asic3d demo",
        ".venv/bin/asic3d align your/photos",
    ]
    assert 'python3 -m venv .venv && .venv/bin/pip install ".[all,dev]" && .venv/bin/pytest' in blocks_of_readme


@pytest.mark.parametrize("command", documented_commands())
def test_command_runs(command, place):
    words = shlex.split(command)[1:]
    if "--weights" in words:  # of a network that is not here: its options are checked, it is not run
        sub = main.commands[words[0]]
        assert sub.make_context(words[0], words[1:]).params["weights"] == "model.safetensors"
        return
    if words[0] == "align" and not {"-o", "--overwrite", "--help"} & set(words):
        shutil.rmtree("asic3d_out")
    output = run([*words, "--photos", "2"] if words[0] == "demo" else words)
    if words[0] in ("align", "demo") and "--help" not in words:
        usual = {"align": "asic3d_out", "demo": "asic3d_demo"}[words[0]]
        assert (place / (words[words.index("-o") + 1] if "-o" in words else usual) / "report.html").is_file()
    assert output.strip()


@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_run(page, place, capsys):
    names: dict = {}
    for number, snippet in enumerate(blocks(page, "python"), 1):
        exec(compile(snippet, f"{page}, snippet {number}", "exec"), names)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", TEXTS)
def test_options_exist(page):
    known = {
        option
        for command in all_commands()
        for parameter in command.params
        for option in [*parameter.opts, *parameter.secondary_opts]
    }
    ours = re.sub(r"^```text\n.*?^```", "", TEXTS[page], flags=re.M | re.S)  # commands of other programs
    written = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", ours))
    assert written - known - {"--help"} == set()


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[page]):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.is_file(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def test_every_network_has_its_licence():
    listed = [name for row in table("README.md", "## Networks and their licences") for name in named(row[0])]
    assert sorted(listed) == sorted(backbones.backbone_names())


def test_every_setting_is_listed_with_its_default():
    rows = {named(name)[0]: (default, meaning) for name, default, meaning in table("docs/method.md", "## Settings")}
    expected = {
        item.name: (f"`{item.default}`" if item.default != "" else "empty", item.metadata["help"])
        for item in dataclasses.fields(AlignmentConfig)
    }
    assert rows == expected


@pytest.mark.parametrize("row", table("docs/method.md", "## Constants"), ids=lambda row: row[0])
def test_constant_has_the_value_in_the_table(row):
    module, name = named(row[0])[0].split(".")
    assert getattr(importlib.import_module(f"asic3d.{module}"), name) == ast.literal_eval(named(row[1])[0])


def test_the_tensors_of_a_run_are_those_listed(world):
    listed = {name for row in table("docs/run-folder.md", "## `alignment.safetensors`") for name in named(row[0])}
    written = load_file(world / "asic3d_out" / "alignment.safetensors")
    beyond = {name for name in written if re.fullmatch(r"(mask|centre)([2-9]|\d\d+)", name)}  # after the dots
    assert set(written) - beyond == listed


def test_the_tensors_of_a_grid_are_those_listed(world):
    rows = table("docs/run-folder.md", "## `canonical_grid.safetensors`")
    written = load_file(world / "asic3d_out" / "canonical_grid.safetensors")
    assert set(written) == {name for row in rows for name in named(row[0])}


def test_the_figures_of_a_run_are_those_listed(world):
    row = next(row for row in table("docs/run-folder.md", "# The run folder") if row[0] == "`figures/`")
    written = {path.name for path in (world / "asic3d_out" / "figures").iterdir()}
    assert written == {name for name in named(row[1]) if "." in name}


def test_the_keys_of_a_run_are_those_listed(world):
    listed = {name for row in table("docs/run-folder.md", "## `run.json`") for name in named(row[0])}
    run_file = read_json(world / "asic3d_out" / "run.json")
    assert set(run_file) == listed
    assert {"name", "size", "sha256", "mask_given"} == set(run_file["photos"][0])


def test_the_quality_figures_of_a_run_are_those_listed(world):
    listed = {name for row in table("docs/evaluation.md", "## Figures without a truth") for name in named(row[0])}
    assert set(read_json(world / "asic3d_out" / "run.json")["quality"]) == listed


def test_the_files_of_a_run_are_those_listed(world):
    listed = {named(row[0])[0].split("/")[0] for row in table("docs/run-folder.md", "# The run folder")}
    written = {path.name for path in (world / "asic3d_out").iterdir()}
    later = {".asic3d.lock", "checkpoint.safetensors", "collection", "losses.csv", "edits", "colmap"}
    shown = {"explorer.html", "scene.html", "scene.rrd"}
    assert written == listed - later - shown


def test_quoted_messages_are_in_the_code():
    files = [path for folder in ("asic3d", "cli", "integrations") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text("utf-8") for path in files)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    quoted = re.findall(r"^> (.+)$", TEXTS["docs/troubleshooting.md"], re.M)
    assert len(quoted) > 10
    assert [message for message in quoted if message not in code] == []
