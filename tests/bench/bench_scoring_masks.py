"""Time and memory of `citrusv eval segmentation` on many rows with masks.

    python tests/bench/bench_scoring_masks.py --rows 100000 --workers 2
"""
import argparse
import json
import numpy as np
import resource
import tempfile
import time
from pathlib import Path

from swift_citrusv.rows.masks import encode_rle
from swift_citrusv.scoring.evaluate import EvaluationSettings, evaluate
from swift_citrusv.scoring.masks.segmentation import SegmentationTask
from swift_citrusv.scoring.terminal import evaluation_lines

# Different pairs of masks; rows repeat them.
_PAIRS = 500


def blob(rng: np.random.Generator, side: int, radius: float, wobble: float) -> np.ndarray:
    """A star-shaped mask, uint8 [side, side], near the middle of the image."""
    y, x = np.mgrid[:side, :side] - side / 2
    angle = np.arctan2(y, x)
    edge = sum(rng.normal(0, wobble / k) * np.cos(k * angle + rng.uniform(0, 7)) for k in range(1, 12))
    return (np.hypot(x, y) < radius * (1 + edge)).astype(np.uint8)


def write_rows(folder: Path, num_rows: int, side: int) -> None:
    """ref.jsonl and pred.jsonl, one mask a row."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(_PAIRS):
        radius = rng.uniform(0.05, 0.4) * side
        pairs.append([encode_rle(blob(rng, side, radius * rng.uniform(0.8, 1.2), 0.1)) for _ in range(2)])
    with open(folder / 'ref.jsonl', 'w') as references, open(folder / 'pred.jsonl', 'w') as predictions:
        for i in range(num_rows):
            target, predicted = pairs[i % _PAIRS]
            references.write(json.dumps({'id': i, 'patient': f'p{i // 10}', 'masks': [target]}) + '\n')
            predictions.write(json.dumps({'id': i, 'response': '[SEG]', 'masks': [{'rle': predicted}]}) + '\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rows', type=int, default=10000)
    parser.add_argument('--side', type=int, default=256)
    parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, args.rows, args.side)
        start = time.perf_counter()
        result = evaluate(SegmentationTask(), str(folder / 'ref.jsonl'), str(folder / 'pred.jsonl'),
                          EvaluationSettings(workers=args.workers))  # yapf: disable
        seconds = time.perf_counter() - start
    print('\n'.join(evaluation_lines(result)))
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f'{args.rows} rows: {seconds:.1f} s with {args.workers} workers, {1000 * seconds / args.rows:.2f} ms a row; '
          f'peak {peaks[0]:.0f} MiB, of a worker {peaks[1]:.0f} MiB')


if __name__ == '__main__':
    main()
