"""`citrusv eval detection`: Precision@0.5, recall, F1, mean IoU and mAP of boxes."""
import argparse
from typing import Any

NAME = 'detection'
HELP = 'boxes: Precision@0.5, recall, F1, mean IoU, mAP at 0.5 and at 0.5 to 0.95'
COORDINATES = ('pixels', 'resized', 'norm1000', 'norm1')


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser, or to a group of one."""
    add_coordinates(parser)
    parser.add_argument(
        '--boxes-from', '--boxes_from', choices=('answer', 'masks'), default='answer', help='where the predicted '
        'boxes are: in the text of the answer, or around its masks (default: answer)')  # yapf: disable
    parser.add_argument(
        '--ref-boxes', '--ref_boxes', choices=('auto', 'bboxes', 'boxes', 'bbox', 'objects', 'masks', 'answer'),
        default='auto', help='where the boxes of the rows are: a column, in pixels of the image, or their answer '
        '(default: auto, the first of these that a row has)')  # yapf: disable
    parser.add_argument('--ignore-labels', '--ignore_labels', action='store_true',
                        help='a box is right whatever its label says')  # yapf: disable


def add_coordinates(parser: Any) -> None:
    """Adds what says what the coordinates of boxes in answers are."""
    parser.add_argument(
        '--coordinates', choices=COORDINATES, default='resized', help='of the boxes in answers: pixels of the image; '
        'pixels of the image as Qwen2.5-VL sees it, resized; or parts of width and height, times 1000 or 1 (default: '
        'resized)')  # yapf: disable
    for name in ('min', 'max'):
        parser.add_argument(
            f'--{name}-pixels', f'--{name}_pixels', type=int, metavar='N', help=f'for resized: what '
            f'{name.upper()}_PIXELS was where the model answered (default: qwen_vl_utils\' own)')  # yapf: disable


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the task."""
    names = ('coordinates', 'min_pixels', 'max_pixels', 'boxes_from', 'ref_boxes', 'ignore_labels')
    return {name: getattr(args, name) for name in names}
