import dataclasses
import errno
import importlib
import json
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import click
import pytest
import torch
from cli_runner import plant_library, run

import asic3d
from asic3d.config import AlignmentConfig, Progress
from asic3d.errors import AlignmentError, BackboneWarning, CheckpointWarning
from asic3d_cli import options
from asic3d_cli.console import Console
from asic3d_cli.main import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def planted(tmp_path, monkeypatch):
    return plant_library(tmp_path, monkeypatch)


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["align", "--help"],
        ["transfer", "--help"],
        ["demo", "--help"],
        ["doctor", "--help"],
        ["export", "--help"],
        ["view", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom asic3d_cli.main import main\n"
        f"try: main({arguments})\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'timm', 'cv2', 'numpy', 'PIL', 'rich', 'trimesh', 'safetensors', 'scipy', 'pycolmap',\n"
        "  'open3d', 'matplotlib', 'importlib.metadata'} & set(sys.modules)\n"
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
    importlib.reload(asic3d)  # the command line imports it before anything that loads torch
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
        (["--set", "grid=x"], 1, "Error: The setting 'grid' takes a whole number from 8 to 256, not 'x'."),
        (["--set", "grid=1"], 1, "Error: The setting 'grid' must lie between 8 and 256; 1 does not."),
        (["--seed", "1", "--set", "seed=2"], 1, "Error: The setting 'seed' is given twice. Give it once."),
        (["--seed", "x"], 1, "Error: The setting 'seed' takes a whole number from 0 to 2147483647, not 'x'."),
        (["--preset", "x"], 1, "Error: There is no preset 'x'; choose one of: "),
        (["--set", "no=1"], 1, "Error: There is no setting 'no'. 'asic3d align --help' lists all of them"),
        (
            ["--set", "seeds=1"],
            1,
            "Error: There is no setting 'seeds'. Did you mean 'seed'? 'asic3d align --help'",
        ),
    ],
)
def test_wrong_settings(planted, arguments, code, message):
    result = run("align", "photos", *arguments)
    assert result.exit_code == code
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not Path("asic3d_out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["align", "photos", "-o", ""], "Invalid value for '-o' / '--output': the name is empty; give a path, '.' for"),
        (["align", ""], "Invalid value for 'PHOTOS': the name is empty; give a path, '.' for the working folder."),
        (["align", "photos", "--config", ""], "Invalid value for '--config': the name is empty; give a path"),
        (["propagate", "--source", "a.jpg", "--edit", ""], "Invalid value for '--edit': the name is empty"),
        (["demo", "--photos", "41"], "Invalid value for '--photos': '41' is not a whole number from 2 to 40."),
        (
            ["export-colmap", "--min-views", "x"],
            "Invalid value for '--min-views': 'x' is not a whole number from 2",
        ),
        (
            ["evaluate", "keypoints", ".", "--cycles", "0"],
            "Invalid value for '--cycles': '0' is not a whole number from",
        ),
    ],
)
def test_paths_and_numbers_that_can_not_be(planted, words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["photos"]


# ---- align ---------------------------------------------------------------------------------------------------------


def test_align_writes_the_run_folder_and_tells_about_it(planted):
    result = run("align", "photos")
    assert result.exit_code == 0, result.output
    assert (Path("asic3d_out") / "report.html").is_file() and (Path("asic3d_out") / "run.json").is_file()
    assert planted[0]["cache"] == Path("asic3d_out/cache")
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
        "Making the report",
        "Saving",
    ]


def test_align_can_end_with_the_explorer(planted, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "asic3d_cli.view.show_explorer", lambda _, run: seen.append((run, (run / "run.json").is_file()))
    )
    assert run("align", "photos").exit_code == 0
    assert seen == []
    assert run("align", "photos", "-o", "other", "--view").exit_code == 0
    assert seen == [(Path("other"), True)]
    result = run("align", "photos", "-o", "third", "--view", "--json")
    assert result.exit_code == 2 and not Path("third").exists()
    assert json.loads(result.output) == {"error": "--view opens a page for people; leave --json or --view away."}


