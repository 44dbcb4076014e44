"""`citrusv eval qa`: multiple choice, yes/no and open questions; `--preset` reads the benchmarks of the paper."""
import argparse
import os
from typing import Any

NAME = 'qa'
HELP = 'score question answering: multiple choice, yes/no, exact match, token F1 and recall'
# As in `scoring.questions.presets`, which is too slow to import for --help. A test compares the two.
PRESET_NAMES = ('vqa-rad', 'slake', 'path-vqa', 'pmc-vqa', 'medxpertqa-mm', 'medxpertqa-text', 'pubmedqa', 'medmcqa',
                'medqa', 'cmmlu', 'medbullets', 'supergpqa')
QUESTION_KINDS = ('choice', 'multi', 'closed', 'open')


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser or an argument group."""
    parser.add_argument(
        '--kind',
        choices=QUESTION_KINDS,
        help='kind of all questions: one option, a set of options, yes/no, free text '
        "(default: the column 'kind' of a row, or inferred from its options and answer)")
    parser.add_argument(
        '--preset',
        action='append',
        default=[],
        type=_preset,
        metavar='NAME[=PATH]',
        help='read a benchmark in its '
        'published format from the file, folder or zip file PATH, or from --ref; may be repeated, with PATHs, to score '
        f'the mean over benchmarks. NAME is one of {", ".join(PRESET_NAMES)}')
    parser.add_argument(
        '--split', metavar='NAME', help="split of the benchmark (default: the split in the paper's tables)")
    parser.add_argument(
        '--images',
        metavar='DIR',
        help='the images of a benchmark (default: found next to its files); for Parquet '
        'files: where to write the images (default: the folder images in --output)')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `QATask`."""
    names = ', '.join(f'{name}, {args.split}' if args.split else name for name, _ in args.preset)
    return {'kind': args.kind, 'preset': names}


def prepare(args: argparse.Namespace, folder: str) -> None:
    """With `--preset`, writes the benchmarks as rows to FOLDER/questions.jsonl, the new reference file.

    Raises:
        SettingError: The options contradict each other.
        ValueError, RowError: A file cannot be read.
    """
    from ...settings import SettingError
    if not args.preset:
        if args.split or args.images:
            raise SettingError('--split and --images need a benchmark: give it with --preset.')
        return
    bare = [name for name, path in args.preset if path is None]
    if bare and (args.ref is None or len(args.preset) > 1):
        raise SettingError(f'Give the file of {bare[0]}: --preset {bare[0]}=PATH, or --preset {bare[0]} --ref PATH.')
    if args.ref is not None and not bare:
        raise SettingError(f'The benchmarks have files already (--preset NAME=PATH): remove --ref {args.ref}.')
    from ...scoring.questions.presets import QUESTIONS, write_rows
    chosen = [(name, path if path is not None else args.ref) for name, path in args.preset]
    print('\n'.join(write_rows(chosen, args.split, args.images, folder)))
    args.ref = os.path.join(folder, QUESTIONS)


def _preset(text: str) -> tuple[str, str | None]:
    name, _, path = text.partition('=')
    if name not in PRESET_NAMES:
        raise argparse.ArgumentTypeError(f'{name!r} is not one of {", ".join(PRESET_NAMES)}')
    return name, path or None
