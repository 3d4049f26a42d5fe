"""An alignment's figures in plain words: what each means, and whether it is good."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from asic3d.photo_folder import listed

if TYPE_CHECKING:
    from asic3d import Alignment

GOOD, FAIR, POOR = "good", "fair", "poor"
FITS = {GOOD: "fits well", FAIR: "fits loosely", POOR: "hardly fits"}
"""The word for a whole alignment or a figure -> what is said of one photo."""
OTHER_THING = "shows something else"

GUESS, SURE = 0.4, 0.7
"""Confidence of a point below which it is a guess, and from which it is more often right than the usual point."""

CONFIDENCE_MEANING = (
    "On annotated photos, points were about as often right as their confidence says: 36 in 100 of those with 0.2 to "
    "0.4, 63 of those with 0.6 to 0.7, 89 of those with 0.8 to 0.9; right is within a tenth of the object's size."
)
"""Measured with the embedded backbone on six sets of annotated photos."""

_FEW = 5
"""Photos below which chance decides whether they seem to show one thing: three photos of sheep did with three of six
seeds."""
_PHOTO_LIMITS = (0.36, 0.2)  # at least: good, fair
_MEANINGS: dict[str, tuple[str, str, str, tuple[float, float]]] = {
    "confidence": (
        "Confidence",
        "{:.2f}",
        "How well the other photos explain the object in each photo; 0.4 to 0.65 where photos go together well.",
        _PHOTO_LIMITS,
    ),
    "weakest_photo": (
        "Weakest photo",
        "{:.2f}",
        "The same for the photo that fits worst. Far below the mean: another side of the object, or another object.",
        (0.28, 0.15),
    ),
    "pair_agreement": (
        "Agreement of pairs",
        "{:.2f}",
        "How exactly a place comes back from a photo that it is matched with; 1 is exactly, 0 is somewhere else.",
        (0.45, 0.3),
    ),
    "agreeing_matches": (
        "Matches that agree",
        "{:.1%}",
        "Share of the matches that one shared frame explains. Fewer: the photos contradict each other.",
        (0.96, 0.85),
    ),
    "matches_per_pair": (
        "Matches per pair",
        "{:.0f}",
        "Places that two photos recognise in each other. Few: they have little in common.",
        (100, 30),
    ),
    "support": (
        "Support",
        "{:.4f}",
        "How much of what two photos recognise in each other agrees on one way to lay one over the other, for each "
        "cell of the object. Below 0.0015 they hardly show one thing.",
        (0.003, 0.0015),
    ),
}
"""Key of ``Alignment.quality`` -> label, format, meaning, least value that is good and that is fair."""

STAGES = {
    "photos": "Loading the photos",
    "features": "Reading the photos with the network",
    "foreground": "Finding the object",
    "matching": "Matching the photos with each other",
    "canonical": "Laying all photos into one shared frame",
    "training": "Training the maps into the shared frame",
    "confidence": "Judging every place",
    "adding": "Placing further photos",
    "report": "Making the report",
    "saving": "Saving",
}
"""Stage of the work -> what it does, in words."""


_TELLS_NOTHING = "Tells nothing here: where photos hold nothing to compare, place by place everything agrees."
_UNTRAINED = "Tells nothing here: one network's map agrees with itself from the start, also before it is trained."
_OF_MATCHES = ("agreeing_matches", "matches_per_pair")
"""The figures that are about the matches: they tell also where the map does not."""


_NAMED = 3
"""Photos that fit loosely are named where they are no more than this."""


@dataclass(frozen=True)
class Figure:
    """One quality figure: ``label``, the value as ``text``, its ``meaning`` and its ``level`` ('' = no judgement)."""

    label: str
    text: str
    meaning: str
    level: str


def quality_figures(alignment: "Alignment") -> tuple[Figure, ...]:
    """Every quality figure of an alignment, explained."""
    nothing = _TELLS_NOTHING if _tells_nothing(alignment) else ""
    map_alone = nothing or (_UNTRAINED if _untrained(alignment) else "")
    return tuple(
        _figure(name, value, nothing if name in _OF_MATCHES else map_alone) for name, value in alignment.quality.items()
    )


def _figure(name: str, value: float, nothing: str) -> Figure:
    if name not in _MEANINGS:
        return Figure(name.replace("_", " ").capitalize(), f"{value:.3g}", "", "")
    label, form, meaning, limits = _MEANINGS[name]
    if nothing:
        return Figure(label, form.format(value), nothing, POOR)
    return Figure(label, form.format(value), meaning, _level(value, limits))


def _level(value: float, limits: tuple[float, float]) -> str:
    """The word for a value of which more is better."""
    return GOOD if value >= limits[0] else FAIR if value >= limits[1] else POOR


def photo_fits(alignment: "Alignment") -> tuple[float, ...]:
    """How well each photo's object is explained by the other photos: mean confidence over its foreground, [0, 1]."""
    from asic3d.judgement import photo_fits as fits

    return tuple(fits(alignment.confidence.flatten(1), alignment.foreground.flatten(1)).tolist())


