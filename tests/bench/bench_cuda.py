"""Training steps at the size of Qwen2.5-VL-3B with SAM2.1 large, against `citrusv estimate`: time, and peak memory.

    python tests/bench/bench_cuda.py --output output/bench/cuda.json
    python tests/bench/bench_cuda.py --dims tiny --device cpu --engines none zero2

The first line needs one CUDA device of 80 GB or more, 10 GB of disk, and about eight minutes: the four stages through
stock `swift sft`, without DeepSpeed and with ZeRO-2 and ZeRO-3, in bfloat16. The checkpoint has random weights, made on
the device, and the tiny tokenizer. `--world 2` puts two ranks on the device where there is no second one (gloo then,
since NCCL refuses).

What does not fit by the estimate runs with one image in SAM2's encoder at a time, or not at all; the table notes it.
Every run has a process of its own, which imports what it needs while the run before it has the device. The JSON is
written after each.
"""
import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / 'bench')]

from bench_training import DIMS, Dims, write_model, write_rows  # noqa: E402

ENGINES = {'none': 0, 'zero2': 2, 'zero3': 3}
# AdamW makes its moments in the first step, and kernels are chosen.
WARM_UP_STEPS = 2
GIB = 2**30
# Beside tensors: the CUDA context, and the fragments of the allocator.
REST = 2 * GIB


class Case(NamedTuple):
    """A run: engine, stage, and how many images SAM2's encoder sees at a time."""
    engine: str
    stage: int
    seg_chunk: int

    @property
    def name(self) -> str:
        return f'{self.engine}_stage{self.stage}'


class Place(NamedTuple):
    """What all runs share: the device and the files."""
    folder: Path
    device: str
    capacity: int
    steps: int
    world_size: int

    @property
    def dtype(self) -> str:
        return 'bfloat16' if self.device == 'cuda' else 'float32'


# ---- models and rows


def write_checkpoint(folder: str, dims: Dims, device: str, dtype: str) -> None:
    """A whole Citrus-V directory with random weights, made on the device."""
    import torch

    from swift_citrusv.model.config import CitrusVConfig
    from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
    write_model(Path(folder), dims)
    torch.manual_seed(0)
    with torch.device(device):
        model = CitrusVForConditionalGeneration._from_config(
            CitrusVConfig.from_pretrained(folder), dtype=getattr(torch, dtype))
    model.save_pretrained(folder)


def write_datasets(folder: Path, count: int, dims: Dims) -> None:
    """`stageN.jsonl` for each stage: rows without masks for 1 and 2, of all kinds for 3, and with masks for 4."""
    lines = Path(write_rows(folder, count, dims)).read_text(encoding='utf-8').splitlines()
    masked = [line for line in lines if 'masks' in json.loads(line)]
    plain = [line for line in lines if 'masks' not in json.loads(line)]
    for stage, rows in {1: plain, 2: plain, 3: lines, 4: masked}.items():
        (folder / f'stage{stage}.jsonl').write_text('\n'.join(rows) + '\n', encoding='utf-8')


# ---- one run


