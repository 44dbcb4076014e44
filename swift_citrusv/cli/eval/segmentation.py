"""`citrusv eval segmentation`: Dice, IoU, gIoU, cIoU, precision, recall, NSD and HD95 of masks."""
import argparse
from typing import Any

NAME = 'segmentation'
HELP = 'score masks: Dice, IoU, gIoU, cIoU, precision, recall, NSD at a tolerance, HD95'


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser or an argument group."""
    parser.add_argument(
        '--match',
        choices=('order', 'hungarian'),
        default='order',
        help='how to match several predicted masks to the '
        'reference masks: in order, or by the assignment with the highest total IoU (default: order)')
    parser.add_argument(
        '--extra',
        choices=('penalise', 'count'),
        default='penalise',
        help='how to treat a surplus predicted mask: '
        'as a case that scores 0, or only count it (default: penalise)')
    parser.add_argument(
        '--tolerance', type=float, default=2.0, metavar='X', help='tolerance of the NSD, in --unit (default: 2)')
    parser.add_argument(
        '--unit',
        choices=('pixel', 'mm'),
        default='pixel',
        help="unit of distances; mm needs a column 'spacing' in the "
        'rows, or --spacing (default: pixel)')
    parser.add_argument(
        '--spacing',
        type=_spacing,
        metavar='ROWS,COLUMNS',
        help='pixel spacing in mm, between rows and between '
        "columns, of images whose rows have no column 'spacing'")


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `SegmentationTask`."""
    return {name: getattr(args, name) for name in ('match', 'extra', 'tolerance', 'unit', 'spacing')}


def _spacing(text: str) -> tuple[float, float]:
    try:
        rows, columns = (float(part) for part in text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a pair of numbers: give e.g. 0.7,0.7') from None
    return rows, columns
