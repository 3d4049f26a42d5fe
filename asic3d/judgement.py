"""How well the photos of an alignment go together, and what looks wrong with it, in sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from asic3d.best_buddies import BestBuddies
from asic3d.photo_folder import shown

OUTLIER = 0.4
"""A photo whose fit is below this share of the usual one does not belong to the others."""
UNRELATED = 0.0015
"""Support of the usual photo below which the photos show no one thing. Measured with the embedded network: 0.0002 to
0.0006 for six photos of six things, 0.004 to 0.3 for thirteen collections of one thing."""
UNTRAINED = 0.5
"""Share of agreeing matches below which a trained network has not brought the photos together."""
_SPECK, _FAR_LESS = 0.015, 0.125
"""Share of a photo, and of the usual share, below which a mask covers next to nothing."""
_ONE_PLACE = 0.15  # canonical units


def photo_fits(confidence: Tensor, objects: Tensor) -> Tensor:
    """(N,) mean confidence of each photo's object, from (N, G * G) confidence and probability of the object."""
    return (confidence * objects).sum(1) / objects.sum(1).clamp(min=1e-6)


def fit_warnings(names: Sequence[str], fits: Tensor) -> Iterator[str]:
    """The photos that hardly fit the others, from the (N,) fits of :func:`photo_fits`."""
    usual = float(fits.median())
    for name, fit in zip(names, fits.tolist(), strict=True):
        if fit < OUTLIER * usual and len(names) > 2:
            yield (
                f"{shown(name)} hardly fits the others (confidence {fit:.2f}, usual {usual:.2f}): is it the same "
                "object?"
            )


def object_warnings(names: Sequence[str], whole: Sequence[int]) -> Iterator[str]:
    """The photos in which no object was found, given by their index."""
    if whole and len(whole) == len(names):
        yield "No object stands out from its surroundings: all of every photo was aligned. Is that wrong? Give --masks."
    elif whole:
        listed = ", ".join(shown(names[index]) for index in whole)
        yield f"No object was found in {listed}: all of it was aligned. Is that wrong? Give --masks."


def mask_warnings(names: Sequence[str], shares: Sequence[float], of: Sequence[int]) -> Iterator[str]:
    """The photos of which next to nothing was taken for the object.

    Args:
        names: all photos.
        shares: how much of each photo its mask covers, [0, 1].
        of: the photos that are asked about, by index; those with a given mask are not to be doubted.
    """
    usual = median(shares)
    for index in of:
        if shares[index] < min(_SPECK, _FAR_LESS * usual):
            yield (
                f"Hardly anything of {shown(names[index])} was taken for the object: {shares[index]:.1%} of the photo, "
                f"where {usual:.0%} is usual. Look at its mask; if it is wrong, give --masks."
            )


def standing_warnings(
    names: Sequence[str], turns: Sequence[int], mirrored: Sequence[bool], quality: dict[str, float]
) -> Iterator[str]:
    """Which photos were turned, by quarters counter-clockwise, and which were mirrored.

    Nothing is said where the figures tell that the photos show no one thing: they do not stand in any one way.
    """
    if _unrelated(quality):
        return
    lie = {1: "on its right side", 2: "upside down", 3: "on its left side"}
    turned = ", ".join(f"'{name}' ({lie[quarters]})" for name, quarters in zip(names, turns, strict=True) if quarters)
    if turned:
        yield f"Turned for the alignment, because most others stand: {turned}. Pixels and points stay as they are."
    flipped = ", ".join(f"'{name}'" for name, flip in zip(names, mirrored, strict=True) if flip)
    if flipped:
        yield (
            f"Mirrored for the alignment, because most others face the other way: {flipped}. If what they show is "
            "another side of one and the same object, align with --set flips=false (flips=False in Python)."
        )


def unrelated_warnings(quality: dict[str, float]) -> Iterator[str]:
    """That the photos show no one thing, from the figures of an alignment."""
    if _unrelated(quality):
        yield "These photos do not seem to show one thing: hardly any two of them agree on where anything lies."


def _unrelated(quality: dict[str, float]) -> bool:
    return quality.get("support", UNRELATED) < UNRELATED


def outlier_warnings(outliers: tuple[str, ...]) -> Iterator[str]:
    """The photos that show something else, by name."""
    for name in outliers:
        yield (
            f"'{name}' seems to show something else than the other photos: it had no say in the alignment. If it shows "
            "the same, align with --set outliers=false (outliers=False in Python)."
        )


def astray_warnings(again: int) -> tuple[str, ...]:
    """What to say of a training that went astray and was begun again."""
    if not again:
        return ()
    times = "once" if again == 1 else f"{again} times"
    return (
        f"The training went astray {times} and was begun again, with {0.1**again:g} times the learning_rate. Set that "
        "learning_rate to save the time.",
    )


def training_warnings(quality: dict[str, float]) -> Iterator[str]:
    """A map that one network makes closes every cycle, also before it is trained: only the matches tell."""
    if quality["agreeing_matches"] < UNTRAINED:
        yield (
            f"Only {quality['agreeing_matches']:.0%} of the matches agree with the trained map: the photos are not "
            "brought together yet, however confident it looks. Train longer: more steps, and restart_period with them."
        )


def agreeing(buddies: BestBuddies, canonical: Tensor) -> Tensor:
    """(M,) bool: the matches whose two ends lie at one place of the (N, G * G, 2) canonical coordinates."""
    residual = canonical[buddies.first, buddies.first_cell] - canonical[buddies.second, buddies.second_cell]
    return residual.norm(dim=1) < _ONE_PLACE


@dataclass(frozen=True)
class Further:
    """What the pairs of a photo that was added say, beside those that were fitted.

    Attributes:
        pairs: how many there are.
        agreement: sum over the pairs of their mean confidence.
        matches: how many matches they have.
        agreeing: how many of those lie at one place.
    """

    pairs: int
    agreement: float
    matches: int
    agreeing: int


def enlarged_quality(quality: dict[str, float], pairs: int, further: Further, fits: Tensor) -> dict[str, float]:
    """The figures of an alignment that was enlarged, as if its pairs and the further ones had been counted together.

    Args:
        quality: the figures before. Those that can't be brought up to date without a new fit stay.
        pairs: how many pairs they are about.
        further: what came after.
        fits: (N,) fits of all photos, as of :func:`photo_fits`.
    """
    matches = quality.get("matches_per_pair", 0.0) * pairs
    total = pairs + further.pairs
    shares = {
        "confidence": float(fits.mean()),
        "weakest_photo": float(fits.min()),
        "pair_agreement": (quality.get("pair_agreement", 0.0) * pairs + further.agreement) / total,
        "agreeing_matches": (quality.get("agreeing_matches", 0.0) * matches + further.agreeing)
        / max(matches + further.matches, 1),
        "matches_per_pair": (matches + further.matches) / total,
    }
    return {name: shares.get(name, value) for name, value in quality.items()}
