"""Entry points: backbones and exporters of other installed packages, the documented one and broken ones."""

import csv
import json
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from cli_runner import run

import asic3d
from asic3d import backbones
from asic3d.backbones import backbone_names, check_backbone, load_backbone
from asic3d.errors import BackboneError, ExportError, PluginError, StorageError
from asic3d.plugins import BACKBONES, EXPORTERS, find_plugins
from asic3d_integrations.exporters import export, known_exporters

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "plugins.md").read_text("utf-8")


def install(folder: Path, monkeypatch, name: str, entry_points: dict, **modules: str) -> None:
    """Puts a package where Python finds it, as pip leaves it behind.

    Args:
        folder: a new one.
        monkeypatch: of pytest.
        name: of the package.
        entry_points: group -> name -> object.
        **modules: name -> source.
    """
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for group, named in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(folder)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def documented(tmp_path, monkeypatch):
    """The package of the page, installed."""
    project = tomllib.loads(blocks("toml")[0])["project"]
    install(
        tmp_path / "site", monkeypatch, project["name"], project["entry-points"], asic3d_colours=blocks("python")[0]
    )
    yield
    sys.modules.pop("asic3d_colours", None)


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A package with four ways to be wrong."""
    source = (
        "def rude(*_): raise KeyError('weights')\n"
        "def half(weights, device):\n"
        "    class Half: name = 'half'; fingerprint = '0'; sides = (8,)\n"
        "    return Half()\n"
        "text = 'no function'\n"
        "def silent(alignment, folder): pass\n"
        "def writes_and_fails(alignment, folder):\n"
        "    (folder / 'a.txt').write_text('a')\n"
        "    raise ValueError('no\\nluck')\n"
    )
    backbones_of = {
        "half": "broken_ones:half",
        "rude": "broken_ones:rude",
        "gone": "not_there:f",
        "text": "broken_ones:text",
    }
    exporters = {"silent": "broken_ones:silent", "fails": "broken_ones:writes_and_fails", "gone": "not_there:f"}
    entry_points = {BACKBONES: backbones_of, EXPORTERS: exporters}
    install(tmp_path / "broken", monkeypatch, "asic3d-broken", entry_points, broken_ones=source)
    yield
    sys.modules.pop("broken_ones", None)


def message_of(error, function, *args, **options) -> str:
    with pytest.raises(error) as caught:
        function(*args, **options)
    return str(caught.value)


# ---- backbones -----------------------------------------------------------------------------------------------------


def test_a_plugin_is_listed_without_being_imported(documented):
    assert "colours" in backbone_names()
    check_backbone("colours")
    assert find_plugins(BACKBONES)["colours"].package == "asic3d-colours 0.1"
    assert "asic3d_colours" not in sys.modules
    load_backbone("efficientnet-lite0")
    assert "asic3d_colours" not in sys.modules


def test_the_documented_commands(documented, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy.folder / "images", "your/photos")
    (tmp_path / "asic3d_out").mkdir()
    commands = [shlex.split(line)[1:] for line in blocks("text")[0].splitlines() if line.startswith("asic3d ")]
    outputs = {}
    for words in commands:
        result = run(*words)
        assert result.exit_code == 0, result.output
        outputs[" ".join(words)] = result.output
    assert re.search(r"colours +backbone of asic3d-colours 0\.1", outputs["doctor"])
    assert re.search(r"boxes +exporter of asic3d-colours 0\.1", outputs["doctor"])
    assert (
        "boxes (asic3d-colours 0.1): boxes.json: the box around the object in each photo, pixels.\n"
        in outputs["export"]
    )
    assert outputs["export boxes"] == "1 file in asic3d_out/boxes: boxes.json\n"
    alignment = asic3d.load_alignment("asic3d_out")
    assert alignment.backbone == "colours"
    boxes = json.loads(Path("asic3d_out/boxes/boxes.json").read_text())
    assert set(boxes) == set(alignment.names)
    larger = alignment.add(shutil.copy(toy.folder / "images" / alignment.names[0], "new.jpg"))
    assert larger.names[-1] == "new.jpg"  # the run knows its plugin again


def test_options_reach_a_plugin(documented):
    assert load_backbone("colours", cells=20, wishes={"stride": 4}).fingerprint == "colours-1-20"
    assert message_of(BackboneError, load_backbone, "colours", layer=2) == (
        "colours takes no option 'layer'; its options are: cells."
    )


def test_our_names_can_not_be_taken(tmp_path, monkeypatch):
    entry_points = {BACKBONES: {backbones.EMBEDDED: "thief:f"}, EXPORTERS: {"csv": "thief:f"}}
    install(tmp_path / "site", monkeypatch, "a-thief", entry_points, thief="raise SystemExit('stolen')")
    assert load_backbone(backbones.EMBEDDED).sides == (240, 320, 480)
    assert backbone_names().count(backbones.EMBEDDED) == 1
    assert [known.package for known in known_exporters() if known.name == "csv"] == [""]


def test_of_two_packages_the_first_in_the_alphabet_has_the_name(tmp_path, monkeypatch):
    for package in ("b-second", "a-first"):
        install(tmp_path / package, monkeypatch, package, {BACKBONES: {"same": f"{package[0]}_module:f"}})
    assert find_plugins(BACKBONES)["same"].package == "a-first 0.1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gone",
            "can't be loaded (ModuleNotFoundError: No module named 'not_there'). Update or uninstall that package.",
        ),
        ("text", "is 'no function' and can't be called. Update or uninstall that package."),
        ("rude", "failed (KeyError: 'weights'). Report it to the makers of that package."),
        ("half", "makes something without 'tap_weights', which is no asic3d.backbones.Backbone."),
    ],
)
def test_a_broken_backbone_is_named_and_breaks_nothing_else(broken, name, message):
    told = message_of(PluginError, load_backbone, name)
    assert told == f"The backbone '{name}' of the package asic3d-broken 0.1 {message}"
    assert load_backbone("efficientnet-lite0").name == "efficientnet-lite0"


def test_the_command_line_names_a_broken_backbone_in_a_sentence(broken, toy, tmp_path):
    result = run("align", toy.folder / "images", "-o", tmp_path / "out", "--backbone", "gone")
    assert result.exit_code == 1
    assert "Error: The backbone 'gone' of the package asic3d-broken 0.1 can't be loaded" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()


# ---- exporters -----------------------------------------------------------------------------------------------------


def test_csv_holds_the_tracks(toy, tmp_path):
    from asic3d.tracks import canonical_tracks

    assert export(toy.alignment, "csv", tmp_path / "points") == ("tracks.csv",)
    rows = list(csv.DictReader((tmp_path / "points" / "tracks.csv").read_text("utf-8").splitlines()))
    graph = canonical_tracks(toy.alignment)
    assert len(rows) == len(graph.tracks)
    track, photo, keypoint = graph.tracks[7].tolist()
    assert (int(rows[7]["track"]), rows[7]["photo"]) == (track, graph.names[photo])
    x, y = graph.keypoints[photo][keypoint].tolist()
    assert (float(rows[7]["x"]), float(rows[7]["y"])) == pytest.approx((x, y), abs=0.006)


def test_an_earlier_export_is_replaced_only_when_asked(documented, toy, tmp_path):
    folder = tmp_path / "out"
    export(toy.alignment, "boxes", folder)
    (folder / "boxes.json").write_text("old")
    assert message_of(StorageError, export, toy.alignment, "boxes", folder) == (
        f"'{folder}' holds an earlier export, and nothing was changed. Replace it with --overwrite, or choose another "
        "folder with -o."
    )
    assert (folder / "boxes.json").read_text() == "old"
    export(toy.alignment, "boxes", folder, overwrite=True)
    assert (folder / "boxes.json").read_text() != "old"
    (folder / "mine.txt").write_text("mine")
    for name in ("boxes", "csv"):
        assert "holds other files, such as" in message_of(
            StorageError, export, toy.alignment, name, folder, overwrite=True
        )
    assert (folder / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("fails", PluginError, "of the package asic3d-broken 0.1 failed (ValueError: no luck). Report it to"),
        ("silent", ExportError, "The exporter 'silent' wrote no file for these photos."),
        ("gone", PluginError, "can't be loaded (ModuleNotFoundError: No module named 'not_there')"),
        ("nope", ExportError, "There is no exporter 'nope' here; choose one of: csv, fails, gone, silent."),
    ],
)
def test_a_broken_exporter_is_named_and_leaves_nothing(broken, toy, tmp_path, name, error, message):
    assert message in message_of(error, export, toy.alignment, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".asic3d-")] == []


def test_the_list_names_what_is_broken(broken):
    output = run("export").output
    assert output.startswith("csv: tracks.csv: which point of each photo is the same place;")
    assert "gone (asic3d-broken 0.1): The exporter 'gone' of the package asic3d-broken 0.1 can't be loaded" in output
    assert "silent (asic3d-broken 0.1): it does not say what it writes.\n" in output
    found = {one["name"]: one for one in json.loads(run("export", "--json").output)["exporters"]}
    assert found["gone"]["fault"] and not found["silent"]["fault"]


def test_an_unknown_exporter_is_said_before_the_run_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("export", "nope", "no_run")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: There is no exporter 'nope' here; choose one of: csv. For COLMAP, hloc and nerfstudio: asic3d "
        "export-colmap.\n"
    )
