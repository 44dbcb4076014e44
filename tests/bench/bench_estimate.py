"""`citrusv estimate` against measured peaks.

    python tests/bench/bench_estimate.py --output output/bench/estimate.json
    python tests/bench/bench_estimate.py --all --output output/bench/estimate_all.json

The first line runs steps of a small model on the CPU (on CUDA too, where there is one), and counts every allocation;
see `training_step`: about three minutes on two cores. `--all` stands for `--real-sam2`, with SAM2.1 tiny at 1024
pixels; `--zero`, with the third step through DDP and DeepSpeed on one and two ranks; and `--swift`, with the third step
of packed runs through `swift sft` and all that the trainer adds: about ten minutes more.

Ends with status 1 if an estimate is more than 15 % off.
"""
import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import torch
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tqdm import tqdm
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / 'bench')]

from support.distributed.devices import free_port  # noqa: E402
from support.engine_peak import rank_peak  # noqa: E402
from support.rows import Maker, write_jsonl  # noqa: E402
from support.step_meter import StepMeter, read_steps  # noqa: E402
from support.training_step import Measured, measure, scaled_config  # noqa: E402

from swift_citrusv.estimate.dry_run import Load  # noqa: E402
from swift_citrusv.estimate.memory import Estimate, Setup, estimate  # noqa: E402
from swift_citrusv.estimate.stage import freeze_as_stage  # noqa: E402
from swift_citrusv.model.config import CitrusVConfig  # noqa: E402

MIB = 2**20
TOLERANCE = 0.15
TEMPLATES = Path(__file__).resolve().parents[2] / 'templates'
DTYPES = {'bf16': torch.bfloat16, 'fp32': torch.float32}
LOADS = (Load(512, 100, 300, 0, 0), Load(1024, 300, 400, 4, 5), Load(2048, 1000, 500, 8, 12))


class Record(NamedTuple):
    """An estimate and what was measured, in bytes.

    `moving` leaves out parameters and optimizer states. Both are 0 if not measured apart; under ZeRO the shares of the
    gradients stand still, too.
    """
    way: str
    name: str
    estimated: int
    measured: int
    moving_estimated: int
    moving_measured: int

    @property
    def error(self) -> float:
        return self.estimated / self.measured - 1


def record(way: str, name: str, one: Estimate, real: Measured) -> Record:
    moving = (0, 0) if one.zero or not real.peak else (one.peak - one.parameters - one.optimizer - one.batches,
                                                       real.peak)
    return Record(way, name, one.peak, real.standing + real.peak, *moving)


def describe(stage: int, load: Load, checkpointing: bool, dtype: str) -> str:
    kept = 'checkpointing' if checkpointing else 'no checkpointing'
    return f'stage {stage}, {load.tokens} tokens, {load.images} images, {kept}, {dtype}'


def direct(preset: str, loads: tuple[Load, ...], device: str) -> Iterator[Record]:
    # The data of stages 1 and 2 have no masks, and stage 4's have.
    cases = [(stage, load, checkpointing, dtype)
             for stage, load, checkpointing, dtype in itertools.product((1, 2, 3, 4), loads, (True, False), DTYPES)
             if (stage >= 3) == bool(load.images)]
    for stage, load, checkpointing, name in tqdm(cases, desc=f'On {device}, SAM2 {preset}', unit=' runs'):
        freeze = partial(freeze_as_stage, stage=stage)
        config, dtype = scaled_config(preset), DTYPES[name]
        real = measure(config, freeze, load, dtype=dtype, checkpointing=checkpointing, device=device)
        setup = Setup(dtype=dtype, checkpointing=checkpointing, attn_impl='sdpa')
        one = estimate(config, freeze, load, setup, 0)
        yield record(f'{device}, SAM2 {preset}', describe(stage, load, checkpointing, name), one, real)


def through_swift(folder: Path) -> Iterator[Record]:
    from support.swift_run import run_sft
    from swift.callbacks import callbacks_map

    from swift_citrusv.model.build import build_checkpoint
    from swift_citrusv.model.tiny import build_tiny_mllm
    build_tiny_mllm(str(folder / 'mllm'), hidden_size=512)
    build_checkpoint(str(folder / 'mllm'), 'tiny', str(folder / 'model'))
    maker = Maker(folder / 'images')
    rows = [
        maker.row('<image>Segment both.' + ' Please.' * 60, 'Here [SEG] and there [SEG].' + ' It is a cell.' * 60,
                  images=[maker.image(280, 280)], masks=[maker.mask(280, 280), maker.mask(280, 280)])
        for _ in range(24)
    ]  # yapf: disable
    dataset = write_jsonl(folder / 'train.jsonl', rows)
    callbacks_map['meter'] = StepMeter
    for stage, checkpointing in tqdm([*itertools.product((3, 4), (True, False))], desc='swift sft', unit=' runs'):
        name = f'{stage}_{checkpointing}'
        StepMeter.file = str(folder / f'{name}.json')
        run_sft(
            str(TEMPLATES / f'stage{stage}.yaml'),
            '--model',
            str(folder / 'model'),
            '--dataset',
            dataset,
            '--output_dir',
            str(folder / name),
            '--max_length',
            '2048',
            '--gradient_checkpointing',
            str(checkpointing).lower(),
            '--gradient_accumulation_steps',
            '1',
            '--dataset_num_proc',
            '1',
            '--attn_impl',
            'sdpa',
            '--callbacks',
            'meter',
            'watch',
            stop_after=3)
        attention, steps = read_steps(Path(StepMeter.file))
        measured = steps[StepMeter.profiled]
        setup = Setup(dtype=torch.float32, checkpointing=checkpointing, attn_impl=attention)
        config = CitrusVConfig.from_pretrained(str(folder / 'model'))
        one = estimate(config, partial(freeze_as_stage, stage=stage), measured.load, setup, 0)
        # A `Step` has only their sum.
        real = Measured(measured.peak, 0)
        yield record('swift sft', describe(stage, measured.load, checkpointing, 'fp32'), one, real)


