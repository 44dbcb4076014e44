"""`citrusv estimate`: the memory that a training run takes on each GPU, before one is rented."""
import argparse
import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from ..settings import Settings

if TYPE_CHECKING:
    from ..estimate.dry_run import Load
    from ..estimate.memory import Estimate, Setup

NAME = 'estimate'
HELP = 'estimate the memory of a training run on each GPU, under ZeRO-0, 2 and 3'
DESCRIPTION = (
    'Estimates the memory of a training run on each GPU from the configuration of a model: parameters, '
    'gradients, optimizer and activations, without ZeRO and under ZeRO-2 and 3, and says which GPUs that fits. Neither '
    'weights nor data are read (a directory with config.json alone will do), and no GPU is needed.')
_GIB, _MIB = 2**30, 2**20
# Beside what is estimated: the CUDA context, the fragments of the allocator, the workspaces of kernels.
_REST = 2 * _GIB
# How far measured peaks may be above the estimate: see tests/bench/bench_estimate.py.
_TOLERANCE = 0.15
# A GPU of 80 GB shows a little less: 79.2 GiB.
_USABLE = 0.985


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Spelled as the flags of `swift sft` that they stand for.
    parser.add_argument(
        '--model', required=True, metavar='DIR', help='a Citrus-V or Qwen2.5-VL directory; its weights are not read')
    parser.add_argument('--sam2', metavar='PRESET', help='the SAM2 preset for a plain Qwen2.5-VL (sam2.1_hiera_l, ...)')
    parser.add_argument('--stage', required=True, type=int, choices=[1, 2, 3, 4], help='decides what is trained')
    parser.add_argument(
        '--packing-length', '--packing_length', required=True, type=int, metavar='L', help='tokens of a pack')
    parser.add_argument(
        '--pack-images',
        '--pack_images',
        type=int,
        metavar='K',
        help='segmentation images of a pack (default: the setting pack_images, 8; none in stages 1 and 2, whose data '
        'have no masks)')
    parser.add_argument('--masks', type=int, metavar='M', help='masks of a pack (default: one for each of its images)')
    parser.add_argument(
        '--vision-tokens', '--vision_tokens', type=int, metavar='V', help='vision tokens of a pack (default: half)')
    parser.add_argument(
        '--supervised-tokens',
        '--supervised_tokens',
        type=int,
        metavar='S',
        help='tokens of a pack that have a target (default: all that are no vision tokens)')
    parser.add_argument(
        '--batch', type=int, default=1, metavar='B', help='packs of a forward pass (default: 1, as in the stage files)')
    parser.add_argument(
        '--world', '--world-size', '--world_size', type=int, default=1, metavar='W', help='GPUs (default: 1)')
    parser.add_argument(
        '--grad-accum',
        '--grad_accum',
        type=int,
        metavar='A',
        help="--gradient_accumulation_steps (default: ms-swift's own, which comes to 16 batches an optimizer step)")
    parser.add_argument('--zero', type=int, choices=[0, 2, 3], help='show this ZeRO stage alone (default: all three)')
    parser.add_argument('--dtype', choices=['bf16', 'fp32'], default='bf16', help='--torch_dtype (default: bf16)')
    parser.add_argument(
        '--gradient-checkpointing',
        '--gradient_checkpointing',
        choices=['true', 'false'],
        default='true',
        help='(default: true, as in ms-swift)')
    parser.add_argument(
        '--attn-impl',
        '--attn_impl',
        choices=['sdpa', 'torch_varlen', 'flash_attention_2'],
        help='(default: as training chooses on a GPU without flash-attn)')
    parser.add_argument(
        '--seg-chunk',
        '--seg_chunk',
        type=int,
        metavar='C',
        help='images that the SAM2 encoder sees at a time (default: the setting seg_chunk, 4)')
    parser.add_argument(
        '--gpu-gb',
        '--gpu_gb',
        type=int,
        nargs='+',
        default=[24, 40, 80],
        metavar='GB',
        help='sizes of GPUs to compare with (default: 24 40 80)')
    parser.add_argument('--json', action='store_true', help='print JSON, sizes in bytes')


