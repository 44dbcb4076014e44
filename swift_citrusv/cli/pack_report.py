"""`citrusv pack-report`: shows how a dataset packs, to choose `--packing_length`."""
import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_option, boolean, positive_int
from .row_input import placed_records, row_files

if TYPE_CHECKING:
    from .pack_plan import DatasetLengths, PackingPlan

NAME = 'pack-report'
HELP = 'show how a JSONL file packs, and suggest a --packing_length'
DESCRIPTION = (
    'Measures the rows of a JSONL file without reading pixels or weights, and packs them as training does. Shows '
    'the packs, their fill, saved padding, images, steps and waiting times of ranks for several capacities.')
_SHOWN_ROWS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Spelled as the flags of `swift sft`.
    parser.add_argument('file', metavar='FILE', help='the JSONL file')
    parser.add_argument(
        '--model', required=True, metavar='DIR', help='a Citrus-V or Qwen2.5-VL directory; its weights are not read')
    parser.add_argument(
        '--capacity',
        required=True,
        type=positive_int,
        nargs='+',
        metavar='N',
        help='tokens per pack (--packing_length); a single value adds others around it')
    add_option(
        parser,
        '--pack-images',
        type=positive_int,
        metavar='K',
        help='maximum segmentation images per pack (default: the setting pack_images, 8)')
    add_option(
        parser,
        '--truncation-strategy',
        choices=['raise', 'split'],
        default='raise',
        help='split: split rows that are longer than a pack (default: raise, which leaves them out here)')
    parser.add_argument(
        '--strict',
        type=boolean,
        default=True,
        metavar='BOOL',
        help='false: skip bad rows and count them (default: true, stop at the first one)')
    add_option(
        parser,
        '--padded-batch',
        type=positive_int,
        default=8,
        metavar='B',
        help='rows per padded batch, for comparison (default: 8)')
    add_option(parser, '--world-size', type=positive_int, default=1, metavar='W', help='number of ranks (default: 1)')
    add_option(
        parser,
        '--grad-accum',
        type=positive_int,
        default=1,
        metavar='A',
        help='gradient accumulation steps (default: 1)')
    parser.add_argument(
        '--stage',
        type=int,
        choices=[1, 2, 3, 4],
        default=3,
        help='the training stage, whose trained parts decide the cost of a pack (default: 3, all parts)')
    add_option(parser, '--num-proc', type=positive_int, default=1, metavar='P', help='number of processes (default: 1)')
    parser.add_argument(
        '--output', metavar='DIR', type=Path, help='write pack_report.json and pack_report.png to this directory')


def run(args: argparse.Namespace) -> int:
    args.files = row_files(args.file)
    from ..settings import variable
    from .encoder import DEFAULT_SAM2, checking_environment, model_type_of
    plain = model_type_of(args.model) != 'citrusv'
    if plain and args.world_size > 1 and not os.environ.get(variable('sam2')):
        print(f'{args.model} is a plain Qwen2.5-VL. The setting sam2 is not given: the cost of images is that of '
              f'{DEFAULT_SAM2}.')
    with checking_environment():
        measured, report, plans = _build_report(args)
    given = set(args.capacity)
    _print_rows(report)
    for plan in plans:
        if plan.capacity in given:
            _print_plan(plan, measured, report)
    _print_plans_table(plans, report)
    suggestion = report['suggestion']
    print(f'\nSuggestion: --packing_length {suggestion["packing_length"]}: {suggestion["reason"]}')
    if args.output is not None:
        from .pack_picture import draw_pack_report
        args.output.mkdir(parents=True, exist_ok=True)
        shown = [plan for plan in plans if plan.capacity in given]
        draw_pack_report(measured, shown, report, args.output / 'pack_report.png')
        (args.output / 'pack_report.json').write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
        print(f'pack_report.json and pack_report.png are in {args.output}')
    return 0


def _build_report(args: argparse.Namespace) -> 'tuple[DatasetLengths, dict[str, Any], list[PackingPlan]]':
    """Returns the measured rows, the contents of the JSON file, and the plans."""
    import numpy as np
    from swift.dataset import load_dataset
    from tqdm import tqdm

    from ..settings import Settings
    from .encoder import TrainingEncoder
    from .pack_plan import ROW_KINDS, DatasetLengths, cost_model, plan_packs, suggest_packing_length

    # Also registers and patches the same as a training run.
    template = TrainingEncoder(args.model, None, ('messages', )).template
    dataset, _ = load_dataset([args.file], num_proc=args.num_proc, strict=args.strict)
    measured = DatasetLengths(template, dataset, args.num_proc, args.strict)
    lengths, kinds = measured.lengths, measured.kinds
    pack_images = args.pack_images or Settings.from_env().pack_images
    over = np.flatnonzero(measured.chunks[:, 3] > pack_images)
    if len(over):
        most = measured.chunks[:, 3].max()
        raise ValueError(f'{measured.name(over[0])} has {measured.chunks[over[0], 3]} segmentation images, more than '
                         f'the {pack_images} of a pack, and {len(over) - 1} more rows have too many: raise '
                         f'--pack-images (in training, pack_images of --model_kwargs) to {most}.')
    costs = cost_model(template.config, args.stage) if args.world_size > 1 else None
    plans = [
        plan_packs(
            measured,
            capacity,
            split=args.truncation_strategy == 'split',
            pack_images=pack_images,
            padded_batch=args.padded_batch,
            world_size=args.world_size,
            grad_accum=args.grad_accum,
            costs=costs) for capacity in tqdm(shown_capacities(args.capacity), desc='Packing', unit=' capacities')
    ]
    longest = int(lengths.max(initial=0))
    packing_length, reason = suggest_packing_length(plans, longest)
    return measured, {
        'file':
        args.file,
        'model':
        args.model,
        'rows':
        len(lengths),
        'skipped_rows':
        sum(1 for _ in placed_records(args.files)) - len(lengths),
        'tokens':
        int(lengths.sum()),
        'longest':
        longest,
        'kinds': [{
            'kind': kind,
            'rows': int((kinds == i).sum()),
            'tokens': int(lengths[kinds == i].sum()),
            'longest': int(lengths[kinds == i].max(initial=0)),
        } for i, kind in enumerate(ROW_KINDS)],
        'pack_images':
        pack_images,
        'truncation_strategy':
        args.truncation_strategy,
        'padded_batch':
        args.padded_batch,
        'world_size':
        args.world_size,
        'grad_accum':
        args.grad_accum,
        'stage':
        args.stage,
        'cost_flops':
        None if costs is None else dataclasses.asdict(costs),
        'plans': [_plan_json(plan, measured) for plan in plans],
        'suggestion': {
            'packing_length': packing_length,
            'reason': reason
        },
    }, plans


