import csv
import dataclasses
import errno
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner
from PIL import Image
from planted_alignment import plant

import asic3d
from asic3d.config import AlignmentConfig, Progress
from asic3d.errors import AlignmentError, BackboneWarning
from asic3d_cli import options
from asic3d_cli.console import _Lines
from asic3d_cli.main import main
from asic3d_cli.points import PointsError, parse_point, read_points

ROOT = Path(__file__).parents[1]


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Photos in tmp_path/photos; align and load_alignment answer with their planted alignment, from tmp_path."""
    planted = plant(tmp_path / "photos")
    aligned = []

    def align(collection, config, *, progress, cache=None, checkpoint=None):
        aligned.append({"config": config, "cache": cache, "checkpoint": checkpoint})
        for done in (1, 2):
            progress(Progress("features", done, 2))
        return replace(planted, config=config)

    monkeypatch.setitem(vars(asic3d), "align", align)
    monkeypatch.setitem(vars(asic3d), "load_alignment", lambda run: planted)
    monkeypatch.chdir(tmp_path)
    return aligned


def run(*arguments: str | Path):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="asic3d")


def commands(group=main, path=()):
    """(words, command) of every command below a group."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


# ---- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), *(words for words, _ in commands())], ids=" ".join)
def test_every_help_has_an_example_that_names_the_command(words):
    result = run(*words, "--help")
    assert result.exit_code == 0
    examples = result.output.split("Examples:\n")[1]
    assert " ".join(("  asic3d", *words)) in examples


@pytest.mark.parametrize("words", [(), ("evaluate",)])
def test_without_a_command_the_help_is_shown(words):
    assert run(*words).exit_code == 0
    assert run(*words).output == run(*words, "--help").output


def test_version():
    assert run("--version").output == f"asic3d {asic3d.__version__}\n"


def test_first_screen():
    assert run("--help").output.startswith(
        "Usage: asic3d [OPTIONS] [COMMAND] [ARGS]...\n\n"
        "  Finds which point of one photo is which point of every other.\n"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["align", "--help"], ["transfer", "--help"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom asic3d_cli.main import main\n"
        f"try: main({arguments})\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'timm', 'cv2', 'numpy', 'PIL', 'rich', 'trimesh', 'safetensors'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "cli", "integrations"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize(
    ("given", "count"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_threads_that_wait_leave_the_processor_to_others(monkeypatch, given, count):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run()
    assert os.environ.get("GOMP_SPINCOUNT") == count


# ---- settings ------------------------------------------------------------------------------------------------------


def test_promoted_options_are_fields_of_the_configuration():
    fields = {item.name: item for item in dataclasses.fields(AlignmentConfig)}
    given = {parameter.name: parameter for parameter in main.commands["align"].params}
    assert set(given) & set(fields) == set(options.PROMOTED)
    for name in options.PROMOTED:
        text = fields[name].metadata["help"]
        assert given[name].help.startswith(text[0].upper() + text[1:])


def test_set_covers_every_field(planted, tmp_path):
    names = [item.name for item in dataclasses.fields(AlignmentConfig)]
    assert [line.partition("=")[0] for line, _ in options.settings()] == names
    defaults = AlignmentConfig()
    changes = [f"--set={name}={str(getattr(defaults, name)).lower()}" for name in names]
    assert run("align", "photos", "-q", *changes).exit_code == 0
    assert planted[0]["config"] == defaults


def test_options_reach_the_configuration(planted):
    assert run("align", "photos", "-q", "--seed", "7", "--device", "cpu", "--set", "grid=32").exit_code == 0
    assert planted[0]["config"] == AlignmentConfig(seed=7, device="cpu", grid=32)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "grid"], 2, "Invalid value for --set: 'grid' is not of the form NAME=VALUE."),
        (["--set", "grid=x"], 1, "Error: The setting 'grid' takes a value of type int, not 'x'."),
        (["--set", "grid=1"], 1, "Error: The setting 'grid' must lie between 8 and 256; 1 does not."),
        (["--seed", "1", "--set", "seed=2"], 1, "Error: The setting 'seed' is given twice. Give it once."),
        (["--preset", "x"], 1, "Error: There is no preset 'x'; choose one of: "),
        (["--set", "no=1"], 1, "Error: There is no setting 'no'; the settings are: preset, backbone, "),
    ],
)
def test_wrong_settings(planted, arguments, code, message):
    result = run("align", "photos", *arguments)
    assert result.exit_code == code
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not Path("asic3d_out").exists()


# ---- align ---------------------------------------------------------------------------------------------------------


