"""`citrusv eval volume`: Dice, NSD and HD95 in millimetres of label maps of scans, by label and patient."""
import argparse
import os
from typing import Any

NAME = 'volume'
HELP = 'score label maps of scans (NIfTI, DICOM-SEG) by label: Dice, NSD and HD95 in mm, volumes in mL'
_LISTS = ('.jsonl', '.json', '.csv', '.parquet')


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser or an argument group."""
    parser.add_argument(
        '--labels',
        metavar='FILE',
        help='names of the labels: CSV with the columns label,name, or JSON (default: those of the files: the legend '
        'of `citrusv volume`, the segments of a DICOM-SEG, the files of a folder)')
    parser.add_argument(
        '--table',
        metavar='FILE',
        help='CSV with a line for each case: id, and patient and other columns for --by and --cluster')
    parser.add_argument('--only', metavar='LABELS', help='score only these labels, by name or number, with commas')
    parser.add_argument(
        '--tolerance', type=float, default=2.0, metavar='MM', help='tolerance of the NSD in mm (default: 2)')
    parser.add_argument(
        '--resample',
        action='store_true',
        help='resample a prediction on other voxels than its reference to the nearest (default: it is unreadable)')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `VolumeTask`."""
    from ...scoring.volumes.case_files import read_names
    only = tuple(filter(None, (part.strip() for part in (args.only or '').split(','))))
    names = read_names(args.labels) if args.labels else ()
    return {'tolerance': args.tolerance, 'names': names, 'only': only, 'resample': args.resample}


def prepare(args: argparse.Namespace, folder: str) -> None:
    """Writes the cases of folders, or of two files, as rows to FOLDER/references.jsonl and FOLDER/predictions.jsonl.

    Raises:
        SettingError: The options contradict each other.
        ValueError: The folders have no label maps, or two of one case.
    """
    from ...settings import SettingError
    if args.model is not None:
        raise SettingError('`citrusv eval volume` scores files: draw the masks with `citrusv volume` first.')
    if args.ref is None or args.pred is None:
        raise SettingError('Give --pred and --ref: two folders, two label maps, or two lists (JSONL).')
    lists = [path.lower().endswith(_LISTS) and os.path.isfile(path) for path in (args.pred, args.ref)]
    if all(lists):
        if args.table:
            raise SettingError('--table is for folders: put its columns into the rows of --ref.')
        return
    if any(lists):
        raise SettingError('Give two lists (JSONL), or two folders, or two label maps.')
    from ...scoring.volumes.case_files import case_files, case_name, read_table, reference_rows, write_lines
    for path in (args.pred, args.ref):
        if not os.path.exists(path):
            raise SettingError(f'{path}: No such file or directory.')
    if os.path.isfile(args.ref) and os.path.isfile(args.pred):
        # Two files are one case, whatever their names.
        name = case_name(os.path.basename(args.ref))
        references, predictions = {name: args.ref}, {name: args.pred}
    elif os.path.isdir(args.ref) and os.path.isdir(args.pred):
        references, predictions = case_files(args.ref), case_files(args.pred)
    else:
        raise SettingError('Give two folders, or two label maps.')
    rows = reference_rows(references, read_table(args.table) if args.table else {})
    paths = [os.path.join(folder, name) for name in ('references.jsonl', 'predictions.jsonl')]
    write_lines(rows, paths[0])
    write_lines([{'id': name, 'pred': path} for name, path in predictions.items()], paths[1])
    args.ref, args.pred = paths
    args.id = args.id or 'id'
