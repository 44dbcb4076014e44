"""The length pass against ms-swift's `AddLengthPreprocessor`, on the same rows, in the same run.

    python tests/bench/bench_lengths.py --rows 200 --num-proc 1 2 --output output/bench/lengths.json

The rows are 1-megapixel JPEGs with one to three masks (RLE at the image's size) and a question and answer of some
sentences. Both passes take the template of a tiny model with the ordinary limits of image size, so that an image costs
what it costs with the real model; only SAM2's copy of it is smaller (256 pixels a side, not 1024), which favours
ms-swift. `warm` is a second start, with all lengths in the cache.
"""
import argparse
import json
import numpy as np
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
_SIDE = 1024
_REPEATS = 3


def write_rows(folder: Path, count: int) -> str:
    """Noise blurred to the file size of a photograph (some 200 kB), and ellipses as masks."""
    from PIL import Image
    from support.rows import rle, write_jsonl
    from tqdm import tqdm
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    rows = []
    for i in tqdm(range(count), desc='Writing images', unit=' images'):
        pixels = rng.integers(0, 255, (_SIDE // 3, _SIDE // 3, 3), dtype=np.uint8)
        path = folder / f'{i}.jpg'
        Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(path, quality=85)
        masks = []
        for _ in range(int(rng.integers(1, 4))):
            (top, left), (height, width) = rng.integers(200, 800, 2), rng.integers(50, 300, 2)
            masks.append(rle(((y - top) / height)**2 + ((x - left) / width)**2 < 1))
        answer = f'The image shows tissue number {i}. ' + ' '.join('A nucleus: [SEG].' for _ in masks)
        rows.append({
            'messages': [{
                'role': 'user',
                'content': '<image>Segment the nuclei, and describe the image in one sentence.'
            }, {
                'role': 'assistant',
                'content': answer
            }],
            'images': [str(path)],
            'masks':
            masks,
        })
    return write_jsonl(folder / 'train.jsonl', rows)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', type=int, default=200)
    parser.add_argument('--num-proc', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--output', help='where to write the figures as JSON')
    args = parser.parse_args()

    from swift.dataset import AddLengthPreprocessor, AutoPreprocessor
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.model.build import build_checkpoint
    from swift_citrusv.model.tiny import build_tiny_mllm
    from swift_citrusv.plugin.datasets import patch_dataset_loading
    from swift_citrusv.plugin.register import register
    from swift_citrusv.training.jsonl_dataset import load_jsonl
    from swift_citrusv.training.length_pass import measure_dataset
    register()
    patch_dataset_loading()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_tiny_mllm(str(folder / 'mllm'))
        build_checkpoint(str(folder / 'mllm'), 'tiny', str(folder / 'citrusv'))
        _, processor = get_model_processor(str(folder / 'citrusv'), model_type='citrusv', load_model=False)
        template = get_template(processor, max_length=8192)
        template.set_mode('train')
        dataset = load_jsonl(write_rows(folder / 'rows', args.rows), strict=True, cache_dir=str(folder / 'arrow'))
        dataset = AutoPreprocessor()(dataset, strict=True, load_from_cache_file=False)

        for num_proc in args.num_proc:
            stock = AddLengthPreprocessor(template=template)
            stock_seconds, expected = seconds(
                lambda: stock(dataset, num_proc=num_proc, strict=True, load_from_cache_file=False, batch_size=100))
            cold: list[float] = []
            warm: list[float] = []
            for repeat in range(_REPEATS):
                cache_dir = str(folder / f'lengths-{num_proc}-{repeat}')
                for times in (cold, warm):
                    taken, measured = seconds(
                        lambda: measure_dataset(template, dataset, num_proc=num_proc, strict=True, cache_dir=cache_dir))
                    times.append(taken)
                    if list(measured['lengths']) != list(expected['lengths']):
                        raise SystemExit('The lengths differ.')
            results.append({
                'num_proc': num_proc,
                'rows': args.rows,
                'mean_tokens': float(np.mean(measured['lengths'])),
                'ms_swift_seconds': stock_seconds,
                'cold_seconds': median(cold),
                'warm_seconds': median(warm),
                'cold_ratio': stock_seconds / median(cold),
                'warm_ratio': stock_seconds / median(warm),
            })
    print(f'{args.rows} rows, {results[0]["mean_tokens"]:.0f} tokens each; equal lengths')
    print(f'{"processes":>9} {"ms-swift":>10} {"cold":>10} {"ratio":>7} {"warm":>10} {"ratio":>7}')
    for result in results:
        print(f'{result["num_proc"]:>9} {result["ms_swift_seconds"]:>8.2f} s {result["cold_seconds"]:>8.3f} s '
              f'{result["cold_ratio"]:>6.1f}x {result["warm_seconds"]:>8.3f} s {result["warm_ratio"]:>6.1f}x')
    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
