"""Checks a wheel and where its packages are imported from: ``python .ci/wheel_contents.py WHEEL``."""

import importlib.util
import sys
import sysconfig
import zipfile

PACKAGES = {"asic3d", "asic3d_cli", "asic3d_integrations"}


def main(wheel: str) -> None:
    """Raises SystemExit with a sentence where something is wrong."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if tops != PACKAGES:
        sys.exit(f"The wheel holds {sorted(tops)}, not {sorted(PACKAGES)}.")
    data = {"asic3d/py.typed", *(f"asic3d_integrations/{name}" for name in _page_files())}
    if data - names:
        sys.exit(f"The wheel lacks {sorted(data - names)}.")
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not str(spec.origin).startswith(sysconfig.get_path("purelib")):
            sys.exit(f"{package} is imported from {spec and spec.origin}, not from the wheel.")


def _page_files() -> tuple[str, ...]:
    """What the report, the explorer and the page in 3-D are made of."""
    pages = (f"{page}.{kind}" for page in ("report", "explorer") for kind in ("html", "css", "js"))
    return *pages, "explorer_maps.js", "explorer_drawing.js", "scene.html"


if __name__ == "__main__":
    main(sys.argv[1])
