"""Memory of the trainer's process and its DataLoader workers over epochs of packed loading (ms-swift #4423).

    python tests/bench/bench_memory.py --output output/bench/memory.json

Prints the proportional set size (PSS: shared pages are divided among those who share them) of all processes together
after each epoch. The first epoch fills caches; from then on it should stay where it is.
"""
import argparse
import gc
import json
import os
import psutil
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def pss_mib() -> float:
    """PSS of this process and all below it, in MiB."""
    gc.collect()
    me = psutil.Process()
    return sum(process.memory_full_info().pss for process in [me, *me.children(recursive=True)]) / 2**20


def write_rows(folder: Path, count: int) -> str:
    """Half short questions, a quarter long texts, a quarter segmentation; the images of a few files."""
    from support.rows import Maker, write_jsonl
    maker, rng = Maker(folder / 'images'), random.Random(0)
    pictures = [(maker.image(), maker.mask()) for _ in range(32)]
    rows = []
    for i in range(count):
        image, mask = rng.choice(pictures)
        if i % 4 == 0:
            rows.append(maker.row('<image>Segment the cell.', 'The cell: [SEG].', images=[image], masks=[mask]))
        elif i % 4 == 1:
            rows.append(maker.row('Write a report.', ' '.join(f'word{rng.randrange(1000)}' for _ in range(150))))
        else:
            rows.append(maker.row('<image>What is it?', f'Number {i}.', images=[image]))
    return write_jsonl(folder / 'train.jsonl', rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', type=int, default=20_000)
    parser.add_argument('--epochs', type=int, default=3)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--output', help='where to write the figures as JSON')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')

    from swift.dataset import AutoPreprocessor
    from swift.model import get_model_processor
    from swift.template import get_template
    from torch.utils.data import DataLoader
    from tqdm import tqdm
    from types import SimpleNamespace

    from swift_citrusv.model.build import build_checkpoint
    from swift_citrusv.model.tiny import build_tiny_mllm
    from swift_citrusv.plugin.datasets import patch_dataset_loading
    from swift_citrusv.plugin.register import register
    from swift_citrusv.training.jsonl_dataset import load_jsonl
    from swift_citrusv.training.length_pass import measure_dataset
    from swift_citrusv.training.packed_dataset import PackingDataset
    register()
    patch_dataset_loading()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_tiny_mllm(str(folder / 'mllm'))
        build_checkpoint(str(folder / 'mllm'), 'tiny', str(folder / 'citrusv'))
        _, processor = get_model_processor(str(folder / 'citrusv'), model_type='citrusv', load_model=False)
        template = get_template(processor, max_length=2048)
        template.set_mode('train')
        dataset = load_jsonl(write_rows(folder, args.rows), strict=True, cache_dir=str(folder / 'cache'))
        dataset = AutoPreprocessor()(dataset, strict=True, load_from_cache_file=False)
        dataset = measure_dataset(template, dataset, num_proc=1, strict=True, cache_dir=None)
        packs = PackingDataset(template, SimpleNamespace(dataset=dataset), packing_length=2048)
        loader = DataLoader(
            packs,
            shuffle=True,
            collate_fn=template.data_collator,
            num_workers=args.workers,
            persistent_workers=args.workers > 0)
        figures = [pss_mib()]
        for epoch in range(args.epochs):
            for batch in tqdm(loader, desc=f'Epoch {epoch}', unit=' packs'):
                del batch
            figures.append(pss_mib())
        for epoch, figure in enumerate(figures):
            print(f'{"before" if not epoch else f"epoch {epoch}":>8}: {figure:8.1f} MiB')
        growth = figures[-1] / figures[1] - 1
        print(f'growth from epoch 1 to epoch {args.epochs}: {growth:+.2%} ({args.rows} rows, {len(packs)} packs)')
        if args.output:
            Path(args.output).parent.mkdir(parents=True, exist_ok=True)
            Path(args.output).write_text(
                json.dumps(
                    {
                        'rows': args.rows,
                        'packs': len(packs),
                        'workers': args.workers,
                        'pss_mib': figures,
                        'growth': growth
                    },
                    indent=1))


if __name__ == '__main__':
    main()
