"""Measures `citrusv data dedup` on synthetic report texts: rows a CPU-second, and the memory of the largest process.

    .venv/bin/python tests/bench/bench_curation.py --rows 1000000 --output output/bench/curation.json

A tenth of the rows are equal to an earlier one, and a tenth nearly equal.
"""
import argparse
import json
import numpy as np
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path


def write_rows(path: Path, count: int) -> None:
    """Reports of 20 to 60 words, with the frequencies of words of a natural text."""
    rng = np.random.default_rng(0)
    middles, ends = ('ran', 'tol', 'mis', 'ved', 'sel'), ('', 'ic', 'al', 'us', 'itis', 'oma')
    words = np.array([a + b + c + d for a in 'bdfgklmnprst' for b in 'aeiou' for c in middles for d in ends])
    shares = 1 / np.arange(10, 10 + len(words))
    shares /= shares.sum()
    recent: list[str] = []
    with open(path, 'w', encoding='utf-8') as file:
        for start in range(0, count, 10000):
            lengths = rng.integers(20, 60, min(10000, count - start))
            drawn = words[rng.choice(len(words), int(lengths.sum()), p=shares)]
            stops = np.cumsum(lengths)
            for number, (end, length) in enumerate(zip(stops, lengths)):
                text = ' '.join(drawn[end - length:end])
                if recent and number % 10 == 0:
                    text = recent[number % len(recent)]
                elif recent and number % 10 == 5:
                    text = f'{recent[number % len(recent)]} again'
                elif len(recent) < 5000:
                    recent.append(text)
                else:
                    recent[int(rng.integers(5000))] = text
                file.write(
                    f'{{"messages": [{{"role": "user", "content": "Describe the film."}}, {{"role": "assistant", '
                    f'"content": "{text}."}}], "id": {start + number}}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, default=1000000)
    parser.add_argument('--workers', default='2')
    parser.add_argument('--output', default='output/bench/curation.json')
    args = parser.parse_args()
    folder = Path(args.output).parent / 'curation'
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / f'{args.rows}.jsonl'
    if not rows.exists():
        write_rows(rows, args.rows)
    shutil.rmtree(folder / 'out', ignore_errors=True)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(Path(sys.executable).with_name('citrusv')), 'data', 'dedup', str(rows), '--output',
                    str(folder / 'out'), '--workers', args.workers], check=True)  # yapf: disable
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary = json.loads((folder / 'out' / 'summary.json').read_text())
    figures = {
        'rows': args.rows,
        'seconds': round(time.monotonic() - start, 1),
        'cpu_seconds': round(seconds, 1),
        'rows_a_cpu_second': round(args.rows / seconds),
        'peak_mib_of_a_process': after.ru_maxrss >> 10,
        'counts': {
            name: summary[name]
            for name in ('kept', 'review', 'merged')
        },
    }
    print(json.dumps(figures, indent=1))
    Path(args.output).write_text(json.dumps(figures, indent=1))


if __name__ == '__main__':
    main()
