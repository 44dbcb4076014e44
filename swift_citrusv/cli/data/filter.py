"""`citrusv data filter`."""
import argparse
from typing import Any

from ..options import add_option

NAME = 'filter'
HELP = 'drop rows of low quality: images, length, text rules, broken rows'
DESCRIPTION = (
    'Drops rows that break the row contract, questions without answers, images that are too small, blank, of '
    'one colour or cannot be decoded, texts that are too short, too long or repeat themselves, and what the '
    'text rules of a YAML file find, in English and Chinese. Some of these rules put rows aside for review.')


def add_arguments(parser: Any) -> None:
    parser.add_argument('--rules', metavar='FILE', help='the rules (default: those of the package; `citrusv templates '
                        'filter_rules --copy .` gives a copy to edit)')  # yapf: disable
    parser.add_argument('--tokenizer', metavar='DIR', help='a folder with tokenizer.json (default: count Chinese '
                        'characters, and words of other scripts)')  # yapf: disable
    add_option(parser, '--min-pixels', type=int, metavar='N', help='width x height of an image (default: 4096)')
    add_option(parser, '--min-tokens', type=int, metavar='N', help='tokens of questions and answers (default: 10)')
    add_option(parser, '--max-tokens', type=int, metavar='N', help='tokens of questions and answers (default: 1024)')
    add_option(parser, '--no-images', action='store_true', help='do not open the images')
    parser.add_argument('--series', metavar='DIR', help='an output of `citrusv data dicom`: drop rows about slices '
                        'that did not pass there')  # yapf: disable


def make_step(args: argparse.Namespace) -> Any:
    """The step with the options of the command line."""
    from ...curation.filter.rule_file import read_rules
    from ...curation.filter.series import check_output
    from ...curation.filter.step import FilterStep
    from ...files.rules import file_rules
    from ...package_files import templates_dir
    rules = read_rules(args.rules or str(templates_dir() / 'filter_rules.yaml'))
    rules = rules.with_values(min_pixels=args.min_pixels, min_tokens=args.min_tokens, max_tokens=args.max_tokens)
    if args.series is not None:
        check_output(args.series)
    return FilterStep(rules, args.tokenizer, not args.no_images, file_rules(), args.series)
