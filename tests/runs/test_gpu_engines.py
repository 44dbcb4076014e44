"""DeepSpeed on CUDA: steps with every kind of row on one device, on one rank and on two, and their memory.

Without a device the figures of `bench/bench_cuda.py` are made on the CPU, so that all but the device is tested.
"""
import json
import math
import os
import pytest
import sys
import torch
from functools import partial
from pathlib import Path
from support.distributed.launcher import Launcher
from support.rows import Maker, write_jsonl
from support.step_meter import read_steps

from swift_citrusv.estimate.memory import Setup, estimate
from swift_citrusv.estimate.stage import freeze_as_stage
from swift_citrusv.model.config import CitrusVConfig

sys.path.insert(0, str(Path(__file__).parents[1] / 'bench'))

import bench_cuda  # noqa: E402

# 130 million parameters: large beside the workspaces of kernels, which the estimate leaves out.
DIMS = bench_cuda.DIMS['tiny']._replace(
    text={
        'vocab_size': 32768,
        'hidden_size': 1024,
        'intermediate_size': 2816,
        'num_hidden_layers': 8,
        'num_attention_heads': 8,
        'num_key_value_heads': 2,
        'rope_parameters': {
            'rope_type': 'default',
            'rope_theta': 1000000.0,
            'mrope_section': [16, 24, 24],
        },
    },
    vision={
        'out_hidden_size': 1024,
    })
PACK = 1024


def check_engine(engine: str, num_ranks: int, folder: Path, device: str) -> None:
    """A stage-3 run over packs of every kind of row."""
    dtype = 'bfloat16' if device == 'cuda' else 'float32'
    model = str(folder / 'model')
    bench_cuda.write_checkpoint(model, DIMS, device, dtype)
    maker = Maker(folder / 'images')
    dataset = write_jsonl(folder / 'train.jsonl', [row for _ in range(4 * num_ranks) for row in maker.every_kind()])
    arguments = f'''--model {model} --dataset {dataset} --tuner_type full --freeze_vit false --freeze_aligner false
        --packing true --packing_length {PACK} --max_length {PACK} --num_train_epochs 2 --gradient_accumulation_steps 1
        --gradient_checkpointing true --deepspeed {engine} --torch_dtype {dtype} --bf16 {str(device == 'cuda').lower()}
        --use_cpu {str(device == 'cpu').lower()} --callbacks report meter'''.split()
    if device == 'cuda' and num_ranks <= torch.cuda.device_count():
        arguments += ['--ddp_backend', 'nccl']
    ended = Launcher(folder / 'ranks', 'spawn').run(
        num_ranks, arguments, silence=150, sabotage=f'devices.metered {folder}')
    assert len(set(ended.digests)) == 1, 'the ranks end with different weights'
    assert len(ended.steps) >= 4
    assert all(math.isfinite(step[key]) for step in ended.steps for key in ('loss', 'loss_token', 'grad_norm'))
    assert sum(step.get('num_masks', 0) for step in ended.steps) > 0
    config = CitrusVConfig.from_pretrained(model)
    for rank in range(num_ranks):
        attention, steps = read_steps(folder / f'steps_{rank}.json')
        # By the third step AdamW has its moments, and DeepSpeed has recorded the order of the modules.
        highest = max(steps[2:], key=lambda step: step.peak)
        setup = Setup(world_size=num_ranks, dtype=getattr(torch, dtype), attn_impl=attention)
        freeze = partial(freeze_as_stage, stage=3)
        one = estimate(config, freeze, highest.load, setup, bench_cuda.ENGINES[engine])
        assert one.peak == pytest.approx(highest.peak, rel=0.15), f'rank {rank}, {highest}'


@pytest.mark.gpu
@pytest.mark.parametrize('num_ranks', [1, 2])
@pytest.mark.parametrize('engine', ['zero2', 'zero3'])
def test_engines_on_cuda(engine, num_ranks, tmp_path):
    """bfloat16. Two ranks share the device (gloo) where there is no second one (else NCCL)."""
    check_engine(engine, num_ranks, tmp_path, 'cuda')


class InThisProcess:
    """Replaces `bench_cuda.Runner`."""

    def __init__(self, case: bench_cuda.Case, place: bench_cuda.Place) -> None:
        self.case, self.place = case, place

    def go(self) -> None:
        environment = dict(os.environ)
        try:
            bench_cuda.run_sft(self.case, self.place, 0, [])
        finally:
            os.environ.clear()
            os.environ.update(environment)

    def wait(self, seconds: float) -> None:
        pass


def test_bench_on_the_cpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_cuda, 'Runner', InThisProcess)
    arguments = '--dims tiny --device cpu --engines none --stages 4 --steps 3'.split()
    assert bench_cuda.main([*arguments, '--folder', str(tmp_path), '--output', str(tmp_path / 'cuda.json')]) == 0
    run, = json.loads((tmp_path / 'cuda.json').read_text())['runs']
    assert run['engine'] == 'none' and run['stage'] == 4 and abs(run['error']) < 0.15
    # What stage 4 is measured on, by hand: packs are full of images long before they are full of tokens.
    assert run['images_per_pack'] == 8 and run['tokens_per_pack'] < 1024
    assert run['tokens_per_second'] == pytest.approx(run['tokens_per_pack'] / run['seconds_per_step'])
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith('| none | 4 |') and 'GiB' in line


@pytest.mark.parametrize('gibibytes, seg_chunk', [(43, 4), (41, 1), (12, 1), (11, None)])
def test_bench_leaves_out_what_does_not_fit(gibibytes, seg_chunk, tmp_path, monkeypatch):
    """If the estimate plus 2 GiB does not fit: one image at a time in SAM2's encoder; if that does not fit, no run."""
    monkeypatch.setattr(bench_cuda, 'estimate_peak', lambda case, *_: case.seg_chunk * 10 * 2**30)
    place, memory = bench_cuda.Place(tmp_path, 'cuda', 512, 3, 1), gibibytes * 2**30
    if seg_chunk is not None:
        assert bench_cuda.plan('zero3', 4, place, memory)[0].seg_chunk == seg_chunk
        return
    run, = bench_cuda.measure(place, ['zero3'], [4], 1, None, {'memory': memory})
    assert 'needs 10 GiB' in run['skipped'] and run['skipped'] in bench_cuda.table([run])
