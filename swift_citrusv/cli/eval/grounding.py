"""`citrusv eval grounding`: scores the regions that a reasoning text cites with boxes."""
import argparse
from typing import Any

from ..options import add_option
from .detection import add_coordinates

NAME = 'grounding'
HELP = 'score the boxes cited in reasoning: precision and recall at IoU 0.5, order and format'


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser or an argument group."""
    add_coordinates(parser)
    add_option(
        parser,
        '--ref-parts',
        choices=('auto', 'steps', 'bboxes', 'boxes', 'bbox', 'objects', 'answer'),
        default='auto',
        help='source of the reference boxes: a column, in pixels of the image, or the reasoning in '
        'the answer of the row (default: auto, the first of these that a row has)')
    add_option(
        parser,
        '--think-in-prompt',
        action='store_true',
        help='the chat template ends with <think>, so that answers start inside of it')
    parser.add_argument('--answers', action='store_true', help='also compare the final answers')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `GroundingTask`."""
    names = ('coordinates', 'min_pixels', 'max_pixels', 'ref_parts', 'think_in_prompt', 'answers')
    return {name: getattr(args, name) for name in names}
