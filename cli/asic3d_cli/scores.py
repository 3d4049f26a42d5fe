"""Scores of an alignment beside its baselines, as a table."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from asic3d import Alignment
    from asic3d.config import Progress
    from asic3d_integrations.datasets.evaluation import CategoryScores
    from asic3d_integrations.keypoint_sets import KeypointSet

METHODS = {
    "identity": "Scoring: points stay where they are",
    "nearest neighbour": "Scoring: nearest neighbour",
    "buddies + MLS": "Scoring: best buddies and moving least squares",
    "asic3d": "Scoring: asic3d",
}
"""Method -> what people read while it is scored."""

_BASELINES = (
    "Nearest neighbour uses the same features without the alignment; so does buddies + MLS: the mutual nearest "
    "neighbours of two photos with moving least squares between them. The identity leaves every point where it is: it "
    "returns from every cycle exactly"
)
_NOTE = f"Keypoints found, in percent. {_BASELINES}, so read the figures in brackets beside PCK only."


def scores(
    alignment: "Alignment",
    truth: "KeypointSet",
    progress: Callable[["Progress"], None],
    *,
    cycles: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Method -> figure -> value, for the baselines and the alignment."""
    from asic3d.baselines import baselines
    from asic3d.config import Progress
    from asic3d_integrations.keypoint_sets import evaluate_keypoints, named_transfer

    figures = {}
    for method, transfer in {**baselines(alignment), "asic3d": alignment.transfer}.items():
        figures[method] = evaluate_keypoints(named_transfer(transfer, truth), truth, cycles=cycles, seed=seed)
        progress(Progress(method, 1, 1))
    return figures


def score_table(figures: dict[str, dict[str, float]]) -> "Group":
    """The figures in percent, a row for each method, and what they mean."""
    from rich.console import Group

    table = _table("", ("PCK@0.1", "PCK@0.05", "2-cycle (return)", "3-cycle (return)"))
    for method, row in figures.items():
        table.add_row(method, _percent(row, "pck@0.1"), _percent(row, "pck@0.05"), *(_cycle(row, k) for k in (2, 3)))
    return Group(table, "", _NOTE)


def categories_table(data_set: str, scores: "Sequence[CategoryScores]") -> "Group":
    """The figures of the categories of a data set and their mean in percent, and what they mean."""
    from rich.console import Group

    from asic3d_integrations.datasets.evaluation import LENGTHS, mean_scores
    from asic3d_integrations.datasets.published import SOURCES

    every = [*scores, mean_scores(scores, data_set)] if len(scores) > 1 else list(scores)
    annotated = any("cycle2@0.1_hops" in row for score in every for row in score.methods.values())
    published = any(score.published for score in every)
    columns = ["PCK@0.1\n(per image)", "PCK@0.05\n(per image)"] if annotated else []
    columns += [f"{k}-cycle\n(return)" if annotated else f"{k}-cycle\nreturn" for k in LENGTHS]
    table = _table("", [*columns, *(["ASIC\npublished"] if published else [])])
    for number, score in enumerate(every):
        if number:
            table.add_section()
        mean = number == len(scores)
        table.add_row(f"mean of {len(scores)}" if mean else f"{score.name} ({score.photos})", style="bold")
        for method, row in score.methods.items():
            cells = [_pair(row, f"pck@{a}", f"pck@{a}_per_image") for a in (0.1, 0.05)] if annotated else []
            cells += [_cycle(row, k) if annotated else _percent(row, f"cycle{k}@0.1_return") for k in LENGTHS]
            told = _told(score.published) if published and method == "asic3d" else ""
            table.add_row(f"  {method}", *cells, *([told] if published else []))
    return Group(table, "", _categories_note(annotated), *([f"ASIC: {SOURCES[data_set]}."] if published else []))


def _categories_note(annotated: bool) -> str:
    if annotated:
        return (
            "Percent; behind a name the number of photos. PCK is pooled over points, in brackets the mean over pairs "
            "of photos. Cycles are judged at every hop, in brackets at the return alone. "
            f"{_BASELINES}, so read returns beside PCK only."
        )
    return (
        "Percent of the points on the object that come back to within a tenth of its size. Nothing says whether they "
        f"were right on the way: {_BASELINES[0].lower()}{_BASELINES[1:]}, without finding anything."
    )


def _table(first: str, columns: "Sequence[str]") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _told(published: dict[str, float]) -> str:
    """The published figures, PCK first."""
    return " / ".join(f"{100 * value:.1f}" for value in published.values())


def _cycle(row: dict[str, float], k: int) -> str:
    return _pair(row, f"cycle{k}@0.1_hops", f"cycle{k}@0.1_return")


def _pair(row: dict[str, float], name: str, in_brackets: str) -> str:
    return f"{_percent(row, name)} ({_percent(row, in_brackets)})"


def _percent(row: dict[str, float], name: str) -> str:
    """A figure in percent; a dash where the set can't give it."""
    return f"{100 * row[name]:.1f}" if name in row else "–"
