"""The exact and the approximate search for similar photos: seconds, and how many of the partners are the same.

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


def partners(alike: torch.Tensor, count: int) -> set[tuple[int, int]]:
    """The most similar photos of each photo."""
    both = (alike + alike.T).fill_diagonal_(-torch.inf)
    return {(photo, other) for photo in range(len(both)) for other in both[photo].topk(count).indices.tolist()}


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    few, random = sampled(arguments.run), torch.manual_seed(0)
    print("| photos | exact, s | approximate, s | the same partners |\n|---|---|---|---|")
    for copies in arguments.copies:
        photos = few.repeat(copies, 1, 1)
        if copies > 1:
            photos = F.normalize(photos + _NOISE * torch.randn(photos.shape, generator=random), dim=2)
        seconds, found = [], []
        for search in (retrieval.exact_similarity, retrieval.approximate_similarity):
            start = time.perf_counter()
            alike = search(photos)
            seconds.append(time.perf_counter() - start)
            found.append(partners(alike, 7))
        same = len(found[0] & found[1]) / len(found[0])
        print(f"| {len(photos)} | {seconds[0]:.1f} | {seconds[1]:.1f} | {100 * same:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
