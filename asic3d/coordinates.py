"""The only conversions between the frames of the project.

============  =====================================================================================================
pixels        x right, y down, of the ORIGINAL upright photo; (0, 0) is the centre of the top-left pixel
normalised    the photo centred in a square as wide as its longer side; the square is [-1, 1]^2, its edges (not the
              centres of its outermost pixels) at -1 and 1, as torch has it with ``align_corners=False``
grid          the same square cut into G x G cells; (0, 0) is the centre of the top-left cell, x and y in cells;
              a cell's index is ``row * G + column``
============  =====================================================================================================

A photo's frame depends on its size alone, never on a working resolution.
"""

import torch
from torch import Tensor


def _frame(size: tuple[int, int], points: Tensor) -> tuple[Tensor, float]:
    """The centre of a photo in pixels, (2,), and half of its longer side."""
    width, height = size
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=points.dtype, device=points.device)
    return centre, max(width, height) / 2


def pixels_to_normalised(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Original pixels to the normalised frame.

    Args:
        points: (..., 2) float, pixels.
        size: width and height of the original upright photo.

    Returns:
        (..., 2) of the same dtype, normalised.

    Example:
        >>> pixels_to_normalised(torch.tensor([[99.5, 49.5]]), (200, 100)).tolist()
        [[0.0, 0.0]]
    """
    centre, half = _frame(size, points)
    return (points - centre) / half


def normalised_to_pixels(points: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`pixels_to_normalised`: (..., 2) normalised to (..., 2) original pixels."""
    centre, half = _frame(size, points)
    return points * half + centre


def normalised_to_grid(points: Tensor, cells: int) -> Tensor:
    """(..., 2) normalised to (..., 2) float grid coordinates of a ``cells`` x ``cells`` grid."""
    return (points + 1) * (cells / 2) - 0.5


def grid_to_normalised(points: Tensor, cells: int) -> Tensor:
    """The inverse of :func:`normalised_to_grid`."""
    return (points + 0.5) * (2 / cells) - 1


def pixels_to_crop(points: Tensor, corner: tuple[int, int], scale: float) -> Tensor:
    """Pixels of a photo to pixels of a resized piece of it; both have (0, 0) at the centre of their top-left pixel.

    Args:
        points: (..., 2) float, pixels of the photo.
        corner: x and y of the photo's pixel that is the piece's top-left one; may lie beside the photo.
        scale: pixels of the piece per pixel of the photo.

    Returns:
        (..., 2) of the same dtype.

    Example:
        >>> pixels_to_crop(torch.tensor([[10.0, 20.0]]), (10, 20), 2.0).tolist()
        [[0.5, 0.5]]
    """
    return (points - torch.tensor(corner, dtype=points.dtype) + 0.5) * scale - 0.5


def unturned_pixels(points: Tensor, turns: int, size: tuple[int, int]) -> Tensor:
    """Pixels of a photo that was turned back to pixels of the photo as it is.

    Args:
        points: (..., 2) float, pixels of the turned photo.
        turns: quarters by which it was turned counter-clockwise.
        size: (width, height) of the photo as it is.

    Returns:
        (..., 2) of the same dtype.

    Example:
        >>> unturned_pixels(torch.tensor([[0.0, 0.0]]), 1, (200, 100)).tolist()
        [[199.0, 0.0]]
    """
    (x, y), (width, height) = points.unbind(-1), size
    places = ((x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y), (y, height - 1 - x))
    return torch.stack(places[turns % 4], -1)


def cell_centres(cells: int, device: torch.device | str = "cpu") -> Tensor:
    """(cells * cells, 2) float32: normalised centre of every grid cell, row by row, x first."""
    line = grid_to_normalised(torch.arange(cells, dtype=torch.float32, device=device), cells)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def photo_cells(size: tuple[int, int], cells: int) -> Tensor:
    """(cells, cells) bool: the cells whose centre lies inside a photo of this (width, height), not in its padding."""
    width, height = size
    extent = torch.tensor([width, height], dtype=torch.float32) / max(width, height)
    return (cell_centres(cells).abs() <= extent.clamp(min=1.01 / cells)).all(-1).reshape(cells, cells)
