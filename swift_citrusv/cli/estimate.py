"""`citrusv estimate`: estimates the memory of a training run on each GPU."""
import argparse
import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from ..settings import Settings
from .options import add_option

if TYPE_CHECKING:
    from ..estimate.dry_run import Load
    from ..estimate.memory import Estimate, Setup

NAME = 'estimate'
HELP = 'estimate the memory of a training run on each GPU, with ZeRO-0, 2 and 3'
DESCRIPTION = (
    'Estimates the memory of a training run on each GPU from the configuration of a model: parameters, gradients, '
    'optimizer states and activations, without ZeRO and with ZeRO-2 and 3. Shows which GPU sizes suffice. Reads only '
    'config.json, neither weights nor data, and needs no GPU.')
_GIB, _MIB = 2**30, 2**20
# Not part of the estimate: CUDA context, allocator fragmentation, kernel workspaces.
_OVERHEAD = 2 * _GIB
# How much higher a measured peak may be than the estimate: see tests/bench/bench_estimate.py.
_TOLERANCE = 0.15
# An 80 GB GPU has 79.2 GiB.
_USABLE = 0.985


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Spelled as the flags of `swift sft`.
    parser.add_argument(
        '--model', required=True, metavar='DIR', help='a Citrus-V or Qwen2.5-VL directory; its weights are not read')
    parser.add_argument(
        '--sam2', metavar='PRESET', help='the SAM2 preset to add to a plain Qwen2.5-VL (sam2.1_hiera_l, ...)')
    parser.add_argument(
        '--stage',
        required=True,
        type=int,
        choices=[1, 2, 3, 4],
        help='the training stage, which decides what is trained')
    add_option(parser, '--packing-length', required=True, type=int, metavar='L', help='tokens per pack')
    add_option(
        parser,
        '--pack-images',
        type=int,
        metavar='K',
        help='segmentation images per pack (default: the setting pack_images, 8; 0 in stages 1 and 2, which have no '
        'masks)')
    parser.add_argument('--masks', type=int, metavar='M', help='masks per pack (default: one per segmentation image)')
    add_option(
        parser, '--vision-tokens', type=int, metavar='V', help='vision tokens per pack (default: half of its tokens)')
    add_option(
        parser,
        '--supervised-tokens',
        type=int,
        metavar='S',
        help='supervised tokens per pack (default: all but the vision tokens)')
    parser.add_argument(
        '--batch', type=int, default=1, metavar='B', help='packs per forward pass (default: 1, as in the stage files)')
    parser.add_argument(
        '--world', '--world-size', '--world_size', type=int, default=1, metavar='W', help='number of GPUs (default: 1)')
    add_option(
        parser,
        '--grad-accum',
        type=int,
        metavar='A',
        help="--gradient_accumulation_steps (default: as ms-swift, 16 batches per optimizer step)")
    parser.add_argument('--zero', type=int, choices=[0, 2, 3], help='show only this ZeRO stage (default: all three)')
    parser.add_argument('--dtype', choices=['bf16', 'fp32'], default='bf16', help='--torch_dtype (default: bf16)')
    add_option(
        parser,
        '--gradient-checkpointing',
        choices=['true', 'false'],
        default='true',
        help='recompute activations in the backward pass (default: true, as in ms-swift)')
    add_option(
        parser,
        '--attn-impl',
        choices=['sdpa', 'torch_varlen', 'flash_attention_2'],
        help='attention implementation (default: that of training on a GPU without flash-attn)')
    add_option(
        parser,
        '--seg-chunk',
        type=int,
        metavar='C',
        help='images per call of the SAM2 encoder (default: the setting seg_chunk, 4)')
    add_option(
        parser,
        '--gpu-gb',
        type=int,
        nargs='+',
        default=[24, 40, 80],
        metavar='GB',
        help='GPU sizes to compare with (default: 24 40 80)')
    parser.add_argument('--json', action='store_true', help='print JSON, with sizes in bytes')


def run(args: argparse.Namespace) -> int:
    _require_minimums(args)
    from .encoder import model_type_of
    plain = model_type_of(args.model) != 'citrusv'
    if plain and args.sam2 is None:
        raise ValueError(f'{args.model} is a plain Qwen2.5-VL: give a SAM2 preset, e.g. --sam2 sam2.1_hiera_l.')
    if not plain and args.sam2 is not None:
        raise ValueError(f'{args.model} has its own SAM2. Remove --sam2 {args.sam2}.')
    load = _load_per_pass(args)

    import torch
    from functools import partial
    from tqdm import tqdm

    from ..estimate.memory import ZERO_STAGES, Setup, estimate
    from ..estimate.stage import freeze_as_stage
    config = _load_config(args.model, args.sam2)
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
        print(json.dumps(_estimates_json(args, load, setup, estimates), indent=2))
    else:
        _print_estimates(args, load, setup, estimates)
    return 0


