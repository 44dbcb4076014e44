"""Time of `citrusv eval volume` on a scan with many labels, beside MONAI's metrics in the same run.

    python tests/bench/bench_volume_scores.py --side 512 --slices 133 --labels 20
"""
import argparse
import numpy as np
import resource
import time
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from tqdm import tqdm

from swift_citrusv.scoring.volumes.volume_scores import volume_scores

SPACING = (.7, .7, 2.5)


def label_map(rng: np.random.Generator, side: int, slices: int, labels: int, shift: float) -> np.ndarray:
    """Ellipsoids of 2 to 8 cm, uint8 [side, side, slices]."""
    values = np.zeros((side, side, slices), np.uint8)
    size = np.array(values.shape) * SPACING
    for value in range(1, labels + 1):
        centre, radius = rng.uniform(.2, .8, 3) * size, rng.uniform(10, 40, 3)
        axes = [
            np.arange(length) * step - middle - shift for length, step, middle in zip(values.shape, SPACING, centre)
        ]
        distance = sum((axis / r).reshape([-1 if i == j else 1 for j in range(3)])**2
                       for i, (axis, r) in enumerate(zip(axes, radius)))  # yapf: disable
        values[distance < 1] = value
    return values


def monai_scores(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    first, second = (torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32)) for mask in (one, other))
    return (float(compute_dice(first, second, include_background=False)),
            float(compute_surface_dice(first, second, [2.], spacing=SPACING)),
            float(compute_hausdorff_distance(first, second, percentile=95, spacing=SPACING)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--side', type=int, default=512)
    parser.add_argument('--slices', type=int, default=133)
    parser.add_argument('--labels', type=int, default=20)
    parser.add_argument('--monai', type=int, default=3, help='labels that MONAI scores too')
    args = parser.parse_args()
    maps = [label_map(np.random.default_rng(0), args.side, args.slices, args.labels, shift) for shift in (0., 1.5)]
    affine = np.diag([*SPACING, 1.])
    ours, theirs = [], []
    for value in tqdm(range(1, args.labels + 1), 'labels'):
        one, other = (values == value for values in maps)
        start = time.perf_counter()
        found = volume_scores(one, other, affine, 2.).values
        ours.append(time.perf_counter() - start)
        if value <= args.monai:
            start = time.perf_counter()
            expected = monai_scores(one, other)
            theirs.append(time.perf_counter() - start)
            np.testing.assert_allclose([found['dice'], found['nsd'], found['hd95']], expected, atol=1e-3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f'{args.side} x {args.side} x {args.slices}: {np.mean(ours):.2f} s a label, {sum(ours):.1f} s for all; '
          f'MONAI {np.mean(theirs):.2f} s a label, {np.mean(theirs) / np.mean(ours[:args.monai]):.1f} times as long; '
          f'peak {peak:.0f} MiB')


if __name__ == '__main__':
    main()