def run(args: argparse.Namespace) -> int:
    _refuse_small(args)
    from .encoder import model_type_of
    plain = model_type_of(args.model) != 'citrusv'
    if plain and args.sam2 is None:
        raise ValueError(f'{args.model} is a plain Qwen2.5-VL: name a SAM2 preset, e.g. --sam2 sam2.1_hiera_l.')
    if not plain and args.sam2 is not None:
        raise ValueError(f'{args.model} has a SAM2 of its own. Leave --sam2 {args.sam2} out.')
    load = _load(args)

    import torch
    from functools import partial
    from tqdm import tqdm

    from ..estimate.memory import ZERO_STAGES, Setup, estimate
    from ..estimate.stage import freeze_as_stage
    config = _config(args.model, args.sam2)
    setup = Setup(
        world_size=args.world,
        dtype={
            'bf16': torch.bfloat16,
            'fp32': torch.float32
        }[args.dtype],
        checkpointing=args.gradient_checkpointing == 'true',
        attn_impl=args.attn_impl,
        grad_accum=args.grad_accum or max(1, math.ceil(16 / args.batch / args.world)),
        seg_chunk=args.seg_chunk if args.seg_chunk is not None else Settings.from_env().seg_chunk)
    stages = ZERO_STAGES if args.zero is None else (args.zero, )
    freeze = partial(freeze_as_stage, stage=args.stage)
    progress = tqdm(stages, desc='Dry run', unit=' steps', leave=False)
    estimates = [estimate(config, freeze, load, setup, zero) for zero in progress]
    if args.json:
        print(json.dumps(_as_json(args, load, setup, estimates), indent=2))
    else:
        _print(args, load, setup, estimates)
    return 0


def _refuse_small(args: argparse.Namespace) -> None:
    """Numbers too small to mean anything, by the flags that they were given with."""
    lowest = {'packing_length': 2, 'world': 1, 'batch': 1, 'grad_accum': 1, 'seg_chunk': 1, 'gpu_gb': 1}
    for name in (*lowest, 'pack_images', 'masks', 'vision_tokens', 'supervised_tokens'):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < lowest.get(name, 0):
                raise ValueError(f'--{name} {value}: give {lowest.get(name, 0)} or more.')


def _load(args: argparse.Namespace) -> 'Load':
    from ..estimate.dry_run import Load
    length, batch = args.packing_length, args.batch
    images = args.pack_images
    if images is None:
        images = Settings.from_env().pack_images if args.stage >= 3 else 0
    vision = length // 2 if args.vision_tokens is None else args.vision_tokens
    supervised = max(length - vision, 0) if args.supervised_tokens is None else args.supervised_tokens
    masks = images if args.masks is None else args.masks
    return Load(
        tokens=batch * length,
        vision_tokens=batch * vision,
        supervised_tokens=batch * supervised,
        images=batch * images,
        masks=batch * masks)


def _config(model_dir: str, preset: str | None) -> Any:
    from transformers import AutoConfig

    from ..model.config import CitrusVConfig
    from ..model.segmenter import preset_config
    if preset is None:
        return CitrusVConfig.from_pretrained(model_dir)
    # Known to be a preset, or an error that lists them.
    preset_config(preset)
    values = AutoConfig.from_pretrained(model_dir).to_dict()
    dropped = ('model_type', 'architectures', 'transformers_version')
    return CitrusVConfig(**{k: v for k, v in values.items() if k not in dropped}, sam2_preset=preset)


# ---- what is shown


def _rows(one: 'Estimate') -> dict[str, int]:
    return {
        'parameters': one.parameters,
        'gradients': one.gradients,
        'optimizer': one.optimizer,
        'communication': one.communication,
        'batches': one.batches,
        'activations_mllm': one.mllm,
        'activations_sam2': one.sam2,
        'optimizer_step': one.optimizer_step,
        'peak': one.peak,
    }


