"""`citrusv eval detection`: Precision@0.5, recall, F1, mean IoU and mAP of boxes."""
import argparse
from typing import Any

from ..options import add_option

NAME = 'detection'
HELP = 'score boxes: Precision@0.5, recall, F1, mean IoU, mAP at IoU 0.5 and at 0.5 to 0.95'
COORDINATES = ('pixels', 'resized', 'norm1000', 'norm1')


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser or an argument group."""
    add_coordinates(parser)
    add_option(
        parser,
        '--boxes-from',
        choices=('answer', 'masks'),
        default='answer',
        help='source of the '
        'predicted boxes: the text of the answer, or the bounding boxes of its masks (default: answer)')
    add_option(
        parser,
        '--ref-boxes',
        choices=('auto', 'bboxes', 'boxes', 'bbox', 'objects', 'masks', 'answer'),
        default='auto',
        help='source of the reference boxes: a column, in pixels of the image, or the answer of the '
        'row (default: auto, the first of these that a row has)')
    add_option(parser, '--ignore-labels', action='store_true', help='match boxes regardless of their labels')


def add_coordinates(parser: Any) -> None:
    """Adds the options for the coordinates of boxes in answers."""
    parser.add_argument(
        '--coordinates',
        choices=COORDINATES,
        default='resized',
        help='unit of the boxes in answers: pixels of the '
        'image; pixels of the image as resized for Qwen2.5-VL; or fractions of width and height, times 1000 or 1 '
        '(default: resized)')
    for name in ('min', 'max'):
        parser.add_argument(
            f'--{name}-pixels',
            f'--{name}_pixels',
            type=int,
            metavar='N',
            help='for resized: '
            f'{name.upper()}_PIXELS when the model answered (default: as qwen_vl_utils)')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `DetectionTask`."""
    names = ('coordinates', 'min_pixels', 'max_pixels', 'boxes_from', 'ref_boxes', 'ignore_labels')
    return {name: getattr(args, name) for name in names}
