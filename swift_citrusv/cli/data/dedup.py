"""`citrusv data dedup`."""
import argparse
from typing import Any

from ..options import add_option, require_share

NAME = 'dedup'
HELP = 'merge rows that say the same, exactly or nearly'
DESCRIPTION = (
    'Merges rows without images that have the same text, exactly or nearly, and rows with the same text about '
    'the same images, or copies of them that were resized, compressed, brightened, cut at the edges or turned. '
    'Near-duplicates differ in no side, denial or number. Of rows that are the same, the one with most masks stays, '
    'then the longest text, then the first.')


def add_arguments(parser: Any) -> None:
    parser.add_argument(
        '--threshold',
        type=float,
        default=.8,
        metavar='X',
        help='smallest Jaccard index of near-duplicates, over groups of three words or Chinese characters '
        '(default: 0.8)')
    parser.add_argument('--exact', action='store_true', help='merge equal texts about equal images only')
    parser.add_argument(
        '--different',
        choices=('review', 'merge', 'keep'),
        default='review',
        help='what happens to near-duplicates that differ in a side, a denial, a course or a number (default: review)')
    parser.add_argument(
        '--image-threshold',
        type=float,
        metavar='X',
        help='smallest likeness of copies of an image: the correlation of its fine structure (default: 0.985)')
    add_option(
        parser,
        '--no-images',
        action='store_true',
        help='compare images by their names, not by their pixels; finds no copies')
    parser.add_argument(
        '--scope', metavar='COLUMN', help='rows with different values of this column are never the same, e.g. patient')


def make_step(args: argparse.Namespace) -> Any:
    """The step with the options of the command line."""
    from ...curation.dedup.step import IMAGE_THRESHOLD, DedupStep
    from ...files.rules import file_rules
    from ...settings import SettingError
    require_share(args.threshold, '--threshold')
    require_share(args.image_threshold, '--image-threshold')
    if args.image_threshold is not None and (args.exact or args.no_images):
        raise SettingError('--image-threshold is for copies of images, which --exact and --no-images do not seek: give '
                           'one or the other.')
    image_threshold = IMAGE_THRESHOLD if args.image_threshold is None else args.image_threshold
    return DedupStep(None if args.exact else args.threshold, None if args.exact else image_threshold,
                     not args.no_images, args.scope, args.different, file_rules())
