"""`citrusv eval segmentation`: Dice, IoU, gIoU, cIoU, precision, recall, NSD and HD95 of masks."""
import argparse
from typing import Any

NAME = 'segmentation'
HELP = 'masks: Dice, IoU, gIoU, cIoU, precision, recall, NSD at a tolerance, HD95'


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser, or to a group of one."""
    parser.add_argument(
        '--match', choices=('order', 'hungarian'), default='order', help='which mask of the answer belongs to which of '
        'the reference, where there are several: the first to the first, or whatever gives the highest IoU in total '
        '(default: order)')  # yapf: disable
    parser.add_argument(
        '--extra', choices=('penalise', 'count'), default='penalise', help='what a mask too many is: a case that '
        'scores 0, or only counted (default: penalise)')  # yapf: disable
    parser.add_argument('--tolerance', type=float, default=2.0, metavar='X',
                        help='of the NSD, in --unit (default: 2)')  # yapf: disable
    parser.add_argument(
        '--unit', choices=('pixel', 'mm'), default='pixel', help="of distances; mm needs a column 'spacing' of the "
        'rows, or --spacing (default: pixel)')  # yapf: disable
    parser.add_argument(
        '--spacing', type=_spacing, metavar='ROWS,COLUMNS', help='mm from one row of pixels to the next, and from one '
        "column to the next, of images whose rows have no 'spacing'")  # yapf: disable


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the task."""
    return {name: getattr(args, name) for name in ('match', 'extra', 'tolerance', 'unit', 'spacing')}


def _spacing(text: str) -> tuple[float, float]:
    try:
        rows, columns = (float(part) for part in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not two numbers: give e.g. 0.7,0.7') from None
    return rows, columns
