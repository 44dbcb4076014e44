"""`citrusv volume`: segments a CT or MR volume slice by slice, and writes the masks as NIfTI or DICOM-SEG."""
import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from .options import add_device_options, add_model_option, add_option, load_pipeline

if TYPE_CHECKING:
    from ..volumes.segment import AnswerSlices

NAME = 'volume'
HELP = 'segment a volume (NIfTI or a DICOM series) slice by slice'
DESCRIPTION = ('Asks a model the same question about every slice of a volume, and writes the masks with the geometry '
               'of the volume, together with a JSON legend of labels and answers.')
# The same as `files.slices.PLANES`, which would import numpy.
PLANES = ('axial', 'coronal', 'sagittal')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_option(parser)
    parser.add_argument(
        '--volume', required=True, metavar='PATH', help='a NIfTI file, a folder with a DICOM series, or a DICOM file')
    parser.add_argument('--prompt', required=True, help='the question, e.g. "Segment the liver."')
    parser.add_argument(
        '--output',
        required=True,
        metavar='FILE',
        help='.nii.gz or .nii: a label map with the affine and shape of the volume; .dcm: a DICOM segmentation (DICOM '
        'input only)')
    parser.add_argument(
        '--plane', choices=PLANES, help='slice orientation (default: axial; for DICOM the images as stored)')
    parser.add_argument(
        '--window',
        help="auto (the file's own, else percentiles), percentile, lung, bone, brain, soft_tissue, or level and width, "
        'e.g. 40,400 (default: the setting image_window)')
    parser.add_argument('--slices', metavar='A:B', help='only slices A to B-1, counted from 0 (default: all)')
    parser.add_argument(
        '--time',
        type=int,
        metavar='N',
        help='which volume of a 4D NIfTI file, or which phase, echo or b-value of a DICOM series, counted from 0')
    parser.add_argument('--series', metavar='UID', help='which series of a folder that holds several')
    parser.add_argument('--label', help='one label for all masks (default: the phrase of each mask)')
    add_option(parser, '--batch-size', type=int, default=8, metavar='N', help='slices per batch (default: 8)')
    add_option(
        parser, '--max-new-tokens', type=int, default=256, metavar='N', help='maximum tokens per answer (default: 256)')
    add_device_options(parser)


def run(args: argparse.Namespace, segmenter: 'AnswerSlices | None' = None) -> int:
    """Runs the command.

    Args:
        args: Parsed arguments.
        segmenter: Answers the slices; by default the model of `args`.
    """
    # Checks all arguments before the model is loaded.
    from ..volumes.export import NIFTI_SUFFIXES, mask_suffix
    from ..volumes.segment import segment_volume
    from ..volumes.volume import Volume
    mask_suffix(args.output)
    volume = Volume(args.volume, args.plane, args.window, volume=args.time, series=args.series)
    volume.check_output(args.output)
    indices = _slice_range(args.slices, len(volume))
    records = segment_volume(
        volume,
        segmenter or _segmenter(args),
        args.prompt,
        batch_size=args.batch_size,
        indices=indices,
        label=args.label)
    legend = volume.save(args.output, {'model': args.model, 'prompt': args.prompt, 'slices': records})
    written = os.path.join(os.path.dirname(args.output), legend['file'])
    if 'instead' in legend:
        print(f'{args.output} could not be written. {legend["instead"]} The masks are in {written}.', file=sys.stderr)
    print(f'{written}: {len(indices)} of {len(volume)} slices of {volume.size[0]} x {volume.size[1]} pixels asked, '
          f'{sum(bool(record["masks"]) for record in records)} with masks')
    for entry in legend['labels']:
        hidden = f', {entry["hidden"]} of them hidden by later labels' if entry['hidden'] else ''
        print(f'{entry["value"]:>4}  {entry["name"]}: {entry["voxels"]} voxels{hidden}')
    for note in (*legend.get('completed',
                             ()), *(f'Its place is {legend[key]}.' for key in ('place', ) if key in legend),
                 *(f'Note that {legend[key]}.' for key in ('sheared', ) if key in legend)):
        print(note)
    if written.endswith(NIFTI_SUFFIXES) and any(entry['hidden'] for entry in legend['labels']):
        print('A label map has one label for each voxel. A DICOM segmentation (.dcm) can hold overlapping masks.')
    return 1 if 'instead' in legend else 0


def _segmenter(args: argparse.Namespace) -> 'AnswerSlices':
    pipe = load_pipeline(args, batch_size=args.batch_size)

    def segment(requests: list[tuple[Any, str]]) -> list[Any]:
        return pipe.batch(requests, max_tokens=args.max_new_tokens)

    return segment


def _slice_range(text: str | None, count: int) -> range:
    if text is None:
        return range(count)
    match = re.fullmatch('([0-9]*):([0-9]*)', text)
    start, end = (int(match[1] or 0), int(match[2] or count)) if match else (0, 0)
    if not 0 <= start < end <= count:
        raise ValueError(f'--slices {text}: give A:B with 0 <= A < B <= {count}.')
    return range(start, end)