def through_engines() -> Iterator[Record]:
    context = multiprocessing.get_context('spawn')
    config = scaled_config()
    # The optimizer's step makes the peak of the first.
    loads = {
        1: Load(512, 100, 300, 0, 0),
        2: Load(256, 32, 64, 0, 0),
        **dict.fromkeys((3, 4), Load(1024, 300, 400, 4, 5))
    }
    cases = [(ranks, zero, dtype, stage, grad_accum)
             for grad_accum, dtype, ranks, zero, stage in itertools.product((1, 2), DTYPES, (1, 2), (0, 2, 3), loads)
             if (ranks > 1 or zero) and (grad_accum == 1 or dtype == 'bf16' and stage in (2, 3))]
    for ranks, zero, name, stage, grad_accum in tqdm(cases, desc='Engines', unit=' runs'):
        queue, port = context.Queue(), free_port()
        load, dtype = loads[stage], DTYPES[name]
        processes = [
            context.Process(
                target=rank_peak, args=(config, stage, load, dtype, zero, grad_accum, rank, ranks, port, queue))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        real = max((queue.get(timeout=600) for _ in processes), key=lambda one: one.standing + one.peak)
        for process in processes:
            process.join()
        setup = Setup(world_size=ranks, dtype=dtype, attn_impl='sdpa', grad_accum=grad_accum)
        one = estimate(config, partial(freeze_as_stage, stage=stage), load, setup, zero)
        way = f'{f"ZeRO-{zero}" if zero else "DDP"}, {ranks} rank{"s" * (ranks > 1)}'
        times = f'{grad_accum} forward passes, ' if grad_accum > 1 else ''
        yield record(way, times + describe(stage, load, True, name), one, real)


def summary(records: list[Record]) -> dict[str, Any]:
    """How many runs there were, and how far the estimates are off: by the median, and in the worst of them."""
    worst = max(records, key=lambda one: abs(one.error))
    return {
        'runs': len(records),
        'median': statistics.median(abs(one.error) for one in records),
        'lowest': min(one.error for one in records),
        'highest': max(one.error for one in records),
        'worst': f'{worst.way}, {worst.name}',
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--real-sam2', action='store_true', help='SAM2.1 tiny at 1024 pixels too')
    parser.add_argument('--zero', action='store_true', help='through DDP and DeepSpeed too')
    parser.add_argument('--swift', action='store_true', help='through swift sft too')
    parser.add_argument('--all', action='store_true', help='all of these')
    parser.add_argument('--output', type=Path, help='where to write the figures as JSON')
    args = parser.parse_args()
    records: list[Record] = []
    with tempfile.TemporaryDirectory() as folder:
        ways = []
        for device in ['cpu', *['cuda'] * torch.cuda.is_available()]:
            ways.append(direct('tiny', LOADS, device))
            if args.real_sam2 or args.all:
                ways.append(direct('sam2.1_hiera_t', (Load(512, 100, 300, 2, 2), ), device))
        if args.zero or args.all:
            ways.append(through_engines())
        if args.swift or args.all:
            ways.append(through_swift(Path(folder)))
        print('| run | estimated MiB | measured MiB | peak | of it what moves |\n| --- | --- | --- | --- | --- |')
        for one in itertools.chain(*ways):
            records.append(one)
            moving = f'{one.moving_estimated / one.moving_measured - 1:+.1%}' if one.moving_estimated else ''
            tqdm.write(f'| {one.way}, {one.name} | {one.estimated / MIB:.0f} | {one.measured / MIB:.0f} | '
                       f'{one.error:+.1%} | {moving} |')
    groups = {way: [one for one in records if one.way == way] for way in dict.fromkeys(one.way for one in records)}
    summaries = {way: summary(group) for way, group in {**groups, 'all': records}.items()}
    print('\n| way | runs | median | lowest | highest |\n| --- | --- | --- | --- | --- |')
    for way, found in summaries.items():
        print(f'| {way} | {found["runs"]} | {found["median"]:.1%} | {found["lowest"]:+.1%} | {found["highest"]:+.1%} |')
    print(f'Worst: {summaries["all"]["worst"]}')
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**one._asdict(), 'error': one.error} for one in records]
        args.output.write_text(json.dumps({'summary': summaries, 'runs': rows}, indent=1), encoding='utf-8')
    return int(any(abs(one.error) > TOLERANCE for one in records))


if __name__ == '__main__':
    raise SystemExit(main())
