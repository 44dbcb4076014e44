"""`citrusv eval qa`: multiple choice, yes or no, and open questions; the benchmarks of the paper by `--preset`."""
import argparse
import os
from typing import Any

NAME = 'qa'
HELP = 'questions: the right option, yes or no, exact match, token F1 and recall'
# As in scoring/presets.py, which is not imported for --help; a test holds the two together.
PRESETS = ('vqa-rad', 'slake', 'path-vqa', 'pmc-vqa', 'medxpertqa-mm', 'medxpertqa-text', 'pubmedqa', 'medmcqa',
           'medqa', 'cmmlu', 'medbullets', 'supergpqa')
KINDS = ('choice', 'multi', 'closed', 'open')


def add_arguments(parser: Any) -> None:
    """Adds the options of the task to a parser, or to a group of one."""
    parser.add_argument(
        '--kind', choices=KINDS, help='of all questions: one option, a set of options, yes or no, any words (default: '
        "the column 'kind' of a row, or what its options and its answer show)")  # yapf: disable
    parser.add_argument(
        '--preset', action='append', default=[], type=_preset, metavar='NAME[=PATH]', help='read a benchmark as it is '
        'published: the file, folder or zip file PATH, or that of --ref; may be given several times, with PATHs, for '
        f'the mean over benchmarks. One of {", ".join(PRESETS)}')  # yapf: disable
    parser.add_argument('--split', metavar='NAME', help="of the benchmark (default: that of the paper's tables)")
    parser.add_argument(
        '--images', metavar='DIR', help='where the pictures of a benchmark are (default: looked for beside its files); '
        'for Parquet files: where they are written (default: images, below --output)')  # yapf: disable


def options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of the task."""
    names = ', '.join(f'{name}, {args.split}' if args.split else name for name, _ in args.preset)
    return {'kind': args.kind, 'preset': names}


def prepare(args: argparse.Namespace, folder: str) -> None:
    """With `--preset`: writes the benchmarks as rows to FOLDER/questions.jsonl, and makes that the reference file.

    Raises:
        SettingError: The options do not fit each other.
        ValueError, RowError: A file cannot be read.
    """
    from ...settings import SettingError
    if not args.preset:
        if args.split or args.images:
            raise SettingError('--split and --images belong to a benchmark: name it with --preset.')
        return
    bare = [name for name, path in args.preset if path is None]
    if bare and (args.ref is None or len(args.preset) > 1):
        raise SettingError(f'Name the file of {bare[0]}: --preset {bare[0]}=PATH, or --preset {bare[0]} --ref PATH.')
    if args.ref is not None and not bare:
        raise SettingError(f'The benchmarks have their files (--preset NAME=PATH): leave --ref {args.ref} out.')
    from ...scoring.questions.presets import QUESTIONS, write_rows
    chosen = [(name, path if path is not None else args.ref) for name, path in args.preset]
    print('\n'.join(write_rows(chosen, args.split, args.images, folder)))
    args.ref = os.path.join(folder, QUESTIONS)


def _preset(text: str) -> tuple[str, str | None]:
    name, _, path = text.partition('=')
    if name not in PRESETS:
        raise argparse.ArgumentTypeError(f'{name!r} is none of {", ".join(PRESETS)}')
    return name, path or None