def test_align_writes_the_run_folder_and_tells_about_it(planted):
    result = run("align", "photos")
    assert result.exit_code == 0, result.output
    assert (Path("asic3d_out") / "report.html").is_file() and (Path("asic3d_out") / "run.json").is_file()
    assert planted[0]["cache"] == Path("asic3d_out/cache/features")
    assert planted[0]["checkpoint"] == Path("asic3d_out/checkpoint.safetensors")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[1].startswith("3 photos, backbone planted, cpu, ")
    assert lines[2] == "All 3 photos fit together."
    assert ["Planted", "figure", "0.812"] in [line.split() for line in lines]
    assert any(line.startswith("Reading the photos with the network") and line.endswith("1.5") for line in lines)
    assert "asic3d_out/report.html" in result.stdout.replace(os.sep, "/")
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        "Loading the photos",
        "Reading the photos with the network",
        "Saving",
        "Writing the report",
    ]


def test_what_people_copy_is_never_broken_over_lines(planted):
    folder = Path("a folder " + "with a long name " * 8)
    lines = run("align", "photos", "-o", folder).stdout.splitlines()
    assert f"Report  {folder / 'report.html'}" in lines
    assert f"Next    asic3d transfer '{folder}' --source A --target B --point X,Y" in lines


def test_quiet_prints_nothing(planted):
    result = run("align", "photos", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_json_is_one_object_and_nothing_else(planted):
    (Path("photos") / "broken.jpg").write_text("no photo")
    result = run("align", "photos", "--json", "-o", "out")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert told["run"] == "out" and Path(told["report"]) == Path("out/report.html")
    assert told["photos"] == pytest.approx({"a.jpg": 0.95, "b.jpg": 0.95, "c.jpg": 0.95})
    assert told["quality"] == {"planted_figure": 0.8125}
    assert told["verdict"] == {"level": "good", "text": "All 3 photos fit together."}
    assert list(told["seconds"]) == ["photos", "features", "canonical", "saving", "report"]


def test_a_warning_is_shown_once(planted):
    (Path("photos") / "broken.jpg").write_text("no photo")
    result = run("align", "photos")
    assert result.exit_code == 0
    assert result.output.count("broken.jpg") == 1
    assert any(line.startswith("Warning: ") and "broken.jpg" in line for line in result.stderr.splitlines())


def test_strict_stops_at_a_broken_photo_and_leaves_no_folder(planted):
    (Path("photos") / "broken.jpg").write_text("no photo")
    result = run("align", "photos", "--strict")
    assert result.exit_code == 1
    assert "broken.jpg" in result.stderr and planted == []
    assert not Path("asic3d_out").exists()


def test_a_finished_run_is_not_overwritten(planted):
    assert run("align", "photos", "-q").exit_code == 0
    result = run("align", "photos")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: 'asic3d_out' holds a finished run. Replace it with --overwrite")
    assert run("align", "photos", "-q", "--overwrite").exit_code == 0


def test_a_missing_folder_is_one_sentence(planted):
    result = run("align", "nowhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: There is no folder 'nowhere'. Give the folder that holds the photos.\n"


def test_an_error_as_json(planted):
    result = run("align", "nowhere", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    assert json.loads(result.stdout) == {
        "error": "There is no folder 'nowhere'. Give the folder that holds the photos."
    }


def test_wrong_usage_as_json(planted):
    result = run("align", "photos", "--json", "--no-such-option")
    assert (result.exit_code, result.stderr) == (2, "")
    assert "--no-such-option" in json.loads(result.stdout)["error"]


def test_errors_of_the_fit_are_one_sentence(planted, monkeypatch):
    def fail(*_, **__):
        raise AlignmentError("Nothing matches. Take photos that show the same side.")

    monkeypatch.setattr(asic3d, "align", fail)
    result = run("align", "photos", "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: Nothing matches. Take photos that show the same side.\n"


def test_unexpected_errors_are_not_hidden(planted, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(asic3d, "align", fail)
    assert isinstance(run("align", "photos").exception, ZeroDivisionError)


def test_only_our_own_warnings_are_shown(planted, monkeypatch):
    def align(*_, progress, **__):
        warnings.warn("The small network runs.", BackboneWarning, stacklevel=1)
        warnings.warn("old function", FutureWarning, stacklevel=1)
        raise AlignmentError("Enough.")

    monkeypatch.setattr(asic3d, "align", align)
    lines = run("align", "photos").stderr.splitlines()
    assert lines[1:] == ["Warning: The small network runs.", "Error: Enough."]


def interrupt(*_, checkpoint, **__):
    checkpoint.write_bytes(b"half way")
    raise KeyboardInterrupt


def test_ctrl_c_says_how_to_go_on_and_keeps_the_checkpoint(planted, monkeypatch):
    working = asic3d.align
    monkeypatch.setattr(asic3d, "align", interrupt)
    result = run("align", "photos")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "Stopped. Give the same command with --resume to go on from the last checkpoint."
    )
    checkpoint = Path("asic3d_out/checkpoint.safetensors")
    assert checkpoint.read_bytes() == b"half way"

    monkeypatch.setattr(asic3d, "align", lambda *a, **k: (checkpoint.read_bytes(), working(*a, **k))[1])
    assert run("align", "photos", "--resume", "-q").exit_code == 0
    assert not checkpoint.exists()


def test_without_resume_an_old_checkpoint_is_not_used(planted, monkeypatch):
    working = asic3d.align
    monkeypatch.setattr(asic3d, "align", interrupt)
    run("align", "photos")
    seen = []
    monkeypatch.setattr(
        asic3d, "align", lambda *a, checkpoint, **k: (seen.append(checkpoint.exists()), working(*a, **k))[1]
    )
    assert run("align", "photos", "-q").exit_code == 0
    assert seen == [False]


def test_ctrl_c_as_json(planted, monkeypatch):
    monkeypatch.setattr(asic3d, "align", interrupt)
    result = run("align", "photos", "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout)["error"].startswith("Stopped. ")


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from asic3d_cli.main import main; sys.stdin.read(); main([])"
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "cli", "integrations"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, **pipes)
    process.stdout.close()
    process.stdin.close()  # only now does it print
    stderr = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), stderr) == (0, b"")


def test_names_that_the_terminal_cant_show_are_escaped(planted, monkeypatch):
    monkeypatch.setattr(
        asic3d, "load_alignment", lambda run: (_ for _ in ()).throw(AlignmentError("'\udce4.jpg' is odd."))
    )
    result = run("transfer", "--source", "a.jpg", "--point", "1,2")
    assert (result.exit_code, result.stderr) == (1, "Error: '\\udce4.jpg' is odd.\n")


# ---- add -----------------------------------------------------------------------------------------------------------


def test_add_writes_the_run_anew(planted):
    assert run("align", "photos", "-q").exit_code == 0
    result = run("add", "asic3d_out", "photos/a.jpg", "photos/b.jpg")
    assert result.exit_code == 0
    assert "Look at this: a.jpg was added.\nLook at this: b.jpg was added.\n" in result.stdout
    assert "b.jpg was added." in Path("asic3d_out/report.html").read_text("utf-8")
    assert result.stderr.startswith("Placing the new photos: ")


def test_add_needs_photos(planted):
    result = run("add", "asic3d_out")
    assert result.exit_code == 2 and "Missing argument 'PHOTO...'" in result.stderr


# ---- transfer ------------------------------------------------------------------------------------------------------


def test_transfer_prints_csv_where_no_terminal_is(planted):
    result = run("transfer", "--source", "a.jpg", "--target", "b.jpg", "--point", "50,40", "--point", "0,0.5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "source,target,source_x,source_y,x,y,confidence,cycle_error\n"
        "a.jpg,b.jpg,50,40,37.00,59.00,0.900,0.00\n"
        "a.jpg,b.jpg,0,0.5,-8.00,23.45,0.100,0.00\n"
    )


def test_transfer_to_all_is_the_default(planted):
    implied, explicit = (
        run("transfer", "run", "--source", "b.jpg", *targets, "--point", "28,50").stdout
        for targets in ((), ("--target", "all", "--target", "a.jpg"))
    )
    assert implied == explicit
    rows = list(csv.DictReader(io.StringIO(implied)))
    assert [(row["target"], row["x"], row["y"]) for row in rows] == [
        ("a.jpg", "40.00", "30.00"),
        ("c.jpg", "44.00", "38.00"),
    ]


def test_transfer_as_json(planted):
    result = run("transfer", "--source", "a.jpg", "--target", "c.jpg", "--point", "40,30", "--json")
    assert json.loads(result.stdout) == {
        "source": "a.jpg",
        "points": [[40.0, 30.0]],
        "targets": {"c.jpg": {"points": [[44.0, 38.0]], "confidence": [0.9], "cycle_error": [0.0]}},
    }


def test_transfer_names_an_unknown_photo(planted):
    for names in (("--source", "x.jpg"), ("--source", "a.jpg", "--target", "x.jpg")):
        result = run("transfer", *names, "--point", "1,2")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "There is no photo 'x.jpg' in the collection." in result.stderr.replace("“", "'").replace("”", "'")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("12", "'12' is not a point; write X,Y in pixels, for example 120,80."),
        ("1,2,3", "'1,2,3' is not a point; write X,Y in pixels, for example 120,80."),
        ("a,2", "'a' is not a number."),
        ("nan,2", "'nan' is not a finite number."),
    ],
)
def test_transfer_with_a_wrong_point(planted, point, message):
    result = run("transfer", "--source", "a.jpg", "--point", point)
    assert result.exit_code == 2
    assert result.stderr.endswith(f"Error: Invalid value for '--point': {message}\n")


