"""Files that people look at: what they may be called, that none is lost, and how they are opened."""

from pathlib import Path

import click

from asic3d_cli.console import Console


def open_page(console: Console, what: str, page: Path) -> None:
    """Opens a page in a browser where there is a display, and says where it is."""
    import webbrowser

    from asic3d_integrations.colmap.window import display_here

    opened = display_here() and webbrowser.open(page.resolve().as_uri())
    if console.as_json:
        console.emit({what: page, "opened": opened})
    else:
        console.show(f"{'Opened' if opened else 'Open this file in a browser:'} {page}")


def open_temporary(console: Console, what: str, run: Path, name: str, content: bytes) -> None:
    """Opens a page of a run that can't be written, such as one on a read-only medium."""
    import tempfile

    from asic3d.storage import atomic_write

    page = Path(tempfile.mkdtemp(prefix="asic3d_")) / name
    atomic_write(page, lambda file: file.write(content))
    console.warn(f"'{run}' can't be written: the page is among the system's temporary files. Keep it with -o FILE.")
    open_page(console, what, page)


def save_page(console: Console, what: str, page: Path, content: bytes) -> None:
    """Writes a page and says where it is."""
    from asic3d.storage import atomic_write

    atomic_write(page, lambda file: file.write(content))
    if console.as_json:
        console.emit({what: page, "bytes": len(content)})
    else:
        console.show(f"Open this file in a browser: {page} ({len(content) / 1e6:.1f} MB)")


def check_ending(path: Path, what: str, endings: tuple[str, ...], option: str) -> None:
    """Refuses a file name that says it is something else; the first of the endings is the usual one."""
    if path.suffix.lower() not in endings:
        raise click.BadParameter(
            f"'{path}' is no name of {what}; write one that ends in {endings[0]}.", param_hint=option
        )


def keep_existing(path: Path, overwrite: bool) -> None:
    """Raises StorageError where a file is there and may not be replaced."""
    from asic3d.errors import StorageError

    if path.exists() and not overwrite:
        raise StorageError(f"'{path}' is there already, and nothing was changed. Replace it with --overwrite.")
