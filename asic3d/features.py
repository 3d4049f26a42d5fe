"""Feature maps of a collection: what the frozen backbone sees, brought to one grid per photo."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FeatureMaps:
    """One descriptor per grid cell of every photo.

    Attributes:
        features: (N, G, G, C) float32, unit length over C, centred over the collection.
        valid: (N, G, G) bool, the cells that lie on the photo and not on its padding.
        saliency: (N, G, G) float32 in [0, 1], the class token's attention; None where the backbone has no class token.
    """

    features: Tensor
    valid: Tensor
    saliency: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def grid(self) -> int:
        """Cells along one side of a photo's square."""
        return self.features.shape[1]