def _fits(peak: int, gigabytes: int) -> str:
    """'yes', 'no', or 'tight': only if the peak is no higher than estimated."""
    usable = _USABLE * gigabytes * _GIB - _REST
    return 'yes' if peak * (1 + _TOLERANCE) <= usable else 'tight' if peak <= usable else 'no'


def _as_json(args: argparse.Namespace, load: 'Load', setup: 'Setup', estimates: 'list[Estimate]') -> dict[str, Any]:
    shown = [{
        'zero': one.zero,
        **_rows(one),
        'peak_at': one.peak_at,
        'fits': {
            str(size): _fits(one.peak, size)
            for size in args.gpu_gb
        },
        'phases': [dataclasses.asdict(phase) for phase in one.phases],
    } for one in estimates]
    return {
        'model': args.model,
        'stage': args.stage,
        'setup': {
            **dataclasses.asdict(setup), 'dtype': args.dtype
        },
        'forward_pass': dataclasses.asdict(load),
        'num_parameters': estimates[0].num_parameters,
        'num_trained': estimates[0].num_trained,
        'estimates': shown,
    }


_NAMES = {
    'parameters': 'parameters',
    'gradients': 'gradients',
    'optimizer': 'optimizer (AdamW)',
    'communication': 'communication',
    'batches': 'batches',
    'activations_mllm': 'activations of the MLLM',
    'activations_sam2': 'activations of SAM2',
    'optimizer_step': 'optimizer step',
    'peak': 'peak',
}


def _print(args: argparse.Namespace, load: 'Load', setup: 'Setup', estimates: 'list[Estimate]') -> None:
    first = estimates[0]
    unit, name = (_GIB, 'GiB') if max(one.peak for one in estimates) >= _GIB else (_MIB, 'MiB')
    print(f'{args.model}: {first.num_parameters / 1e9:.3f} billion parameters, {first.num_trained / 1e9:.3f} billion '
          f'trained in stage {args.stage}, {args.dtype}, gradient checkpointing {args.gradient_checkpointing}')
    print(f'A forward pass: {load.tokens:,} tokens, {load.vision_tokens:,} of them vision tokens and '
          f'{load.supervised_tokens:,} supervised; {load.masks:,} masks on {load.images:,} images')
    print(f'Forward passes of an optimizer step on each GPU: {setup.grad_accum}\n')
    heads = ['no ZeRO' if one.zero == 0 else f'ZeRO-{one.zero}' for one in estimates]
    _print_line(f'{name} on each GPU of {setup.world_size}', heads)
    for key, title in _NAMES.items():
        _print_line(title, [f'{_rows(one)[key] / unit:.2f}' for one in estimates])
    for size in args.gpu_gb:
        _print_line(f'fits a GPU of {size} GB', [_fits(one.peak, size) for one in estimates])
    print('\nThe peak is no sum: not all is at its most at the same time. It is reached in:')
    for head, one in zip(heads, estimates):
        print(f'  {head}: {one.peak_at}')
    print(f'"yes" leaves {_REST / _GIB:.0f} GiB for the CUDA context and the fragments of the allocator, and '
          f'{_TOLERANCE:.0%} of the peak for what the estimate may be off; "tight" leaves the {_REST / _GIB:.0f} GiB '
          'alone.')
    for part in sorted({one.peak_at.partition(',')[0] for one in estimates}):
        print(f'What lowers a peak in "{part}": {_remedy(part, args, setup)}.')


def _print_line(name: str, values: list[str]) -> None:
    print(f'{name:<26}' + ''.join(f'{value:>10}' for value in values))


def _remedy(part: str, args: argparse.Namespace, setup: 'Setup') -> str:
    if part == 'optimizer step':
        return 'more GPUs under ZeRO-2 or 3'
    if args.gradient_checkpointing == 'false':
        return '--gradient_checkpointing true'
    if part != 'SAM2':
        return 'a smaller --packing_length'
    if setup.seg_chunk > 1:
        return f'seg_chunk, which is {setup.seg_chunk} (--model_kwargs \'{{"seg_chunk": 1}}\')'
    return 'a smaller pack_images'