def test_transfer_without_points(planted):
    result = run("transfer", "--source", "a.jpg")
    assert result.exit_code == 2 and "Give at least one point: --point X,Y or --points FILE." in result.stderr


def test_transfer_of_a_file(planted):
    Path("points.csv").write_text("x,y\n40,30\n50,40\n")
    result = run("transfer", "--source", "a.jpg", "--target", "b.jpg", "--points", "points.csv", "--point", "0,0")
    assert [row["source_x"] for row in csv.DictReader(io.StringIO(result.stdout))] == ["0", "40", "50"]


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3.5,-4e1\n",
        "x,y\n1,2\n\n3.5,-40\n",
        "\ufeffname;Y; X \nnose;2;1\ntail;-40;3.5\n",
        "1\t2\textra\n3.5\t-40\n",
        "1,2\r\n3.5,-40",
    ],
)
def test_points_files(tmp_path, text):
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    assert read_points(tmp_path / "p.csv") == [(1.0, 2.0), (3.5, -40.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x,y\n1,2\nabc,3\n", ", line 3: 'abc' is not a number."),
        (b"1,2\n\n3\n", ", line 3: found '3', but x,y is needed."),
        (b"1,2\n3,inf\n", ", line 2: 'inf' is not a finite number."),
        (b"1,2\n3,\n", ", line 2: '' is not a number."),
        (b"u,v\n1,2\n", " is u,v; it needs columns named x and y."),
        (b"x,y\n", " holds no points. Write one x,y in pixels on each line."),
        (b"", " holds no points. Write one x,y in pixels on each line."),
        (b"\xff\xfe\x00\x01", " is no text file. Give a CSV file with columns x and y."),
    ],
)
def test_wrong_points_files(tmp_path, content, message):
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(PointsError) as error:
        read_points(path)
    assert str(error.value).removeprefix("The header of ") == f"'{path}'{message}"


