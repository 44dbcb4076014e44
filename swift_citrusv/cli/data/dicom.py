"""`citrusv data dicom`."""
import argparse
from typing import Any

from ..options import add_option, positive_int

NAME = 'dicom'
HELP = 'slices of sound DICOM and NIfTI series, and what is wrong with the others'
DESCRIPTION = (
    'Reads folders of DICOM and NIfTI files, series by series: positions, orientation, distances, gaps, copies, '
    'mixtures, rescaling, physical size. Writes a row for each slice of a sound series, and series.csv with a verdict '
    'for every series.')
FOLDERS = 'folders of DICOM and NIfTI files, with their subfolders, or files'


def add_arguments(parser: Any) -> None:
    parser.add_argument(
        '--broken',
        choices=('drop', 'review'),
        default='drop',
        help='what happens to the slices of a broken series (default: drop)')
    parser.add_argument('--question', default='', metavar='TEXT', help='what the rows ask after <image> (default: '
                        'nothing)')  # yapf: disable
    parser.add_argument(
        '--window', default='', metavar='W', help="the window of the rows' images, e.g. lung (default: the file's own)")
    add_option(parser, '--min-extent', type=float, metavar='MM', help='smallest side of a slice (default: 40)')
    add_option(
        parser,
        '--max-extent',
        type=float,
        metavar='MM',
        help='largest side of a slice of CT, MR or PET (default: 1000)')
    add_option(
        parser,
        '--max-length',
        type=float,
        metavar='MM',
        help='longest series, and longest side of a film (default: 2500)')
    add_option(parser, '--max-voxel', type=float, metavar='MM', help='largest side of a voxel (default: 25)')
    add_option(parser, '--min-slices', type=positive_int, metavar='N',
               help='slices of a CT, MR or PET series (default: 1)')  # yapf: disable


def make_step(args: argparse.Namespace) -> Any:
    """The step with the options of the command line."""
    from ...curation.dicom.series import Limits
    from ...curation.dicom.step import DicomStep
    from ...files.rules import file_rules
    from ...files.windowing import parse_window
    from ...settings import SettingError
    names = ('min_extent', 'max_extent', 'max_length', 'max_voxel', 'min_slices')
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name, value in given.items():
        if not value > 0:
            raise SettingError(f'--{name.replace("_", "-")} is {value:g}. Give a number above 0.')
    limits = Limits(**given)
    if limits.min_extent >= limits.max_extent:
        raise SettingError(f'--min-extent {limits.min_extent:g} is not below --max-extent {limits.max_extent:g}.')
    if args.window:
        try:
            parse_window(args.window)
        except ValueError as error:
            raise SettingError(f'--window: {error}') from error
    broken = 'dropped' if args.broken == 'drop' else 'review'
    return DicomStep(limits, broken, args.question, args.window, file_rules())
