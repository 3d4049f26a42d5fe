"""Scores of an alignment beside its baselines, as a table."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

    from asic3d import Alignment
    from asic3d.config import Progress
    from asic3d_integrations.keypoint_sets import KeypointSet

METHODS = {
    "identity": "Scoring: points stay where they are",
    "nearest neighbour": "Scoring: nearest neighbour",
    "asic3d": "Scoring: asic3d",
}
"""Method -> what people read while it is scored."""

_NOTE = (
    "Keypoints found, in percent. Nearest neighbour uses the same features without the alignment. The identity leaves "
    "every point where it is: it returns from every cycle exactly, so read the figures in brackets beside PCK only."
)


def scores(
    alignment: "Alignment",
    truth: "KeypointSet",
    progress: Callable[["Progress"], None],
    *,
    cycles: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Method -> figure -> value, for the identity, nearest neighbour on the same features, and the alignment."""
    from asic3d.config import Progress
    from asic3d_integrations.keypoint_sets import evaluate_keypoints, identity_transfer, named_transfer

    transfers = {
        "identity": identity_transfer(truth),
        "nearest neighbour": named_transfer(alignment.nearest_neighbour, truth),
        "asic3d": named_transfer(alignment.transfer, truth),
    }
    figures = {}
    for method, transfer in transfers.items():
        figures[method] = evaluate_keypoints(transfer, truth, cycles=cycles, seed=seed)
        progress(Progress(method, 1, 1))
    return figures


def score_table(figures: dict[str, dict[str, float]]) -> "Group":
    """The figures in percent, a row for each method, and what they mean."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    for column in ("PCK@0.1", "PCK@0.05", "2-cycle (return)", "3-cycle (return)"):
        table.add_column(column, justify="right")
    for method, row in figures.items():
        cycles = (f"{_percent(row, f'cycle{k}@0.1_hops')} ({_percent(row, f'cycle{k}@0.1_return')})" for k in (2, 3))
        table.add_row(method, _percent(row, "pck@0.1"), _percent(row, "pck@0.05"), *cycles)
    return Group(table, "", _NOTE)


def _percent(row: dict[str, float], name: str) -> str:
    """A figure in percent; a dash where the set can't give it."""
    return f"{100 * row[name]:.1f}" if name in row else "–"
