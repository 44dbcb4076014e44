"""`citrusv data stats`."""
import argparse
from typing import Any

from ..options import add_option, positive_int

NAME = 'stats'
HELP = 'tables and pictures of what rows hold, on one page'
DESCRIPTION = (
    'Counts rows, images, masks, tokens, sizes, data sets and labels. Writes stats.html, the pictures (figures 2, 9 '
    'and 12 of the paper for these rows), the tables 1 and 2 as CSV, and stats.json. For outputs of other steps, the '
    'page shows what they did, and the certificate of leaks.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('inputs', nargs='+', metavar='IN', help='files of rows, folders of them, or outputs of steps; '
                        'each is a bar of the figure of modalities')  # yapf: disable
    parser.add_argument('--output', metavar='DIR', help='the folder to write (default: the first input with -stats)')
    parser.add_argument('--by', nargs='+', default=[], metavar='COLUMN', help='further columns to count')
    parser.add_argument('--tokenizer', metavar='DIR', help='a folder with tokenizer.json (default: count Chinese '
                        'characters, and words of other scripts)')  # yapf: disable
    add_option(parser, '--no-images', action='store_true', help='do not open images for their size')
    for name, what in (('modality', 'modality'), ('task', 'task'), ('region', 'anatomical region'),
                       ('dataset', 'data set (where a row has none, its file counts)'),
                       ('type', 'type of data, such as public or synthesized')):
        parser.add_argument(f'--{name}', default=name, metavar='COLUMN', help=f'the column of the {what} (default: '
                            f'{name})')  # yapf: disable
    parser.add_argument('--workers', type=positive_int, default=1, metavar='N', help='processes (default: 1)')
    parser.add_argument('--traceback', action='store_true', help='show the traceback of an error')


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    import os

    from ...curation.engine import Engine
    from ...curation.stats.count import Columns
    from ...curation.stats.run import run_stats
    from ...files.rules import file_rules
    output = args.output or f'{os.path.normpath(args.inputs[0])}-stats'
    columns = Columns(tuple((name, getattr(args, name)) for name in ('modality', 'task', 'region')), args.dataset,
                      args.type, tuple(dict.fromkeys(args.by)))  # yapf: disable
    result: dict[str, Any] = run_stats(args.inputs, output, columns, args.tokenizer, not args.no_images, file_rules(),
                                       Engine('local', args.workers))  # yapf: disable
    total = result['counts'].get('total', {})
    counts = ', '.join(f'{total.get(name, 0):,} {name}' for name in ('rows', 'images', 'masks', 'tokens'))
    print(f'{counts}. Page: {output}/stats.html')
    return 0
