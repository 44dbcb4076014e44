"""`citrusv try`: a tiny model on the user's own rows, from a split to held-out masks."""
import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_option, positive_int, require_file
from .row_input import named_files, placed_records

if TYPE_CHECKING:
    from ..tryout.run import Plan

NAME = 'try'
HELP = 'train a tiny model on your own rows, and see its masks, within ten minutes on two cores'
DESCRIPTION = (
    'Splits the rows by image, builds a tiny random model with a tokenizer of their words, trains it with stock `swift '
    'sft` on the CPU (text, then everything, then masks), and ends with held-out Dice, a page of overlays and the '
    'commands for real weights. Rows that cannot be learned are refused, with the reason. Exit status: 0; 1 if rows '
    'are bad; 2 if they cannot be learned, or after another error; 130 after Ctrl-C.')
_MOST_FAILURES = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'file',
        metavar='ROWS',
        help='a file of rows (.jsonl, .json, .csv, .parquet, .arrow); relative names start in the current folder')
    parser.add_argument(
        '--output',
        metavar='DIR',
        type=Path,
        default=Path('output/try'),
        help='the folder of the run (default: output/try)')
    parser.add_argument('--val', metavar='ROWS', help='held-out rows (default: a fifth of the images of the file)')
    parser.add_argument(
        '--minutes',
        metavar='N',
        type=float,
        default=10.,
        help='nominal time on two quiet cores: the training steps are in proportion (default: 10)')
    add_option(
        parser,
        '--max-rows',
        metavar='N',
        type=positive_int,
        default=1000,
        help='train on at most N rows with masks, and as many without (default: 1000)')
    add_option(
        parser,
        '--max-held-out',
        metavar='N',
        type=positive_int,
        default=200,
        help='answer at most N held-out rows (default: 200)')
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run of the same rows')


def run(args: argparse.Namespace) -> int:
    for path, flag in ((args.file, ''), (args.val, '--val')):
        if path is not None:
            require_file(path, flag)
    if not 0 < args.minutes <= 600:
        raise ValueError(f'--minutes is {args.minutes:g}: give a number above 0, at most 600.')
    from ..tryout.processes import RunError, SwiftProcesses
    from ..tryout.run import leave_folder, plan_rows, run_try, start_folder
    options = {name: str(getattr(args, name)) for name in ('file', 'val', 'minutes', 'max_rows', 'max_held_out')}
    start_folder(args.output, options, args.resume)
    try:
        if not all(_are_good(path) for path in (args.file, args.val) if path is not None):
            return 1
        plan = plan_rows(args.file, args.val, args.max_rows, args.max_held_out)
        _print_plan(plan)
        with SwiftProcesses() as processes:
            report = run_try(plan, args.file, args.output.resolve(), processes, args.minutes, _tell)
    except KeyboardInterrupt:
        print(f'\nInterrupted. To go on, give the same command with --resume (--output {args.output}).',
              file=sys.stderr)  # yapf: disable
        return 130
    except RunError as error:
        # With the end of its log, line by line.
        print(f'citrusv: error: {error}', file=sys.stderr)
        return 2
    finally:
        leave_folder(args.output)
    _print_result(report, args.output)
    return 0


def _tell(line: str) -> None:
    print(line, flush=True)


def _are_good(path: str) -> bool:
    """The checks of `citrusv check-data`; prints the rows that fail."""
    from ..errors import RowError
    from ..rows.records import parse_record
    from .check_rows import RowChecker
    from .encoder import checking_environment
    records = list(placed_records([path]))
    columns: dict[str, None] = {}
    for _, record in records:
        try:
            columns.update(dict.fromkeys(parse_record(record, '')))
        except RowError:
            # The check itself reports it.
            continue
    with checking_environment():
        failures = RowChecker(named_files([path]), columns=tuple(columns)).check(records).failures
    if not failures:
        return True
    print(f'{len(failures):,} of {len(records):,} rows of {path} are bad:', file=sys.stderr)
    for failure in failures[:_MOST_FAILURES]:
        text = f'{failure.row}  [{failure.kind}]  {failure.message}'
        print(text.encode('utf-8', 'backslashreplace').decode('utf-8'), file=sys.stderr)
    if len(failures) > _MOST_FAILURES:
        print(f'... and {len(failures) - _MOST_FAILURES:,} more: citrusv check-data {path}', file=sys.stderr)
    return False


def _print_plan(plan: 'Plan') -> None:
    train, held = (len({mask.image for mask in masks}) for masks in (plan.train_masks, plan.held_out_masks))
    names = sorted({mask.name for mask in plan.train_masks})
    shown = ', '.join(name or '(no name)' for name in names[:8]) + (', ...' if len(names) > 8 else '')
    _tell(f'{len(plan.train):,} rows train, with {len(plan.train_masks):,} masks on {train:,} images; '
          f'{len(plan.held_out):,} rows on {held:,} other images are held out.')
    _tell(f'{len(names):,} names: {shown}')
    for line in [*plan.notes, *(f'warning: {finding}' for finding in plan.findings)]:
        _tell(line)


def _print_result(report: dict[str, Any], output: Path) -> None:
    held_out = report['held_out']
    width = max(13, *map(len, held_out['by_name']))
    _tell(f'\n{"held-out Dice":<{width}}  Dice  average mask  masks')
    for name, value in [*held_out['by_name'].items(), ('all', held_out)]:
        _tell(f'{name:<{width}}  {_number(value["dice"])}  {_number(value["average_mask"]):>12}  {value["masks"]:>5}')
    if held_out['missing']:
        _tell(f'{held_out["missing"]:,} of {held_out["masks"]:,} masks are missing: the answer has no [SEG] for them.')
    if held_out['average_mask'] is not None and held_out['dice'] < held_out['average_mask'] + .02:
        _tell('warning: that is no better than the average mask of each name, which looks at no image.')
    _tell(f'\nIn {report["seconds"] / 60:.1f} minutes. The page of overlays: {output / "page.html"}\nFigures: '
          f'{output / "report.json"}. The model: {output / "model"}\n\nWith real weights, on GPUs:')
    for line in report['next'][:-1]:
        _tell(f'  {line}')
    _tell(f'Ask the tiny model in a browser: {report["next"][-1]}')


def _number(value: float | None) -> str:
    return '   –' if value is None else f'{value:.2f}'
