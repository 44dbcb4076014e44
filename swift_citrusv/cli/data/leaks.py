"""`citrusv data leaks`."""
import argparse
from typing import Any

from ..options import add_option, require_share

NAME = 'leaks'
HELP = 'drop rows that hold what an evaluation set asks, and certify the rest'
DESCRIPTION = (
    'Compares training rows with evaluation sets: texts, images and copies of them, both together, studies and '
    'patients. Rows that hold an item are dropped, with its id. certificate.json says what was compared with what: '
    'counts, thresholds, and hashes of both sides.')
_LEVELS = ('pair', 'image', 'text', 'study', 'patient')


def add_arguments(parser: Any) -> None:
    parser.add_argument(
        '--against',
        nargs='+',
        required=True,
        metavar='SET',
        help='evaluation sets: PRESET=PATH with a preset of `citrusv eval qa`, files or folders of rows, or images '
        'and folders of them (DICOM and NIfTI too)')
    parser.add_argument(
        '--levels', nargs='+', choices=_LEVELS, default=list(_LEVELS), help='what counts as a leak (default: all)')
    add_option(parser, '--text-threshold', type=float, default=.8, metavar='X',
               help='smallest part of the text of an item that a row must hold (default: 0.8)')  # yapf: disable
    add_option(parser, '--image-threshold', type=float, default=.985, metavar='X',
               help='smallest likeness of copies of an image (default: 0.985)')  # yapf: disable
    add_option(parser, '--no-images', action='store_true', help='do not open the images of rows')
    parser.add_argument('--study', default='study', metavar='COLUMN', help='the column of the study (default: study)')
    parser.add_argument(
        '--patient', default='patient', metavar='COLUMN', help='the column of the patient (default: patient)')


def make_step(args: argparse.Namespace) -> Any:
    """The step with the options of the command line."""
    from ...curation.leaks.evaluation_sets import find_sets
    from ...curation.leaks.step import LeaksStep
    from ...files.rules import file_rules
    require_share(args.text_threshold, '--text-threshold')
    require_share(args.image_threshold, '--image-threshold')
    return LeaksStep(
        tuple(find_sets(args.against)), tuple(args.levels), args.text_threshold, args.image_threshold,
        not args.no_images, (('study', args.study), ('patient', args.patient)), file_rules())
