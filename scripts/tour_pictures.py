"""Draws the pictures of docs/tour.md anew, from photos that asic3d renders itself.

python scripts/tour_pictures.py [RUN] [-o docs/pictures]

Runs the commands of the tour in a temporary folder; RUN is a finished `asic3d demo` instead. Chromium, where it is
found, takes the picture of the explorer. Without it, and without cameras in RUN, those pictures stay as they are.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 1000
"""Pixels of the longer side of a picture, at most."""
_SHEETS = ("colours.jpg", "masks.jpg", "parts.jpg", "points.jpg", "canonical.png")
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Draws all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parents[1] / "docs" / "pictures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run
        if run is None:
            run = Path(folder) / "asic3d_demo"
            asic3d("demo", "-o", str(run))
            asic3d("export-colmap", str(run), "--map")
        draw(run, arguments.output)


def asic3d(*words: str) -> None:
    """One command of the tour, in a process of its own."""
    program = "import sys; from asic3d_cli.main import main; main(sys.argv[1:], prog_name='asic3d')"
    subprocess.run([sys.executable, "-c", program, *words], check=True)


def draw(run: Path, folder: Path) -> None:
    """Writes the pictures, WebP, into a folder.

    Args:
        run: a finished run with its report; with ``colmap/sparse`` the cameras are drawn too.
        folder: where to write; made where it is missing.
    """
    from asic3d import load_alignment
    from asic3d_integrations.contact_sheets import sheet_of

    folder.mkdir(parents=True, exist_ok=True)
    alignment = load_alignment(run)
    photos = [alignment.collection[name] for name in alignment.names]
    _keep(sheet_of([photo.pixels for photo in photos], 320), folder / "photos.webp")
    for name in _SHEETS:
        _keep(Image.open(run / "figures" / name), folder / f"{Path(name).stem}.webp")
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        source = alignment.names[0]
        number_painted(alignment.mask(source)).save(scratch / "edit.png")
        edit, edited = scratch / "edit.png", scratch / "edited"
        asic3d("propagate", str(run), "--source", source, "--edit", str(edit), "-o", str(edited), "--quiet")
        _keep(Image.open(edited / "overview.jpg"), folder / "edit.webp")
        if (run / "colmap" / "sparse" / "0").is_dir():
            asic3d("view", str(run), "--picture", str(scratch / "scene.png"), "--quiet")
            _keep(Image.open(scratch / "scene.png"), folder / "cameras.webp")
        browser = next(filter(None, map(shutil.which, _CHROMIUM)), None)
        if browser:
            x, y = _middle(alignment.mask(source))
            asic3d("view", str(run), "-o", str(scratch / "page.html"), "--quiet")
            shot = [f"--screenshot={scratch / 'page.png'}", "--window-size=1200,520", "--virtual-time-budget=4000"]
            address = f"{(scratch / 'page.html').as_uri()}#photo={source}&x={x}&y={y}"
            quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            subprocess.run([browser, *quiet, *shot, address], check=True, capture_output=True, timeout=120)
            _keep(Image.open(scratch / "page.png"), folder / "explorer.webp")


def number_painted(mask: np.ndarray) -> Image.Image:
    """An inventory number to paint on the object, and a ring around it: RGBA, transparent elsewhere.

    Args:
        mask: (h, w) uint8, 255 = the object of the photo that is painted on.
    """
    layer = Image.new("RGBA", mask.shape[::-1])
    pen, (x, y) = ImageDraw.Draw(layer), _middle(mask)
    size = float(np.sqrt((mask > 127).sum())) / 4
    pen.ellipse((x - size, y - size, x + size, y + size), outline=(255, 230, 0, 255), width=max(2, round(size / 8)))
    pen.text((x, y), "A 17", (255, 230, 0, 255), ImageFont.load_default(size * 0.75), anchor="mm")
    return layer


def _middle(mask: np.ndarray) -> tuple[int, int]:
    """A pixel of the object near its middle, x and y."""
    rows, columns = np.nonzero(mask > 127)
    nearest = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
    return int(columns[nearest]), int(rows[nearest])


def _keep(picture: Image.Image, path: Path) -> None:
    picture.thumbnail((SIDE, SIDE))
    picture.save(path, "WEBP", quality=80, method=6)


if __name__ == "__main__":
    main()
