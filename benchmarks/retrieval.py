"""The exact and the approximate search for similar photos: seconds, and how similar the partners are that they find.

python benchmarks/retrieval.py RUN [--copies 1 2 4]

RUN is a run folder with many photos. Their descriptors are used again, each copy with a little noise, as if there were
more photos. One thread.
"""

import argparse
import time
from pathlib import Path

import faiss
import torch
import torch.nn.functional as F

import asic3d
from asic3d import retrieval
from asic3d.best_buddies import pack_cells
from asic3d.features import principal_axes, project

_NOISE = 0.02


def sampled(run: Path) -> torch.Tensor:
    """(N, S, D) descriptors of the cells that stand for each photo."""
    alignment = asic3d.load_alignment(run)
    valid = alignment.space.valid
    axes, mean = principal_axes(alignment.features, valid)
    descriptors = project(alignment.features, axes[:, : alignment.config.channels], mean, unit=True)
    cells = pack_cells((alignment.foreground > 0.15) & valid.reshape(alignment.foreground.shape))
    return retrieval.sampled_cells(descriptors, cells)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    few, random = sampled(arguments.run), torch.manual_seed(0)
    print("| photos | exact, s | approximate, s | the same partners | similarity, exact | approximate |")
    print("|---" * 6 + "|")
    for copies in arguments.copies:
        photos = few.repeat(copies, 1, 1)
        if copies > 1:
            photos = F.normalize(photos + _NOISE * torch.randn(photos.shape, generator=random), dim=2)
        seconds, found, known = [], [], torch.empty(0)
        for search in (retrieval.exact_similarity, retrieval.approximate_similarity):
            start = time.perf_counter()
            alike = search(photos)
            seconds.append(time.perf_counter() - start)
            both = (alike + alike.T).fill_diagonal_(-torch.inf)
            found.append(retrieval.partners_of(both, 7))
            known = known if len(known) else both / 2
        same = float((found[0] & found[1]).sum() / found[0].sum())
        cells = [f"{one:.1f}" for one in seconds] + [f"{100 * same:.0f} %"]
        cells += [f"{float(known[partners].mean()):.3f}" for partners in found]
        print(f"| {len(photos)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
