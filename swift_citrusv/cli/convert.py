"""`citrusv convert`: makes a Citrus-V directory out of a published checkpoint."""
import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model.convert import Conversion

NAME = 'convert'
HELP = 'convert a published Citrus-V checkpoint'
DESCRIPTION = ('Turns a published Citrus-V checkpoint (model_type "citrus_v") into a directory that `swift sft`, '
               '`swift infer` and `swift deploy` take as --model. Every number is kept.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SRC', help='the published checkpoint: a directory, or a hub name')
    parser.add_argument('output', metavar='DST', help='the new directory; must be empty, or not there')
    parser.add_argument(
        '--tokenizer',
        metavar='SOURCE',
        help='a directory or hub name with the tokenizer and processor of Qwen2.5-VL, where SRC has none')
    parser.add_argument(
        '--padding-points',
        type=int,
        choices=(0, 1, 2),
        metavar='N',
        help='"not a point" embeddings before that of [SEG] in the prompt of SAM2: 0, 1 or 2 (default: 2, as the code '
        'that was published beside the weights: a padding point, and the one that SAM2 adds)')
    parser.add_argument(
        '--overwrite', action='store_true', help='DST may hold files; weights and config.json in it are removed')


def run(args: argparse.Namespace) -> int:
    # Before the seconds that the imports take.
    for flag, name in (('SRC', args.source), ('--tokenizer', args.tokenizer)):
        if name is not None and not os.path.isdir(name) and (os.path.isabs(name) or name.startswith('.')):
            raise FileNotFoundError(f'{flag} {name}: no such directory.')
    from ..model.convert import convert_checkpoint
    padding = {} if args.padding_points is None else {'padding_points': args.padding_points}
    conversion = convert_checkpoint(
        _directory(args.source, weights=True),
        args.output,
        tokenizer=None if args.tokenizer is None else _directory(args.tokenizer, weights=False),
        overwrite=args.overwrite,
        **padding)
    print(_summary(conversion, args))
    return 0


def _directory(name: str, weights: bool) -> str:
    if os.path.isdir(name):
        return name
    from swift.utils import safe_snapshot_download
    return safe_snapshot_download(name, download_model=weights)


def _summary(conversion: 'Conversion', args: argparse.Namespace) -> str:
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
