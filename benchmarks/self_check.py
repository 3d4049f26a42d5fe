"""The self-check of poses, on models that are known to be right or wrong.

python benchmarks/self_check.py SET [SET ...] [--rendered 2] [--first 100] [--every 1 2]

Good and bad models are made on purpose, from each SET (photos with cameras.json, see poses.py) and from rendered
photos; the true cameras decide which are which, not how they were made. A model is good when all its photos, three or
more and at least half of all, have relative rotations within 10 degrees in the median. Of two objects mixed, a model of
one of them alone that is right counts neither way: it is right, and it is not what the photos show.

A SET on which nothing was tuned is the only one that counts.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from poses import cameras_of, load, scores

import asic3d
from asic3d.rendering import render_collection
from asic3d.tracks import MatchGraph
from asic3d_integrations.colmap import mapping
from asic3d_integrations.colmap.cameras import Cameras
from asic3d_integrations.colmap.mapping import MapOptions, map_graph
from asic3d_integrations.colmap.refined import Refined, RefineOptions, refined_graph

GOOD = 10.0  # degrees, median rotation error of a good model


@dataclass(frozen=True, eq=False)
class Case:
    """One model to be made: its graph, edges and cameras, and the truth.

    ``loosened`` multiplies the error that matches may have. ``others`` is the truth of a second object's photos.
    """

    name: str
    graph: MatchGraph
    edges: tuple
    cameras: Cameras
    truth: dict
    loosened: float = 1.0
    others: dict = field(default_factory=dict)


def cases(name: str, collection, truth: dict, seed: int) -> Iterator[Case]:
    """What can be made of one collection."""
    refined = refined_graph(collection, RefineOptions(seed=seed))
    cameras = cameras_of(collection)
    whole = Case(f"{name}: as it is", refined.graph, refined.edges, cameras, truth)
    yield whole
    generator = np.random.default_rng(seed)
    yield replace(whole, name=f"{name}: a quarter of the matches", graph=_thinned(refined.graph, 0.25, generator))
    for factor in (0.5, 12.0):
        known = tuple(replace(one, focal=factor * max(one.size), known=True) for one in cameras.cameras)
        yield replace(whole, name=f"{name}: focal {factor} times the side", cameras=replace(cameras, cameras=known))
    for share in (0.3, 1.0):
        yield _scrambled(whole, share, generator)
    forced = _forced(whole, refined, generator)
    yield forced
    yield replace(forced, name=f"{forced.name}, verified loosely", loosened=10.0)
    yield _fragment(whole, 3)


def mixed(name: str, folder: Path, truth: dict, seed: int) -> Iterator[Case]:
    """Photos of a set, and as many of a rendered toy among them."""
    chosen = sorted(truth)[:6]
    with tempfile.TemporaryDirectory() as temporary:
        _, others = rendered(seed, 0.0, Path(temporary) / "toy")
        (Path(temporary) / "both").mkdir()
        for part, names in ((folder / "images", chosen), (Path(temporary) / "toy/images", sorted(others))):
            for one in names:
                shutil.copy(part / one, Path(temporary) / "both" / one)
        collection = asic3d.load_collection(Path(temporary) / "both")
        refined = refined_graph(collection, RefineOptions(seed=seed))
        mine = {one: truth[one] for one in chosen}
        case = Case(
            f"{name} and a toy: mixed", refined.graph, refined.edges, cameras_of(collection), mine, others=others
        )
        yield case
        yield replace(_forced(case, refined, np.random.default_rng(seed)), loosened=10.0)


def _thinned(graph: MatchGraph, share: float, generator) -> MatchGraph:
    keep = generator.random(int(graph.tracks[:, 0].max()) + 1) < share
    used = {tuple(row) for row in graph.tracks[keep[graph.tracks[:, 0]], 1:].tolist()}
    matches = {
        (i, j): rows[[(i, a) in used and (j, b) in used for a, b in rows.tolist()]]
        for (i, j), rows in graph.matches.items()
    }
    return replace(
        graph,
        matches={pair: rows for pair, rows in matches.items() if len(rows)},
        tracks=graph.tracks[keep[graph.tracks[:, 0]]],
    )


def _scrambled(case: Case, share: float, generator) -> Case:
    """Photos of a share change places in the graph's matches: their points belong to other photos' edges."""
    count = len(case.graph)
    chosen = generator.permutation(count)[: max(2, round(share * count))]
    order = np.arange(count)
    order[chosen] = np.roll(chosen, 1)
    sides = np.array(case.graph.sizes, np.float32)
    keypoints = tuple(case.graph.keypoints[k] * (sides[i] - 1) / sides[k] for i, k in enumerate(order))
    back = np.argsort(order)
    matches = {}
    for (i, j), rows in case.graph.matches.items():
        a, b = int(back[i]), int(back[j])
        matches[min(a, b), max(a, b)] = rows if a < b else np.ascontiguousarray(rows[:, ::-1])
    tracks = case.graph.tracks.copy()
    tracks[:, 1] = back[tracks[:, 1]]
    tracks = tracks[np.lexsort((tracks[:, 1], tracks[:, 0]))]
    names, sizes = case.graph.names, case.graph.sizes
    graph = MatchGraph(names, sizes, keypoints, dict(sorted(matches.items())), tracks, case.graph.deviation)
    return replace(case, name=f"{case.name.split(':')[0]}: {share:.0%} of the names exchanged", graph=graph)


def _forced(case: Case, refined: Refined, generator) -> Case:
    """Photos that have no edge get matches all the same: their corners in any order along a similar layout."""
    have = {edge.pair for edge in refined.edges}
    matches = dict(case.graph.matches)
    for i in range(len(case.graph)):
        j = (i + len(case.graph) // 2) % len(case.graph)
        pair = (min(i, j), max(i, j))
        a, b = (case.graph.keypoints[k].astype(float) for k in pair)
        if pair in have or len(a) < 100 or len(b) < 100:
            continue
        one, other = generator.permutation(len(a))[:300], generator.permutation(len(b))
        gap = np.linalg.norm((b[other][None] - b.mean(0)) - (a[one][:, None] - a.mean(0)), axis=2)
        nearest = other[gap.argmin(1)]
        rows = np.unique(np.stack([one, nearest], 1), axis=0)
        _, first = np.unique(rows[:, 1], return_index=True)
        matches[pair] = np.ascontiguousarray(rows[np.sort(first)])
    graph = replace(case.graph, matches=dict(sorted(matches.items())))
    return replace(case, name=f"{case.name.split(':')[0]}: opposite sides forced together", graph=graph)


def _fragment(case: Case, photos: int) -> Case:
    inside = set(range(photos))
    matches = {pair: rows for pair, rows in case.graph.matches.items() if set(pair) <= inside}
    tracks = case.graph.tracks[np.isin(case.graph.tracks[:, 1], list(inside))]
    graph = replace(case.graph, matches=matches, tracks=tracks)
    return replace(case, name=f"{case.name.split(':')[0]}: {photos} of its photos", graph=graph)


def rendered(seed: int, deformation: float, folder: Path):
    """A rendered collection and the truth; where the object is deformed no cameras explain it."""
    made = render_collection(8, seed, size=(640, 480), arc_degrees=35, deformation=deformation)
    made.save(folder)
    truth = {name: (photo.R, photo.t) for name, photo in zip(made.names, made.photos, strict=True)}
    return asic3d.load_collection(folder / "images"), truth


def verdict_of_truth(case: Case, found: dict, rigid: bool) -> str:
    """Whether a model is good, bad, or right but of one of two objects: a part."""
    if not case.others:
        return "good" if is_good(found, case.truth, rigid) else "bad"
    for truth in (case.truth, case.others):
        if set(found) <= set(truth) and is_good(found, {name: truth[name] for name in found}, rigid):
            return "part"
    return "bad"


def is_good(found: dict, truth: dict, rigid: bool) -> bool:
    """By the true cameras."""
    s = scores(found, truth)
    return rigid and len(found) >= max(3, len(truth) / 2) and s["rotation"] < GOOD and _inside(found, truth)


def _inside(found: dict, truth: dict) -> bool:
    """Whether every registered photo is right, not only the usual one."""
    names = sorted(found)
    for name in names:
        pairs = [scores({n: found[n] for n in (name, o)}, {n: truth[n] for n in (name, o)}) for o in names if o != name]
        if np.median([pair["rotation"] for pair in pairs]) > GOOD:
            return False
    return True


def main() -> None:
    """Prints a table in Markdown, and what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path, metavar="SET")
    parser.add_argument("--rendered", type=int, default=2, help="rendered collections of each kind")
    parser.add_argument("--first", type=int, default=100, help="seed of the first rendered collection")
    parser.add_argument("--every", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--thorough", action="store_true", help="try other focal lengths and join parts, as asic3d does"
    )
    parser.add_argument("--words", action="store_true", help="also print the words of wrong verdicts")
    arguments = parser.parse_args()
    print("| model | photos | rotation | truth | self-check | right |\n|" + "---|" * 6)
    counts = {(truth, trusted): 0 for truth in ("good", "bad", "part") for trusted in (True, False)}
    for case, rigid in _all_cases(arguments):
        with patch.object(mapping, "_VERIFIED", mapping._VERIFIED * case.loosened):
            mapped = map_graph(case.graph, case.cameras, case.edges, MapOptions(thorough=arguments.thorough))
        truth, trusted = verdict_of_truth(case, mapped.poses, rigid), mapped.verdict.trusted
        counts[truth, trusted] += 1
        rotation = scores(mapped.poses, case.truth)["rotation"]
        right = "-" if truth == "part" else ("WRONG", "yes")[(truth == "good") == trusted]
        print(
            f"| {case.name} | {len(mapped.poses)} of {len(case.truth) + len(case.others)} | {rotation:.1f} | {truth} "
            f"| {('not trusted', 'trusted')[trusted]} | {right} |",
            flush=True,
        )
        if arguments.words and right == "WRONG":
            print(mapped.verdict.words, flush=True)
    for truth in ("good", "bad", "part"):
        print(f"{truth}: {counts[truth, True]} of {counts[truth, True] + counts[truth, False]} trusted")


def _all_cases(arguments) -> Iterator[tuple[Case, bool]]:
    for folder in arguments.sets:
        for every in arguments.every:
            collection, truth = load(folder, every, 0)
            name = folder.name + (f" ::{every}" if every > 1 else "")
            yield from ((case, True) for case in cases(name, collection, truth, 0))
        yield from ((case, True) for case in mixed(folder.name, folder, load(folder, 1, 0)[1], arguments.first))
    for seed in range(arguments.first, arguments.first + arguments.rendered):
        for deformation in (0.0, 0.3, 1.0):
            with tempfile.TemporaryDirectory() as temporary:
                collection, truth = rendered(seed, deformation, Path(temporary))
                made = cases(f"rendered {seed}, deformed {deformation}", collection, truth, seed)
                if deformation:
                    yield next(made), False
                else:
                    yield from ((case, True) for case in made)


if __name__ == "__main__":
    main()