def photo_levels(alignment: "Alignment") -> tuple[str, ...]:
    """The word for each photo's fit, by itself and compared with the others; poor where there is nothing to fit."""
    from asic3d.judgement import OUTLIER

    fits, bare = photo_fits(alignment), bare_photos(alignment)
    nothing = _tells_nothing(alignment) or _untrained(alignment)
    usual = median(fits)
    return tuple(
        POOR
        if nothing or name in bare or name in alignment.outliers or fit < OUTLIER * usual
        else _level(fit, _PHOTO_LIMITS)
        for name, fit in zip(alignment.names, fits, strict=True)
    )


def standing(alignment: "Alignment", index: int) -> tuple[str, ...]:
    """What was done to a photo before it was compared, or that it shows another thing; empty for most photos."""
    if alignment.names[index] in alignment.outliers:
        return (OTHER_THING,)  # how it was laid down means nothing then
    turned = {1: "turned by 90 degrees to the left", 2: "turned by 180 degrees", 3: "turned by 90 degrees to the right"}
    found = []
    if alignment.turns and alignment.turns[index]:
        found.append(turned[alignment.turns[index]])
    if alignment.mirrored and alignment.mirrored[index]:
        found.append("mirrored")
    return tuple(found)


def in_words(standing: Sequence[str], level: str) -> tuple[str, ...]:
    """What there is to say of a photo: how it stands, then how it fits, which is no question of another thing."""
    return tuple(standing) if OTHER_THING in standing else (*standing, FITS[level])


def verdict(alignment: "Alignment") -> tuple[str, str]:
    """A word and a sentence about the whole alignment, from how many photos fit the others."""
    if shows_nothing(alignment):
        return (
            POOR,
            "These photos are all the same picture, or without shapes: there is nothing to compare in them.",
        )
    if _untrained(alignment):
        return POOR, "The training has not brought the photos together yet; points are mostly guesses."

    if _unrelated(alignment):
        sentence = "These photos do not seem to show one thing: what was found in common is mostly chance."
        few = len(alignment.names) < _FEW
        return POOR, sentence + " Of so few photos that is easily wrong: more of them tell it better." * few
    levels = photo_levels(alignment)
    fair, poor = (
        [f"“{name}”" for name, level in zip(alignment.names, levels, strict=True) if level == wanted]
        for wanted in (FAIR, POOR)
    )
    count = len(levels)
    all_of_them = "Both photos" if count == 2 else f"All {count} photos"
    if not poor and levels.count(GOOD) >= count / 2:
        named = _listed(fair) if 0 < len(fair) <= _NAMED else f"{len(fair)} of them"
        return GOOD, f"{all_of_them} fit together{f', {named} loosely' if fair else ''}."
    if not poor:
        return FAIR, f"{all_of_them} fit together, though loosely: check the points below before relying on them."
    if len(poor) <= count / 3:
        return (
            FAIR,
            f"{count - len(poor)} of {count} photos fit together; {_listed(poor)} hardly {_fit(poor)} the others.",
        )
    return POOR, f"Only {count - len(poor)} of {count} photos fit together; the points below are mostly guesses."


def _tells_nothing(alignment: "Alignment") -> bool:
    """Whether the photos agree because there is nothing to disagree about, or by chance."""
    return shows_nothing(alignment) or _unrelated(alignment)


def _unrelated(alignment: "Alignment") -> bool:
    """Whether no two photos seem to show one thing."""
    from asic3d.judgement import UNRELATED

    return alignment.quality.get("support", UNRELATED) < UNRELATED


def _untrained(alignment: "Alignment") -> bool:
    """Whether a network maps the photos that has hardly learned: its map closes every cycle from the start."""
    from asic3d.judgement import UNTRAINED

    return alignment.config.mapping == "network" and alignment.quality.get("agreeing_matches", 1.0) < UNTRAINED


def bare_photos(alignment: "Alignment") -> tuple[str, ...]:
    """Names of the photos that hold no shapes, of one colour or all grain: nothing in them can be recognised."""
    return tuple(photo.name for photo in alignment.collection if not photo.holds_shapes)


def shows_nothing(alignment: "Alignment") -> bool:
    """Whether there is nothing to compare: fewer than two photos hold shapes, or all are the same picture.

    Such photos agree perfectly, place by place, and the figures alone would call that good.
    """
    from asic3d.content import same_picture

    photos = alignment.collection.photos
    return len(photos) - len(bare_photos(alignment)) < 2 or same_picture([photo.pixels for photo in photos])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _fit(names: list[str]) -> str:
    return "fits" if len(names) == 1 else "fit"


def doubts(alignment: "Alignment", names: Sequence[str]) -> tuple[str, ...]:
    """What puts every answer of an alignment in doubt, or those about some of its photos, in sentences.

    Args:
        alignment: the alignment.
        names: the photos that are asked about; those that show something else are named.
    """
    from asic3d.judgement import training_warnings, unrelated_warnings

    strange = [name for name in alignment.outliers if name in names]
    found = [*unrelated_warnings(alignment.quality)]
    if _untrained(alignment):
        found += training_warnings(alignment.quality)
    if strange:
        found.append(f"Points of or in {listed(strange)} are guesses: it seems to show something else.")
    return tuple(found)


def warnings_of(alignment: "Alignment") -> tuple[str, ...]:
    """Every warning about an alignment and its photos, each once, in the order in which they came up."""
    return tuple(dict.fromkeys((*alignment.collection.warnings, *alignment.warnings)))