def test_a_points_file_that_is_not_there(planted):
    result = run("transfer", "--source", "a.jpg", "--points", "none.csv")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: 'none.csv' can't be read ({os.strerror(errno.ENOENT)}). Give a CSV file with columns x and y.\n"
    )


def test_parse_point():
    assert parse_point(" 1.5, -2e1") == (1.5, -20.0)


# ---- evaluate ------------------------------------------------------------------------------------------------------


def write_keypoints(folder: Path) -> None:
    """keypoints.json for the planted photos: four places of the disc, in pixels of each photo."""
    from planted_alignment import CENTRES, RADII, SIZES

    images = []
    for name, size, (x, y), radius in zip(("a.jpg", "b.jpg", "c.jpg"), SIZES, CENTRES, RADII, strict=True):
        places = {"left": (-0.7, 0), "right": (0.7, 0), "top": (0, -0.7), "bottom": (0, 0.7)}
        points = {key: [x + u * radius, y + v * radius, 1] for key, (u, v) in places.items()}
        box = [x - radius, y - radius, x + radius, y + radius]
        images.append({"file": f"photos/{name}", "size": size, "bbox": box, "keypoints": points})
    (folder / "keypoints.json").write_text(json.dumps({"images": images}))


def test_evaluate_keypoints_beside_its_baselines(planted, tmp_path):
    write_keypoints(tmp_path)
    result = run("evaluate", "keypoints", ".", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert list(told["methods"]) == ["identity", "nearest neighbour", "asic3d"]
    exact, identity, neighbour = (told["methods"][name] for name in ("asic3d", "identity", "nearest neighbour"))
    assert exact["pck@0.05"] == exact["pck@0.1"] == exact["cycle3@0.1_hops"] == exact["cycle3@0.1_return"] == 1
    assert identity["pck@0.1"] < 1 and identity["cycle2@0.1_return"] == identity["cycle3@0.1_return"] == 1
    assert neighbour["pck@0.1"] == 0  # the stand-in's is 15 pixels off


def test_evaluate_keypoints_as_a_table(planted, tmp_path):
    write_keypoints(tmp_path)
    result = run("evaluate", "keypoints", ".", "-q")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["PCK@0.1", "PCK@0.05", "2-cycle", "(return)", "3-cycle", "(return)"]
    assert lines[4].split() == ["asic3d", "100.0", "100.0", "100.0", "(100.0)", "100.0", "(100.0)"]
    assert lines[6].startswith("Keypoints found, in percent.")
    assert "it returns from every cycle exactly" in result.stdout
    assert result.stderr == ""


def test_evaluate_without_annotations(planted):
    result = run("evaluate", "keypoints", "photos")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: There is no keypoints.json in photos; name a folder that holds one.\n"


# ---- the real library ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo of four photos: (run folder, what it told as JSON)."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    result = run("demo", "-o", folder, "--photos", "4", "--backbone", "efficientnet-lite0", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return folder, json.loads(result.stdout)


def test_demo_is_near_the_truth_and_beats_its_baselines(demo):
    _, told = demo
    exact, neighbour, identity = (
        told["truth"]["methods"][name]["pck@0.1"] for name in ("asic3d", "nearest neighbour", "identity")
    )
    assert exact > neighbour > identity and exact > 0.85
    assert told["truth"]["mask_iou"] > 0.75
    assert told["verdict"]["level"] == "good" and told["warnings"] == []


def test_every_figure_and_stage_is_explained(demo):
    from asic3d_integrations.verdict import STAGES, quality_figures

    _, told = demo
    figures = quality_figures(SimpleNamespace(quality=told["quality"]))
    assert [figure.label for figure in figures if not figure.meaning or not figure.level] == []
    assert set(told["seconds"]) <= set(STAGES)


def test_demo_writes_the_run_folder_and_keeps_the_truth(demo):
    folder, told = demo
    assert {entry.name for entry in folder.iterdir()} == {
        ".asic3d", "alignment.safetensors", "cache", "collection", "figures", "masks", "report.html", "run.json"
    }  # fmt: skip
    assert {entry.name for entry in (folder / "masks").iterdir()} == {f"{name}.png" for name in told["photos"]}
    assert (folder / "collection" / "keypoints.json").is_file()
    result = run("demo", "-o", folder)
    assert result.exit_code == 1 and "holds a finished run" in result.stderr


def test_transfer_in_the_demo_finds_what_is_there(demo):
    folder, _ = demo
    images = json.loads((folder / "collection" / "keypoints.json").read_text())["images"]
    source, target = (image["keypoints"] for image in images[:2])
    both = [name for name in source if source[name][2] and target[name][2]]
    points = [f"--point={source[name][0]},{source[name][1]}" for name in both]
    result = run("transfer", folder, "--source", "photo_01.jpg", "--target", "photo_02.jpg", *points)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    x0, y0, x1, y1 = images[1]["bbox"]
    errors = [
        math.hypot(float(row["x"]) - target[name][0], float(row["y"]) - target[name][1]) / max(x1 - x0, y1 - y0)
        for name, row in zip(both, rows, strict=True)
    ]
    assert len(errors) > 5 and statistics.median(errors) < 0.05


def test_add_to_the_demo_places_the_photo_and_leaves_the_others(demo, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(demo[0], folder)
    new = folder / "collection" / "images" / "photo_02.jpg"
    Image.open(new).save(tmp_path / "again.jpg", quality=80)
    result = run("add", folder, tmp_path / "again.jpg", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert list(told["photos"]) == [*demo[1]["photos"], "again.jpg"]
    found = run("transfer", folder, "--source", "photo_02.jpg", "--target", "again.jpg", "--point", "120,160", "--json")
    x, y = json.loads(found.stdout)["targets"]["again.jpg"]["points"][0]
    assert math.hypot(x - 120, y - 160) < 8


def test_an_interrupted_fit_goes_on_and_ends_the_same(demo, tmp_path, monkeypatch):
    def stop(self, progress):
        if (progress.stage, progress.done) == ("canonical", 2):
            raise KeyboardInterrupt

    arguments = ("align", demo[0] / "collection" / "images", "-o", tmp_path / "run", "--backbone", "efficientnet-lite0")
    with monkeypatch.context() as patch:
        patch.setattr(_Lines, "__call__", stop)
        assert run(*arguments).exit_code == 130
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    result = run(*arguments, "--resume")
    assert result.exit_code == 0, result.stderr
    whole, resumed = (asic3d.load_alignment(folder) for folder in (demo[0], tmp_path / "run"))
    assert (whole.canonical - resumed.canonical).abs().max() < 1e-4
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
