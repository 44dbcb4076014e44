"""`citrusv eval grounding`: precision and recall of the parts that reasoning cites with boxes, their order, form."""
import argparse
from typing import Any

from .detection import add_coordinates

NAME = 'grounding'
HELP = 'reasoning that cites parts with boxes: their precision and recall at an IoU of 0.5, their order, its form'


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser, or to a group of one."""
    add_coordinates(parser)
    parser.add_argument(
        '--ref-parts', '--ref_parts', choices=('auto', 'steps', 'bboxes', 'boxes', 'bbox', 'objects', 'answer'),
        default='auto', help='where the parts of the rows are: a column, in pixels of the image, or the reasoning of '
        'their answer (default: auto, the first of these that a row has)')  # yapf: disable
    parser.add_argument('--think-in-prompt', '--think_in_prompt', action='store_true',
                        help='the chat template writes the opening <think>: answers have none')  # yapf: disable
    parser.add_argument('--answers', action='store_true', help='compare the final answers, too')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the task."""
    names = ('coordinates', 'min_pixels', 'max_pixels', 'ref_parts', 'think_in_prompt', 'answers')
    return {name: getattr(args, name) for name in names}
