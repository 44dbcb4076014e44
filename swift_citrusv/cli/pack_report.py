"""`citrusv pack-report`: how a data set packs, so that `--packing_length` is chosen with open eyes."""
import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pack_plan import Measured, Plan

NAME = 'pack-report'
HELP = 'show how a JSONL file packs, and suggest a --packing_length'
DESCRIPTION = ('Measures the rows of a JSONL file, without reading pixels or weights, packs them as training does, and '
               'shows packs, fill, padding saved, images, steps and waiting of ranks for several capacities.')
_SHOWN_ROWS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Spelled as the flags of `swift sft` that they stand for, and as the other subcommands spell theirs.
    parser.add_argument('file', metavar='FILE', help='the JSONL file')
    parser.add_argument(
        '--model', required=True, metavar='DIR', help='a Citrus-V or Qwen2.5-VL directory; its weights are not read')
    parser.add_argument(
        '--capacity',
        required=True,
        type=_positive,
        nargs='+',
        metavar='N',
        help='tokens of a pack (--packing_length); with one, others around it are shown too')
    parser.add_argument(
        '--pack-images',
        '--pack_images',
        type=_positive,
        metavar='K',
        help='most segmentation images of a pack (default: the setting pack_images, 8)')
    parser.add_argument(
        '--truncation-strategy',
        '--truncation_strategy',
        choices=['raise', 'split'],
        default='raise',
        help='split: cut rows that are longer than a pack (default: raise, which leaves them out here)')
    parser.add_argument(
        '--strict',
        type=_boolean,
        default=True,
        metavar='BOOL',
        help='false: leave bad rows out and count them (default: true, the first is an error)')
    parser.add_argument(
        '--padded-batch',
        '--padded_batch',
        type=_positive,
        default=8,
        metavar='B',
        help='rows of the padded batches to compare with (default: 8)')
    parser.add_argument(
        '--world-size', '--world_size', type=_positive, default=1, metavar='W', help='ranks (default: 1)')
    parser.add_argument(
        '--grad-accum',
        '--grad_accum',
        type=_positive,
        default=1,
        metavar='A',
        help='gradient accumulation steps (default: 1)')
    parser.add_argument(
        '--stage',
        type=int,
        choices=[1, 2, 3, 4],
        default=3,
        help='what is trained, which decides how long a pack keeps a rank busy (default: 3, all)')
    parser.add_argument(
        '--num-proc', '--num_proc', type=_positive, default=1, metavar='P', help='processes (default: 1)')
    parser.add_argument('--output', metavar='DIR', type=Path, help='write pack_report.json and pack_report.png there')


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not positive')
    return value


def _boolean(text: str) -> bool:
    if text.lower() not in ('true', 'false'):
        raise argparse.ArgumentTypeError(f'{text!r} is neither true nor false')
    return text.lower() == 'true'


def run(args: argparse.Namespace) -> int:
    if not os.path.isfile(args.file):
        raise FileNotFoundError(
            f'{args.file}: no such file.' if not os.path.exists(args.file) else f'{args.file}: not a file.')
    from .encoder import DEFAULT_SAM2, checking_environment, model_type_of
    plain = model_type_of(args.model) != 'citrusv'
    if plain and args.world_size > 1 and not os.environ.get('SAM2'):
        print(f'{args.model} is a plain Qwen2.5-VL, and SAM2 is not set: images cost what {DEFAULT_SAM2} takes.')
    with checking_environment():
        measured, report, plans = _report(args)
    given = set(args.capacity)
    _print_rows(report)
    for plan in plans:
        if plan.capacity in given:
            _print_plan(plan, measured, report)
    _print_table(plans, report)
    suggestion = report['suggestion']
    print(f'\nSuggestion: --packing_length {suggestion["packing_length"]}: {suggestion["reason"]}')
    if args.output is not None:
        from .pack_picture import draw
        args.output.mkdir(parents=True, exist_ok=True)
        draw(measured, [plan for plan in plans if plan.capacity in given], report, args.output / 'pack_report.png')
        (args.output / 'pack_report.json').write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')
        print(f'pack_report.json and pack_report.png are in {args.output}')
    return 0


