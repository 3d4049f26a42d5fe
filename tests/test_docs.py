"""The documentation is true: its commands and snippets run, its options, names, tables and quoted messages exist."""

import ast
import dataclasses
import importlib
import importlib.util
import re
import shlex
import shutil
import webbrowser
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from documented_world import prepare, write_world
from safetensors.torch import load_file

from asic3d import backbones, hypercolumns
from asic3d.config import AlignmentConfig
from asic3d.storage import read_json
from asic3d_cli.main import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
SNIPPETS = [page for page, text in TEXTS.items() if "```python" in text]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.M | re.S)


def shell_commands() -> list[str]:
    """Every command of the pages, without what a shell does with its output."""
    found = [block for page in TEXTS for block in blocks(page, "sh")]
    parts = [part for block in found for line in block.splitlines() for part in line.split("&&")]
    return [part.split(" > ")[0].strip().removeprefix(".venv/bin/") for part in parts]


def documented_commands() -> list[str]:
    """Every ``asic3d`` command of the pages, each once."""
    return sorted({part for part in shell_commands() if part.startswith("asic3d ")})


def shown_commands(start: str) -> list[str]:
    """The lines of the pages that are shown and not run, because they need what is not here, and start like that."""
    found = [block for page in TEXTS for block in blocks(page, "text")]
    lines = {line.removeprefix(".venv/bin/") for block in found for line in block.splitlines()}
    return sorted(line for line in lines if line.startswith(start))


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


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with everything that the documentation names, and a finished run of its photos."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    with pytest.MonkeyPatch.context() as patch:
        # 'auto' without a network and without a look at what is on this machine
        weights = hypercolumns._package_weights()
        patch.setattr(
            backbones, "choose_backbone", lambda _: backbones.Choice(backbones.EMBEDDED, weights, "it is a test")
        )
        patch.chdir(folder)
        run(["align", "your/photos"])
        run(["demo", "--photos", "3"])
        yield folder


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """A copy of the world as the working directory."""
    shutil.copytree(world, tmp_path / "copy")
    monkeypatch.setattr(backbones, "_FACTORIES", dict(backbones._FACTORIES))
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # for commands that begin processes
    monkeypatch.setenv("HF_HOME", str(tmp_path))
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
        ".venv/bin/asic3d align your/photos --view",
    ]
    assert 'python3 -m venv .venv && .venv/bin/pip install ".[all,dev]" && .venv/bin/pytest' in blocks_of_readme
    assert blocks("docs/index.md", "sh")[0] == blocks("README.md", "sh")[0]


def test_every_command_is_of_a_kind_that_is_run():
    others = {part for part in shell_commands() if not part.startswith("asic3d ")}
    assert others == {
        "python3 -m venv .venv",
        "pip install .",
        'pip install ".[all,dev]"',
        'pip install -e ".[all,dev]"',
        "source .venv/bin/activate",
        "scripts/check",
        "pytest",
        "mkdocs serve",
    }


@pytest.mark.parametrize("command", documented_commands())
def test_command_runs(command, place):
    words = shlex.split(command)[1:]
    if "--weights" in words:  # of a network that is not here: its options are checked, it is not run
        sub = main.commands[words[0]]
        assert sub.make_context(words[0], words[1:]).params["weights"] == "model.safetensors"
        return
    if "cuda" in words and not torch.cuda.is_available():
        refused = CliRunner().invoke(main, words, prog_name="asic3d")
        assert refused.exit_code == 1 and "torch finds no CUDA devices here" in refused.output
        return
    if words[0] == "demo" and "-o" not in words:
        shutil.rmtree("asic3d_demo")
    if words[0] == "align" and not {"-o", "--overwrite", "--help"} & set(words):
        shutil.rmtree("asic3d_out")
    output = run([*words, "--photos", "2"] if words[0] == "demo" else words)
    if words[0] in ("align", "demo") and "--help" not in words:
        usual = {"align": "asic3d_out", "demo": "asic3d_demo"}[words[0]]
        assert (place / (words[words.index("-o") + 1] if "-o" in words else usual) / "report.html").is_file()
    assert output.strip()


@pytest.mark.parametrize("command", shown_commands("asic3d "))
def test_command_that_is_only_shown_can_be_parsed(command):
    words = shlex.split(command)[1:]
    main.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("command", shown_commands("python benchmarks/"))
def test_benchmark_that_is_shown_has_these_options(command):
    _, script, *words = shlex.split(command)
    options = {word for word in words if word.startswith("--")}
    assert options <= set(re.findall(r'"(--[a-z-]+)"', (ROOT / script).read_text("utf-8")))


@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_run(page, place, capsys):
    prepare(page, place)
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
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.M | re.S)
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.is_file(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M) if path.suffix == ".md" else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings], (
            target
        )


def test_the_tours_pictures_can_be_drawn_again(world, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("tour_pictures", ROOT / "scripts" / "tour_pictures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "asic3d", lambda *words: run(list(words)))
    monkeypatch.setattr(shutil, "which", lambda _: None)  # no browser
    script.draw(world / "asic3d_demo", tmp_path)
    drawn, shown = ({path.name for path in folder.iterdir()} for folder in (tmp_path, ROOT / "docs" / "pictures"))
    assert shown - {"cameras.webp", "explorer.webp"} <= drawn <= shown
    assert all(f"pictures/{name}" in TEXTS["docs/tour.md"] for name in shown)
    assert all(path.stat().st_size < 150_000 for path in (ROOT / "docs" / "pictures").iterdir())


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
    later = {
        ".asic3d.lock",
        "checkpoint.safetensors",
        "collection",
        "losses.csv",
        "edits",
        "colmap",
        "EXPORTER",
        "earlier",
    }
    shown = {"explorer.html", "scene.html", "scene.rrd"}
    assert written == listed - later - shown


def test_quoted_messages_are_in_the_code():
    files = [path for folder in ("asic3d", "cli", "integrations") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text("utf-8") for path in files)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go on in the next line
    quoted = re.findall(r"^> (.+)$", TEXTS["docs/troubleshooting.md"], re.M)
    assert len(quoted) > 10
    assert [message for message in quoted if message not in code] == []