def test_long_stages_say_how_far_they_are(monkeypatch, capsys):
    monkeypatch.setattr(Console, "elapsed", property(lambda self: clock[0]))
    clock, console = [0.0], Console([])
    with console.progress({"pairs": "Matching the pairs"}) as progress:
        for seconds, done in ((5, 1), (19, 2), (21, 3), (30, 4), (42, 5), (43, 9), (90, 9)):
            clock[0] = float(seconds)
            progress(Progress("pairs", done, 9))
    assert capsys.readouterr().err.splitlines() == [
        "Matching the pairs: 3 of 9 after 21 s",
        "Matching the pairs: 5 of 9 after 42 s",
        "Matching the pairs: done after 43.0 s",
    ]


def test_a_stage_that_tells_its_beginning_shows_it_once(monkeypatch, capsys):
    monkeypatch.setattr(Console, "elapsed", property(lambda self: clock[0]))
    clock, console = [0.0], Console([])
    with console.progress({"sift": "Matching keypoints"}) as progress:
        for seconds, done in ((1, 0), (2, 0), (3, 1), (30, 1), (31, 2), (32, 0)):
            clock[0] = float(seconds)
            progress(Progress("sift", done, 2))
    assert capsys.readouterr().err.splitlines() == [
        "Matching keypoints: begun after 1.0 s",
        "Matching keypoints: 1 of 2 after 30 s",
        "Matching keypoints: done after 31.0 s",
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
    assert list(told["seconds"]) == ["photos", "features", "canonical", "report", "saving"]


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


def test_photos_that_change_meanwhile_are_named(planted, monkeypatch):
    working = asic3d.align

    def align(*arguments, **options):
        found = working(*arguments, **options)
        with min(Path("photos").glob("*.jpg")).open("ab") as photo:
            photo.write(b"0")
        return found

    monkeypatch.setattr(asic3d, "align", align)
    result = run("align", "photos")
    assert result.exit_code == 0, result.output
    first = min(Path("photos").glob("*.jpg")).name
    assert f"Warning: Changed, or gone, while they were being aligned: '{first}'. " in result.stderr


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
    result = run("align", "photos")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Loading the photos") and "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1] == (
        "Error: A fault in asic3d stopped it (ZeroDivisionError). Please report it with the lines above."
    )