def _report(args: argparse.Namespace) -> 'tuple[Measured, dict[str, Any], list[Plan]]':
    """The measured rows, what the JSON file holds, and the plans behind it."""
    import numpy as np
    from swift.dataset import load_dataset
    from tqdm import tqdm

    from ..rows.jsonl import read_lines
    from ..settings import Settings
    from .encoder import TrainingEncoder
    from .pack_plan import KINDS, Measured, cost_model, plan_packs, suggest

    # Registers and patches what a training run does, too.
    template = TrainingEncoder(args.model, None, ('messages', )).template
    dataset, _ = load_dataset([args.file], num_proc=args.num_proc, strict=args.strict)
    measured = Measured(template, dataset, args.num_proc, args.strict)
    lengths, kinds = measured.lengths, measured.kinds
    pack_images = args.pack_images or Settings.from_env().pack_images
    over = np.flatnonzero(measured.pieces[:, 3] > pack_images)
    if len(over):
        most = measured.pieces[:, 3].max()
        raise ValueError(f'{measured.name(over[0])} has {measured.pieces[over[0], 3]} segmentation images, more than '
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
            costs=costs) for capacity in tqdm(capacities(args.capacity), desc='Packing', unit=' capacities')
    ]
    longest = int(lengths.max(initial=0))
    packing_length, reason = suggest(plans, longest)
    return measured, {
        'file':
        args.file,
        'model':
        args.model,
        'rows':
        len(lengths),
        'skipped_rows':
        sum(1 for _ in read_lines(args.file)) - len(lengths),
        'tokens':
        int(lengths.sum()),
        'longest':
        longest,
        'kinds': [{
            'kind': kind,
            'rows': int((kinds == i).sum()),
            'tokens': int(lengths[kinds == i].sum()),
            'longest': int(lengths[kinds == i].max(initial=0)),
        } for i, kind in enumerate(KINDS)],
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
        'plans': [_as_json(plan, measured) for plan in plans],
        'suggestion': {
            'packing_length': packing_length,
            'reason': reason
        },
    }, plans


def capacities(given: Sequence[int]) -> list[int]:
    """The capacities to show: those given, or around a single one its half, double and fourfold and powers of two."""
    if len(given) > 1:
        return sorted(set(given))
    n = given[0]
    powers = (1 << i for i in range(n.bit_length() + 3))
    return sorted({max(n // 2, 1), n, 2 * n, 4 * n} | {power for power in powers if n // 2 <= power <= 4 * n})


def _as_json(plan: 'Plan', measured: 'Measured') -> dict[str, Any]:
    values = {key: value for key, value in vars(plan).items() if key not in ('fills', 'images')}
    # A million names would help nobody.
    names = [measured.name(row) for row in plan.rows_too_long[:100]]
    return {**values, 'rows_too_long': len(plan.rows_too_long), 'first_rows_too_long': names}


# ---- the text


def _table(rows: Iterable[Sequence[str]], indent: str = '') -> None:
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
    _table([('', 'rows', 'tokens', 'longest'), *kinds, total])
    if report['skipped_rows']:
        print(f'{report["skipped_rows"]:,} rows cannot be used and were left out; `citrusv check-data '
              f'{report["file"]} --model {report["model"]}` says why.')


def _print_plan(plan: 'Plan', measured: 'Measured', report: dict[str, Any]) -> None:
    print(f'\n--packing_length {plan.capacity}')
    above = f'{plan.packs / plan.lower_bound - 1:.2%} above' if plan.lower_bound else 'as'
    limit = ', by the images' if plan.images_limit else ''
    print(f'  {plan.packs:,} packs, {plan.fill:.1%} full; no packing needs fewer than {plan.lower_bound:,}{limit} '
          f'({above} that)')
    print(f'  {plan.mean_images:.1f} segmentation images a pack, at most {plan.max_images} of {report["pack_images"]}')
    _table((('', 'forward passes', 'tokens computed', 'padding', 'tokens a pass'),
            *((way['batch'], f'{way["forward_passes"]:,}', f'{way["tokens"]:,}',
               f'{way["padding"] / max(way["tokens"], 1):.1%}', f'{way["tokens"] / max(way["forward_passes"], 1):,.0f}')
              for way in plan.batches)), '  ')
    long = plan.rows_too_long
    if long:
        names = ', '.join(f'{measured.name(row)} ({measured.lengths[row]:,})' for row in long[:_SHOWN_ROWS])
        names += ', ...' if len(long) > _SHOWN_ROWS else ''
        if report['truncation_strategy'] == 'split':
            print(f'  {len(long):,} rows are longer, cannot be cut (an image stays whole, and a mask with its image) '
                  f'and are in no pack: {names}. Take --packing_length {report["longest"]} or more.')
        else:
            print(
                f'  {len(long):,} rows are longer and in no pack: {names}. Cut them with --truncation_strategy split, '
                f'or take --packing_length {report["longest"]} or more.')


def _print_table(plans: 'Sequence[Plan]', report: dict[str, Any]) -> None:
    ranks = report['world_size'] > 1
    head = ['packing_length', 'packs', 'full', 'above bound', 'too long', 'steps an epoch']
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
    stage = f'; waiting by the work of stage {report["stage"]}' if ranks else ''
    print(f'\nAn epoch at world size {report["world_size"]}, gradient accumulation {report["grad_accum"]}{stage}:')
    _table(lines)