def shown_capacities(given: Sequence[int]) -> list[int]:
    """Returns the given capacities; a single one with its half, double, fourfold and the powers of two between."""
    if len(given) > 1:
        return sorted(set(given))
    n = given[0]
    powers = (1 << i for i in range(n.bit_length() + 3))
    return sorted({max(n // 2, 1), n, 2 * n, 4 * n} | {power for power in powers if n // 2 <= power <= 4 * n})


def _plan_json(plan: 'PackingPlan', measured: 'DatasetLengths') -> dict[str, Any]:
    values = {'pieces' if key == 'num_chunks' else key: value for key, value in vars(plan).items()
              if key not in ('fills', 'images')}  # yapf: disable
    # Not a million names.
    names = [measured.name(row) for row in plan.rows_too_long[:100]]
    return {**values, 'rows_too_long': len(plan.rows_too_long), 'first_rows_too_long': names}


# ---- the text


def _print_columns(rows: Iterable[Sequence[str]], indent: str = '') -> None:
    """Prints columns, the first left-aligned and the others right-aligned."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:]))]
        print(indent + '  '.join(cells).rstrip())


def _print_rows(report: dict[str, Any]) -> None:
    kinds = [(kind['kind'], f'{kind["rows"]:,}', f'{kind["tokens"]:,}', f'{kind["longest"]:,}')
             for kind in report['kinds']]
    total = ('all', f'{report["rows"]:,}', f'{report["tokens"]:,}', f'{report["longest"]:,}')
    print(report['file'])
    _print_columns([('', 'rows', 'tokens', 'longest'), *kinds, total])
    if report['skipped_rows']:
        print(f'{report["skipped_rows"]:,} rows cannot be used and were left out; `citrusv check-data '
              f'{report["file"]} --model {report["model"]}` shows why.')


def _print_plan(plan: 'PackingPlan', measured: 'DatasetLengths', report: dict[str, Any]) -> None:
    print(f'\n--packing_length {plan.capacity}')
    above = f'{plan.packs / plan.lower_bound - 1:.2%} above' if plan.lower_bound else 'as'
    limit = ', by the images' if plan.images_limit else ''
    print(f'  {plan.packs:,} packs, {plan.fill:.1%} full; no packing needs fewer than {plan.lower_bound:,}{limit} '
          f'({above} that)')
    print(
        f'  {plan.mean_images:.1f} segmentation images per pack, at most {plan.max_images} of {report["pack_images"]}')
    _print_columns(
        (('', 'forward passes', 'tokens computed', 'padding', 'tokens per pass'),
         *((way['batch'], f'{way["forward_passes"]:,}', f'{way["tokens"]:,}',
            f'{way["padding"] / max(way["tokens"], 1):.1%}', f'{way["tokens"] / max(way["forward_passes"], 1):,.0f}')
           for way in plan.batches)), '  ')
    long = plan.rows_too_long
    if long:
        names = ', '.join(f'{measured.name(row)} ({measured.lengths[row]:,})' for row in long[:_SHOWN_ROWS])
        names += ', ...' if len(long) > _SHOWN_ROWS else ''
        if report['truncation_strategy'] == 'split':
            print(f'  {len(long):,} rows are longer, cannot be split (an image stays whole, and a mask with its image) '
                  f'and are in no pack: {names}. Use --packing_length {report["longest"]} or more.')
        else:
            print(f'  {len(long):,} rows are longer and in no pack: {names}. Use --truncation_strategy split or '
                  f'--packing_length {report["longest"]} or more.')


def _print_plans_table(plans: 'Sequence[PackingPlan]', report: dict[str, Any]) -> None:
    ranks = report['world_size'] > 1
    head = ['packing_length', 'packs', 'full', 'above bound', 'too long', 'steps per epoch']
    lines = [head + (['ranks wait', 'unbalanced'] if ranks else [])]
    for plan in plans:
        above = plan.packs / plan.lower_bound - 1 if plan.lower_bound else 0.
        line = [
            str(plan.capacity), f'{plan.packs:,}', f'{plan.fill:.1%}', f'{above:.2%}', f'{len(plan.rows_too_long):,}',
            '-' if plan.steps is None else f'{plan.steps:,}'
        ]
        if ranks:
            line += ['-' if wait is None else f'{wait:.1%}' for wait in (plan.wait_balanced, plan.wait_random)]
        lines.append(line)
    stage = f'; waiting times by the cost of stage {report["stage"]}' if ranks else ''
    print(f'\nOne epoch at world size {report["world_size"]}, gradient accumulation {report["grad_accum"]}{stage}:')
    _print_columns(lines)