def test_a_full_graphics_card_is_no_fault(planted, monkeypatch):
    def fail(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(asic3d, "align", fail)
    result = run("align", "photos", "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: The graphics card has no room left for this. ")
    assert "Traceback" not in result.stderr


def test_unexpected_errors_as_json(planted, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("in two\n  lines")

    monkeypatch.setattr(asic3d, "align", fail)
    result = run("align", "photos", "--json")
    assert result.exit_code == 1 and "Traceback" in result.stderr
    assert json.loads(result.stdout) == {
        "error": "A fault in asic3d stopped it (ZeroDivisionError: in two lines). "
        "Please report it with the lines above."
    }


def test_a_fault_in_the_report_leaves_no_finished_run(planted, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("asic3d_integrations.report_sections.sections", fail)
        assert run("align", "photos").exit_code == 1
        assert not Path("asic3d_out/run.json").exists()
    assert run("align", "photos", "-q").exit_code == 0
    before = {path: path.read_bytes() for path in Path("asic3d_out").rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("asic3d_integrations.report_sections.sections", fail)
        assert run("add", "asic3d_out", "photos/a.jpg").exit_code == 1
    assert {path: path.read_bytes() for path in Path("asic3d_out").rglob("*") if path.is_file()} == before


def test_two_commands_at_once_in_one_folder(planted, monkeypatch):
    """The second is refused in a sentence, whatever it wants, and the first loses nothing."""
    working, refused = asic3d.align, []

    def meanwhile(*arguments, **options):
        thread = threading.Thread(target=lambda: refused.append(run("align", "photos", "--overwrite")))
        thread.start()
        thread.join()
        return working(*arguments, **options)

    monkeypatch.setattr(asic3d, "align", meanwhile)
    assert run("align", "photos", "-q").exit_code == 0
    assert (refused[0].exit_code, refused[0].stdout) == (1, "")
    assert refused[0].stderr.startswith("Error: Another asic3d is writing to 'asic3d_out' (process ")
    assert refused[0].stderr.count("\n") == 1
    assert sorted(path.name for path in Path("asic3d_out").iterdir() if path.name.startswith(".")) == [".asic3d"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--backbone", "resnet", "There is no backbone 'resnet'; choose 'auto' or one of: "),
        ("--weights", "none.pth", f"The weights 'none.pth' can't be read ({os.strerror(errno.ENOENT)})."),
        ("--device", "toaster", "There is no device 'toaster'; choose 'auto', 'cpu', 'cuda' or 'cuda:N'."),
    ],
)
def test_what_can_not_run_is_said_before_the_photos_are_loaded(planted, option, value, message):
    result = run("align", "photos", option, value)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {message}")  # nothing about photos before it
    assert planted == [] and not Path("asic3d_out").exists()


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
    result = run("align", "photos", "--overwrite", "-o", "my run", "--seed", "0")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "Stopped. To go on from the last checkpoint: asic3d align --resume photos --overwrite -o 'my run' --seed 0"
    )
    checkpoint = Path("my run/checkpoint.safetensors")
    assert checkpoint.read_bytes() == b"half way"

    monkeypatch.setattr(asic3d, "align", lambda *a, **k: (checkpoint.read_bytes(), working(*a, **k))[1])
    assert run("align", "--resume", "photos", "--overwrite", "-o", "my run", "--seed", "0", "-q").exit_code == 0
    assert not checkpoint.exists()


def test_resume_refuses_a_checkpoint_of_other_settings_and_leaves_it(planted, monkeypatch):
    working = asic3d.align
    monkeypatch.setattr(asic3d, "align", interrupt)
    run("align", "photos")
    checkpoint = Path("asic3d_out/checkpoint.safetensors")

    def align(*arguments, **options):
        warnings.warn(CheckpointWarning("The fit", "'it' is of other photos or settings."), stacklevel=2)
        return working(*arguments, **options)

    monkeypatch.setattr(asic3d, "align", align)
    refused = run("align", "photos", "--resume")
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1] == (
        "Error: 'it' is of other photos or settings. Give the settings and photos of the interrupted run, or leave "
        "--resume away to begin anew."
    )
    assert checkpoint.read_bytes() == b"half way"
    monkeypatch.setattr(asic3d, "align", working)
    assert "Going on from the checkpoint in 'asic3d_out'." in run("align", "photos", "--resume").stderr


def test_ctrl_c_before_the_first_checkpoint_promises_none(planted, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(asic3d, "align", stop)
    result = run("align", "photos", "-o", "new run")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "Stopped before there was anything to go on from. Give the same command to begin again."
    )
    assert not Path("new run").exists()


def test_resume_says_that_there_is_nothing_to_go_on_from(planted):
    result = run("align", "photos", "--resume")
    assert result.exit_code == 0
    assert "There is no checkpoint in 'asic3d_out' to go on from: it begins with the photos." in result.stderr
    assert "no checkpoint" not in run("align", "photos", "--overwrite").stderr


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
        asic3d, "load_alignment", lambda run, photos: (_ for _ in ()).throw(AlignmentError("'\udce4.jpg' is odd."))
    )
    result = run("transfer", "--source", "a.jpg", "--point", "1,2")
    assert (result.exit_code, result.stderr) == (1, "Error: '\\udce4.jpg' is odd.\n")
