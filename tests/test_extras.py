"""Optional packages that are not installed, and ones that are and can't be imported: each told with its cure."""

import sys

import pytest
from cli_runner import plant_library, run

from asic3d.errors import MissingExtraError
from asic3d.extras import load_extra

LIBUSB = "libusb-1.0.so.0: cannot open shared object file: No such file or directory"


def broken(tmp_path, monkeypatch, name: str, content: str) -> None:
    """A package on the path whose import does something."""
    (tmp_path / "site" / name).mkdir(parents=True)
    (tmp_path / "site" / name / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path / "site")
    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)


def told(module: str = "extra_of_test") -> str:
    with pytest.raises(MissingExtraError) as caught:
        load_extra(module, "It needs Extra", "extra-of-test")
    return str(caught.value)


@pytest.mark.parametrize("module", ["extra_of_test", "extra_of_test.deep.below"])
def test_not_installed(module):
    assert told(module) == "It needs Extra: pip install extra-of-test."


@pytest.mark.parametrize(
    ("content", "rest"),
    [
        (
            f"raise ImportError({LIBUSB!r})",
            f"({LIBUSB}). Install the system's library, on Debian and Ubuntu: apt-get install libusb-1.0-0.",
        ),
        (
            "raise OSError('libGL.so.1: cannot open')",
            "(libGL.so.1: cannot open). Install the system's library, on Debian and Ubuntu: apt-get install libgl1.",
        ),
        (
            "import missing_of_test.part",
            "(No module named 'missing_of_test'). Install what it needs: pip install missing_of_test.",
        ),
        ("raise AttributeError", "(AttributeError). Install it anew: pip install --force-reinstall extra-of-test."),
    ],
)
def test_installed_and_not_importable(tmp_path, monkeypatch, content, rest):
    broken(tmp_path, monkeypatch, "extra_of_test", content)
    assert told() == f"It needs Extra, which is installed but can't be imported {rest}"


def test_it_is_imported(tmp_path, monkeypatch):
    broken(tmp_path, monkeypatch, "extra_of_test", "answer = 42")
    assert load_extra("extra_of_test", "It needs Extra", "extra-of-test").answer == 42


def test_commands_tell_the_cause(tmp_path, monkeypatch):
    plant_library(tmp_path, monkeypatch)
    broken(tmp_path, monkeypatch, "h5py", f"raise ImportError({LIBUSB!r})")
    printed = " ".join(run("export-colmap", "--tracks", "canonical").output.split())
    assert f"hloc's files need h5py, which is installed but can't be imported ({LIBUSB})." in printed
    assert "apt-get install libusb-1.0-0" in printed