def train(case: Case, place: Place, rank: int, port: int, go: Any) -> None:
    """A rank of a run, in a process of its own; writes `CASE_RANK.log` and `CASE_RANK.json`."""
    log = os.open(place.folder / f'{case.name}_{rank}.log', os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    # Slow imports, before the wait.
    import deepspeed.comm.torch
    import swift.pipelines.train.sft  # noqa: F401

    import swift_citrusv.register  # noqa: F401
    if place.device == 'cpu':
        # It would compile an operator for inference on CPUs.
        setattr(deepspeed.comm.torch, 'build_shm_op', lambda: None)
    go.wait()
    flags = []
    if place.world_size > 1 or case.engine != 'none':
        from support.distributed.devices import name_rank
        name_rank(rank, place.world_size, port)
        flags += ['--ddp_backend', 'gloo'] if place.device == 'cpu' else []
    run_sft(case, place, rank, flags)


def run_sft(case: Case, place: Place, rank: int, flags: list[str]) -> None:
    """Trains in this process, and writes what the steps took."""
    from support.step_meter import StepMeter
    from swift.callbacks import callbacks_map
    from swift.cli.main import parse_yaml_args
    from swift.pipelines import sft_main

    from swift_citrusv.package_files import templates_dir
    from swift_citrusv.plugin.register import register
    register()
    StepMeter.file, StepMeter.profiled = str(place.folder / f'{case.name}_{rank}.json'), place.steps - 1
    callbacks_map['meter'] = StepMeter
    cuda = place.device == 'cuda'
    common = f'''--torch_dtype {place.dtype} --fp16 false --bf16 {str(cuda).lower()} --use_cpu {str(not cuda).lower()}
        --gradient_accumulation_steps 1 --max_steps {place.steps} --max_length {place.capacity}
        --dataloader_num_workers {4 if cuda else 0} --dataset_num_proc {8 if cuda else 1}
        --gradient_checkpointing true --add_version false --report_to none --save_strategy no --eval_strategy no
        --logging_steps 1 --ddp_find_unused_parameters false --callbacks meter --load_from_cache_file false'''.split()
    files = [
        '--model',
        str(place.folder / 'model'), '--dataset',
        str(place.folder / f'stage{case.stage}.jsonl'), '--output_dir',
        str(place.folder / 'output')
    ]
    engine = [] if case.engine == 'none' else ['--deepspeed', case.engine]
    # What `swift` itself does with a stage file before it starts the training process: flags in place of its name.
    stage_flags = [str(templates_dir() / f'stage{case.stage}.yaml')]
    parse_yaml_args(stage_flags)
    chunk = json.dumps({'seg_chunk': case.seg_chunk})
    sft_main([*stage_flags, *common, *files, *engine, *flags, '--model_kwargs', chunk])


class Runner:
    """The processes of a run: they start at once, and wait for `go` before they touch the device."""

    def __init__(self, case: Case, place: Place) -> None:
        from support.distributed.devices import free_port
        context = multiprocessing.get_context('spawn')
        self.case, self.place = case, place
        self._go, port = context.Event(), free_port()
        self._processes = [
            context.Process(target=train, args=(case, place, rank, port, self._go)) for rank in range(place.world_size)
        ]
        for process in self._processes:
            process.start()

    def go(self) -> None:
        self._go.set()

    def wait(self, seconds: float) -> str | None:
        """Waits until all are done, and returns the end of the log of one where it went wrong."""
        end = time.monotonic() + seconds
        for process in self._processes:
            process.join(max(end - time.monotonic(), 0))
        late = self.kill()
        failed = [rank for rank, process in enumerate(self._processes) if process.exitcode]
        if not failed:
            return None
        log = self.place.folder / f'{self.case.name}_{failed[0]}.log'
        lines = [line for line in log.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()]
        return '\n'.join([*lines[-30:], *[f'No end after {seconds:.0f} s.'] * late])

    def kill(self) -> bool:
        """Ends all that still run; returns whether there were any."""
        alive = [process for process in self._processes if process.exitcode is None]
        for process in alive:
            process.kill()
            process.join()
        return bool(alive)


# ---- the estimate


def estimate_peak(case: Case, place: Place, load: Any, attn_impl: str | None) -> int:
    import torch

    from swift_citrusv.estimate.memory import Setup, estimate
    from swift_citrusv.estimate.stage import freeze_as_stage
    from swift_citrusv.model.config import CitrusVConfig
    setup = Setup(
        world_size=place.world_size, dtype=getattr(torch, place.dtype), attn_impl=attn_impl, seg_chunk=case.seg_chunk)
    config = CitrusVConfig.from_pretrained(str(place.folder / 'model'))
    return estimate(config, partial(freeze_as_stage, stage=case.stage), load, setup, ENGINES[case.engine]).peak


def plan(engine: str, stage: int, place: Place, memory: int | None) -> tuple[Case, int]:
    """The run as it fits into the device's memory, and the bytes that the estimate gives a full pack."""
    from swift_citrusv.estimate.dry_run import Load
    images = 8 if stage >= 3 else 0
    load = Load(place.capacity, place.capacity // 2, place.capacity // 2, images, images)
    for seg_chunk in (4, 1):
        case = Case(engine, stage, seg_chunk)
        needed = estimate_peak(case, place, load, None)
        # Ranks that share a device share its memory.
        if memory is None or place.world_size * (needed + REST) <= memory:
            break
    return case, needed


# ---- results


def figures(case: Case, place: Place) -> dict[str, Any]:
    """What the ranks of a run measured after the warm-up, and the estimate for the step with the highest peak."""
    from support.step_meter import read_steps
    ranks = [read_steps(place.folder / f'{case.name}_{rank}.json') for rank in range(place.world_size)]
    attention = ranks[0][0]
    steps = [step for _, steps in ranks for step in steps[WARM_UP_STEPS:]]
    highest = max(steps, key=lambda step: step.peak)
    estimated = estimate_peak(case, place, highest.load, attention)
    seconds = sum(max(rank[i].seconds for _, rank in ranks) for i in range(WARM_UP_STEPS, place.steps))
    return {
        'attention': attention,
        'seconds_per_step': seconds / (place.steps - WARM_UP_STEPS),
        'tokens_per_second': sum(step.load.tokens for step in steps) / seconds,
        'tokens_per_pack': statistics.mean(step.load.tokens for step in steps),
        'images_per_pack': statistics.mean(step.load.images for step in steps),
        'peak': highest.peak,
        'peak_load': highest.load.__dict__,
        'estimated': estimated,
        'error': estimated / highest.peak - 1,
    }


def table(runs: list[dict[str, Any]]) -> str:
    lines = [
        '| engine | stage | s a step | tokens/s | tokens, images a pack | seg_chunk | peak | estimated | |',
        '|' + ' --- |' * 9
    ]
    for run in runs:
        start = f'| {run["engine"]} | {run["stage"]} |'
        if 'skipped' in run or 'failed' in run:
            lines.append(f'{start} {run.get("skipped") or run["failed"]} |' + ' |' * 6)
            continue
        lines.append(f'{start} {run["seconds_per_step"]:.2f} | {run["tokens_per_second"]:,.0f} | '
                     f'{run["tokens_per_pack"]:,.0f}, {run["images_per_pack"]:.1f} | {run["seg_chunk"]} | '
                     f'{run["peak"] / GIB:.2f} GiB | {run["estimated"] / GIB:.2f} GiB | {run["error"]:+.1%} |')
    return '\n'.join(lines)


def measure(place: Place, engines: list[str], stages: list[int], seconds: float, output: Path | None,
            head: dict[str, Any]) -> list[dict[str, Any]]:
    """All runs, one after another; the next one's processes start while one runs."""
    from tqdm import tqdm
    runs: list[dict[str, Any]] = []
    waiting = list(itertools.product(engines, stages))
    progress = tqdm(total=len(waiting), desc='Runs', unit=' runs')

    def prepare() -> Runner | None:
        while waiting:
            case, needed = plan(*waiting.pop(0), place, head['memory'])
            if head['memory'] is None or place.world_size * (needed + REST) <= head['memory']:
                return Runner(case, place)
            reason = f'not run: needs {needed / GIB:.0f} GiB on each rank by the estimate'
            runs.append({**case._asdict(), 'skipped': reason})
            progress.update()
        return None

    following = prepare()
    try:
        while following is not None:
            runner = following
            runner.go()
            following = prepare()
            failure = runner.wait(seconds)
            if failure is not None:
                tqdm.write(f'{runner.case.name} failed:\n{failure}')
            found = figures(runner.case, place) if failure is None else {'failed': failure.splitlines()[-1]}
            runs.append({**runner.case._asdict(), **found})
            progress.update()
            if output is not None:
                output.parent.mkdir(parents=True, exist_ok=True)
                output.write_text(json.dumps({**head, 'runs': runs}, indent=1), encoding='utf-8')
    finally:
        if following is not None:
            following.kill()
    progress.close()
    return runs


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda')
    parser.add_argument('--dims', choices=list(DIMS), default='3b')
    parser.add_argument('--engines', nargs='+', choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument('--stages', type=int, nargs='+', choices=[1, 2, 3, 4], default=[1, 2, 3, 4])
    parser.add_argument('--world', type=int, default=1, help='ranks')
    parser.add_argument('--steps', type=int, default=6, help=f'{WARM_UP_STEPS} of them to warm up')
    parser.add_argument('--capacity', type=int, help='tokens of a pack')
    parser.add_argument('--seconds', type=float, default=180, help='after which a run counts as hanging')
    parser.add_argument('--folder', type=Path, help='for the checkpoint and the logs (default: a temporary one)')
    parser.add_argument('--output', type=Path, help='where to write the figures as JSON')
    args = parser.parse_args(argv)
    if args.steps <= WARM_UP_STEPS:
        parser.error(
            f'--steps {args.steps}: {WARM_UP_STEPS} are for the warm-up, so give at least {WARM_UP_STEPS + 1}.')
    for name, value in (('HF_HUB_OFFLINE', '1'), ('TRANSFORMERS_OFFLINE', '1'), ('HF_DATASETS_OFFLINE', '1')):
        os.environ.setdefault(name, value)
    import torch
    head: dict[str, Any] = {'device': args.device, 'dims': args.dims, 'world_size': args.world, 'memory': None}
    if args.device == 'cuda':
        if not torch.cuda.is_available():
            parser.error('--device cuda, but PyTorch finds no CUDA device. Try --dims tiny --device cpu.')
        head.update(device=torch.cuda.get_device_name(), memory=torch.cuda.get_device_properties(0).total_memory)
    head.update(torch=torch.__version__)
    dims = DIMS[args.dims]
    with tempfile.TemporaryDirectory() as name:
        place = Place(args.folder or Path(name), args.device, args.capacity or dims.capacity, args.steps, args.world)
        # Enough rows for that many packs of 8 images, of which a quarter has masks.
        write_datasets(place.folder, 32 * args.steps * args.world, dims)
        model = (str(place.folder / 'model'), dims, args.device, place.dtype)
        if args.device == 'cpu':
            write_checkpoint(*model)
        else:
            # In a process of its own: what it leaves on the device would be missing there.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
                pool.submit(write_checkpoint, *model).result()
        runs = measure(place, args.engines, args.stages, args.seconds, args.output, head)
    print(table(runs))
    return int(any('failed' in run or abs(run.get('error', 0)) > 0.15 for run in runs))


if __name__ == '__main__':
    raise SystemExit(main())