def _require_minimums(args: argparse.Namespace) -> None:
    """Raises a ValueError for a number below the minimum of its flag."""
    lowest = {'packing_length': 2, 'world': 1, 'batch': 1, 'grad_accum': 1, 'seg_chunk': 1, 'gpu_gb': 1}
    for name in (*lowest, 'pack_images', 'masks', 'vision_tokens', 'supervised_tokens'):
        values = getattr(args, name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and value < lowest.get(name, 0):
                raise ValueError(f'--{name} {value}: give {lowest.get(name, 0)} or more.')


def _load_per_pass(args: argparse.Namespace) -> 'Load':
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


def _load_config(model_dir: str, preset: str | None) -> Any:
    from transformers import AutoConfig

    from ..model.config import CitrusVConfig
    from ..model.segmenter import preset_config
    if preset is None:
        return CitrusVConfig.from_pretrained(model_dir)
    # Raises an error that lists the presets.
    preset_config(preset)
    values = AutoConfig.from_pretrained(model_dir).to_dict()
    dropped = ('model_type', 'architectures', 'transformers_version')
    return CitrusVConfig(**{k: v for k, v in values.items() if k not in dropped}, sam2_preset=preset)


# ---- output


def _memory_parts(one: 'Estimate') -> dict[str, int]:
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
    """Returns 'yes', 'no', or 'tight': it fits only if the peak is no higher than estimated."""
    usable = _USABLE * gigabytes * _GIB - _OVERHEAD
    return 'yes' if peak * (1 + _TOLERANCE) <= usable else 'tight' if peak <= usable else 'no'


def _estimates_json(args: argparse.Namespace, load: 'Load', setup: 'Setup',
                    estimates: 'list[Estimate]') -> dict[str, Any]:
    shown = [{
        'zero': one.zero,
        **_memory_parts(one),
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


def _print_estimates(args: argparse.Namespace, load: 'Load', setup: 'Setup', estimates: 'list[Estimate]') -> None:
    first = estimates[0]
    unit, name = (_GIB, 'GiB') if max(one.peak for one in estimates) >= _GIB else (_MIB, 'MiB')
    print(f'{args.model}: {first.num_parameters / 1e9:.3f} billion parameters, {first.num_trained / 1e9:.3f} billion '
          f'trained in stage {args.stage}, {args.dtype}, gradient checkpointing {args.gradient_checkpointing}')
    print(f'A forward pass: {load.tokens:,} tokens, {load.vision_tokens:,} of them vision tokens and '
          f'{load.supervised_tokens:,} supervised; {load.masks:,} masks on {load.images:,} images')
    print(f'Forward passes per optimizer step on each GPU: {setup.grad_accum}\n')
    heads = ['no ZeRO' if one.zero == 0 else f'ZeRO-{one.zero}' for one in estimates]
    _print_line(f'{name} on each GPU of {setup.world_size}', heads)
    for key, title in _NAMES.items():
        _print_line(title, [f'{_memory_parts(one)[key] / unit:.2f}' for one in estimates])
    for size in args.gpu_gb:
        _print_line(f'fits a GPU of {size} GB', [_fits(one.peak, size) for one in estimates])
    print('\nThe peak is not the sum of the rows, which reach their maxima at different times. It occurs in:')
    for head, one in zip(heads, estimates):
        print(f'  {head}: {one.peak_at}')
    overhead = f'{_OVERHEAD / _GIB:.0f} GiB'
    print(f'"yes" leaves {overhead} for the CUDA context and allocator fragmentation, and {_TOLERANCE:.0%} of the peak '
          f'for the error of the estimate; "tight" leaves only the {overhead}.')
    for part in sorted({one.peak_at.partition(',')[0] for one in estimates}):
        print(f'To lower a peak in "{part}", use {_remedy(part, args, setup)}.')


def _print_line(name: str, values: list[str]) -> None:
    print(f'{name:<26}' + ''.join(f'{value:>10}' for value in values))


def _remedy(part: str, args: argparse.Namespace, setup: 'Setup') -> str:
    if part == 'optimizer step':
        return 'more GPUs with ZeRO-2 or 3'
    if args.gradient_checkpointing == 'false':
        return '--gradient_checkpointing true'
    if part != 'SAM2':
        return 'a smaller --packing_length'
    if setup.seg_chunk > 1:
        return f'seg_chunk, which is {setup.seg_chunk} (--model_kwargs \'{{"seg_chunk": 1}}\')'
    return 'a smaller pack_images'
