"""Rendered collections with known truth: what the demo aligns and the tests measure against."""

from asic3d.rendering.collection import RenderedCollection, render_collection
from asic3d.rendering.photos import RenderedPhoto

__all__ = ["RenderedCollection", "RenderedPhoto", "render_collection"]
