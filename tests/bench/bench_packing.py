"""Packing: ours against ms-swift's `binpack` and `sequential` and the lower bound, side by side in one run.

    python tests/bench/bench_packing.py --output output/bench/packing.json
    python tests/bench/bench_packing.py --huge --output output/bench/packing_huge.json

The rows are those of `tests/support/mixture.py`: captions of about 350 tokens, VQA 500, documents 1,600, reports 2,600,
reasoning 900, in packs of 12,288 tokens, without and with image budgets. ms-swift packs as it does in one process, in
windows of 1,000 rows; it does not count images, so its packs are split in order to keep the image budget (not timed).
Times are processor times, the best of several repeats, ours with the lists that `pack_best_fit` returns. `--huge` packs
15.4 million rows, in one process per measurement, each of which has its own memory peak.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
os.environ.setdefault('OMP_NUM_THREADS', '1')

HUGE_ROWS = 15_400_000
HUGE_IMAGES = {'one': None, 'two': 'T  1-4 on a quarter of the rows, 8 a pack'}
BUFFERS = (64, 128, 256, 512, 1000, 2000, 4000)


def timed(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the fewest processor seconds of a call."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def compare(num_rows: int, repeats: int) -> list[dict[str, Any]]:
    """The packers on the same rows, for each image budget."""
    from support.mixture import CAPACITY, image_sets, mixture, swift_packs
    from tqdm import tqdm

    from swift_citrusv.packing.packs import lower_bound, pack_best_fit
    lengths, _ = mixture(num_rows)
    cases: dict[str, Any] = {'one budget': None, **image_sets(lengths)}
    plain = lengths.tolist()
    swift = {
        name: timed(partial(swift_packs, plain, CAPACITY, strategy=name), min(repeats, 3))
        for name in tqdm(('binpack', 'sequential'), desc='ms-swift', leave=False)
    }
    records = []
    for case, images in tqdm(cases.items(), desc='Image budgets', leave=False):
        budget: dict[str, Any] = {}
        if images is not None:
            budget = dict(images=images.counts, image_capacity=images.capacity)
        bound = lower_bound(lengths, CAPACITY, **budget)
        ours = timed(partial(pack_best_fit, lengths, CAPACITY, **budget), repeats)
        for method, (packs, seconds) in {'ours': ours, **swift}.items():
            num_packs = len(packs)
            if method != 'ours' and images is not None:
                num_packs = len(swift_packs(plain, CAPACITY, images.counts.tolist(), images.capacity, strategy=method))
            records.append({
                'case': case,
                'method': method,
                'rows': num_rows,
                'packs': num_packs,
                'lower_bound': bound,
                'above_bound': num_packs / bound - 1,
                'token_fill': float(lengths.sum()) / (num_packs * CAPACITY),
                'us_per_row': seconds / num_rows * 1e6,
                'times_faster_than_binpack': swift['binpack'][1] / seconds
            })
    return records


def look_ahead(num_rows: int) -> list[dict[str, Any]]:
    """Packing of a stream at several buffers, relative to packing all rows at once."""
    from support.mixture import CAPACITY, image_sets, mixture
    from tqdm import tqdm

    from swift_citrusv.packing.lookahead import LookAheadPacker
    from swift_citrusv.packing.packs import pack_arrays
    lengths, _ = mixture(num_rows)
    sets = image_sets(lengths)
    names = [None, *(name for name in sets if '1-4' in name or '0-4' in name)]
    records = []
    for name in tqdm(names, desc='Look-ahead', leave=False):
        images, image_capacity = sets[name] if name else (lengths * 0, 0)
        offline = len(pack_arrays(lengths, CAPACITY, images=images, image_capacity=image_capacity))
        rows = list(zip(range(num_rows), lengths.tolist(), images.tolist()))
        for buffer in tqdm(BUFFERS, desc='Buffers', leave=False):
            packer: LookAheadPacker[int] = LookAheadPacker(CAPACITY, image_capacity, buffer=buffer)
            num_packs = longest = 0
            start = time.process_time()
            for row in rows:
                packs = packer.add(*row)
                num_packs += len(packs)
                longest = max([longest, *(row[0] - pack[0] for pack in packs)])
            num_packs += len(packer.flush())
            seconds = time.process_time() - start
            records.append({
                'case': name or 'one budget',
                'buffer': buffer,
                'packs': num_packs,
                'offline_packs': offline,
                'fill_against_offline': offline / num_packs,
                'longest_wait_in_buffers': longest / buffer,
                'us_per_row': seconds / num_rows * 1e6
            })
    return records


def measure_huge(which: str) -> dict[str, Any]:
    """15.4 million rows in this process."""
    import resource
    from support.mixture import CAPACITY, image_sets, mixture

    from swift_citrusv.packing.packs import lower_bound, pack_arrays
    lengths, _ = mixture(HUGE_ROWS)
    budget: dict[str, Any] = {}
    name = HUGE_IMAGES[which]
    if name:
        images = image_sets(lengths)[name]
        budget = dict(images=images.counts, image_capacity=images.capacity)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, start = time.perf_counter(), time.process_time()
    packs = pack_arrays(lengths, CAPACITY, **budget)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    bound = lower_bound(lengths, CAPACITY, **budget)
    return {
        'case': name or 'one budget',
        'rows': HUGE_ROWS,
        'seconds': wall,
        'processor_seconds': seconds,
        'peak_gib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        'peak_before_packing_gib': before / 2**20,
        'packs': len(packs),
        'lower_bound': bound,
        'above_bound': len(packs) / bound - 1
    }


def table(records: list[dict[str, Any]], columns: dict[str, tuple[str, str]]) -> str:
    """Lines of the columns: key -> (heading, format)."""
    lines = [[heading for heading, _ in columns.values()]]
    lines += [[format(record[key], form) for key, (_, form) in columns.items()] for record in records]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return '\n'.join('  '.join(
        cell.ljust(widths[0]) if not place else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(line, widths))) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', type=int, default=50_000)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--huge', action='store_true', help='15.4 million rows instead, ours alone')
    parser.add_argument('--huge-part', choices=HUGE_IMAGES, help=argparse.SUPPRESS)
    parser.add_argument('--output', help='where to write the figures as JSON')
    args = parser.parse_args()
    if args.huge_part:
        print(json.dumps(measure_huge(args.huge_part)))
        return
    figures: dict[str, list[dict[str, Any]]] = {}
    if args.huge:
        figures['huge'] = []
        for part in HUGE_IMAGES:
            print(f'{HUGE_ROWS:,} rows, {part} budget(s) ...', flush=True)
            command = [sys.executable, __file__, '--huge-part', part]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures['huge'].append(json.loads(run.stdout))
        columns = {
            'case': ('case', ''),
            'packs': ('packs', ',d'),
            'above_bound': ('above bound', '.3%'),
            'seconds': ('seconds', '.1f'),
            'processor_seconds': ('of processor', '.1f'),
            'peak_before_packing_gib': ('GiB before', '.2f'),
            'peak_gib': ('GiB peak', '.2f')
        }
        print(table(figures['huge'], columns))
    else:
        figures['packers'] = compare(args.rows, args.repeats)
        columns = {
            'case': ('case', ''),
            'method': ('method', ''),
            'packs': ('packs', ',d'),
            'lower_bound': ('bound', ',d'),
            'above_bound': ('above', '.3%'),
            'token_fill': ('tokens', '.2%'),
            'us_per_row': ('us/row', '.2f'),
            'times_faster_than_binpack': ('x binpack', '.1f')
        }
        print(table(figures['packers'], columns))
        figures['look_ahead'] = look_ahead(args.rows)
        columns = {
            'case': ('case', ''),
            'buffer': ('buffer', ',d'),
            'packs': ('packs', ',d'),
            'fill_against_offline': ('of offline fill', '.2%'),
            'longest_wait_in_buffers': ('wait/buffer', '.1f'),
            'us_per_row': ('us/row', '.1f')
        }
        print(table(figures['look_ahead'], columns))
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(figures, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
