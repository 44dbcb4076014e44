"""`citrusv convert`: converts a published Citrus-V checkpoint for ms-swift."""
import argparse
import os
from typing import TYPE_CHECKING

from .options import require_directory_or_hub_name

if TYPE_CHECKING:
    from ..model.convert import Conversion

NAME = 'convert'
HELP = 'convert a published Citrus-V checkpoint'
DESCRIPTION = ('Converts a published Citrus-V checkpoint (model_type "citrus_v") into a directory that `swift sft`, '
               '`swift infer` and `swift deploy` accept as --model. No weight changes its value.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SRC', help='the published checkpoint: a directory, or a hub name')
    parser.add_argument('output', metavar='DST', help='the new directory; must be empty or not exist')
    parser.add_argument(
        '--tokenizer',
        metavar='SOURCE',
        help='a directory or hub name with the tokenizer and processor of Qwen2.5-VL, if SRC has none')
    parser.add_argument(
        '--padding-points',
        type=int,
        choices=(0, 1, 2),
        help='number of "not a point" embeddings before [SEG] in the SAM2 prompt (default: 2, as in the code published '
        'with the weights: one padding point, and the one that SAM2 adds)')
    parser.add_argument(
        '--overwrite', action='store_true', help='allow files in DST; its weights and config.json are removed')


def run(args: argparse.Namespace) -> int:
    # Fails before the slow imports.
    for flag, name in (('SRC', args.source), ('--tokenizer', args.tokenizer)):
        if name is not None:
            require_directory_or_hub_name(name, flag)
    from ..model.convert import convert_checkpoint
    padding = {} if args.padding_points is None else {'padding_points': args.padding_points}
    conversion = convert_checkpoint(
        _directory(args.source, weights=True),
        args.output,
        tokenizer=None if args.tokenizer is None else _directory(args.tokenizer, weights=False),
        overwrite=args.overwrite,
        **padding)
    print(_conversion_summary(conversion, args))
    return 0


def _directory(name: str, weights: bool) -> str:
    if os.path.isdir(name):
        return name
    from swift.utils import safe_snapshot_download
    return safe_snapshot_download(name, download_model=weights)


def _conversion_summary(conversion: 'Conversion', args: argparse.Namespace) -> str:
    config = conversion.config
    projector = 'residual' if config.residual_projector else 'two layers'
    rows = [('published checkpoint', args.source)]
    rows += [(f'  {part}', f'{num_tensors:>6,} tensors, {", ".join(types)}')
             for part, (num_tensors, types) in conversion.parts.items()]
    rows += [('SAM2 preset', config.sam2_preset), ('projector', projector),
             ('prompt of SAM2', f'{config.padding_points} x not a point, [SEG]; best of three masks by predicted IoU'),
             ('[SEG] id', str(config.seg_token_id))]
    rows += [('left out', sentence) for sentence in conversion.left_out]
    text = conversion.text_from
    rows.append(('tokenizer and processor', 'none, so no text: see below' if text is None else f'from {text}'))
    rows.append(('output', f'{args.output} ({conversion.num_bytes / 1e6:,.0f} MB in {conversion.num_files} files)'))
    lines = [f'{name:<26}{value}' for name, value in rows]
    if text is None:
        from ..model.published_layout import TEXT_REMEDY
        lines.append(f'SRC has no tokenizer or no processor. {TEXT_REMEDY}')
    return '\n'.join(lines)
