"""`citrusv data deid`."""
import argparse
from typing import Any

from ..options import add_option, positive_int

NAME = 'deid'
HELP = 'take identities out of rows, headers and pixels, and prove it'
DESCRIPTION = (
    'Takes identities out of rows and of the files that they name, or out of all files of folders: DICOM headers by '
    'PS3.15 (basic profile), text in pixels by OCR, metadata of images, and phone numbers, dates, names and the '
    'like in texts, by rules. UIDs and patients get the same pseudonyms everywhere, dates move by the same days for a '
    'patient. The cleaned files are in files/. What is not sure goes to review.')
FOLDERS = 'files of rows, or folders of DICOM, NIfTI and images, or outputs of earlier steps'


def add_arguments(parser: Any) -> None:
    parser.add_argument('--key', default='deid.key', metavar='FILE', help='the secret of the pseudonyms; a new one is '
                        'written if there is no such file (default: deid.key)')  # yapf: disable
    parser.add_argument('--rules', metavar='FILE', help='the rules (default: those of the package; `citrusv templates '
                        'deid_rules --copy .` gives a copy to edit)')  # yapf: disable
    parser.add_argument(
        '--keep',
        nargs='+',
        default=[],
        choices=('descriptors', 'patient', 'device', 'institution', 'uids'),
        help='options of PS3.15: descriptions, cleaned by the rules; age, sex, size and weight of the patient; the '
        'device; the institution; UIDs (default: none)')
    parser.add_argument(
        '--dates', choices=('move', 'remove'), default='move', help='what happens to dates of headers (default: move)')
    add_option(parser, '--no-pixels', action='store_true', help='do not look for text in pixels')
    add_option(
        parser,
        '--outside-regions',
        choices=('blank', 'read'),
        default='blank',
        help='what lies outside the regions that the header of an ultrasound image gives: blank all of it, or only '
        'what is read there (default: blank)')
    parser.add_argument(
        '--prove',
        nargs='?',
        type=positive_int,
        const=20,
        default=0,
        metavar='N',
        help='plant N invented identities of each kind, let a second engine read them, and read all that was written '
        'again; exit status 1 if anything is left (default of N: 20)')
    for level in ('patient', 'study', 'series'):
        parser.add_argument(f'--{level}', default=level, metavar='COLUMN', help=f'the column of the {level} (default: '
                            f'{level})')  # yapf: disable


def make_step(args: argparse.Namespace) -> Any:
    """The step with the options of the command line."""
    from ...curation.deid.clean import Options
    from ...curation.deid.ocr import ENGINES, is_installed, reader
    from ...curation.deid.pseudonyms import read_key
    from ...curation.deid.step import DeidStep
    from ...curation.deid.text import read_rules
    from ...files.rules import file_rules
    from ...package_files import templates_dir
    engines = () if args.no_pixels else ENGINES if args.prove or is_installed(ENGINES[1]) else ENGINES[:1]
    for engine in engines:
        # Before anything runs.
        reader(engine)
    rules = read_rules(args.rules or str(templates_dir() / 'deid_rules.yaml'))
    options = Options(rules, read_key(args.key), tuple(args.keep), args.dates == 'move', engines,
                      args.outside_regions == 'blank', bool(args.prove))  # yapf: disable
    columns = tuple((level, getattr(args, level)) for level in ('patient', 'study', 'series'))
    return DeidStep(options, columns, args.prove, file_rules())


def check_result(summary: dict[str, Any], output: str) -> int:
    """Says what the proof found; 1 if anything is left."""
    import os

    from ...curation.data_files import read_json
    path = os.path.join(output, 'proof.json')
    if not os.path.exists(path):
        return 0
    proof = read_json(path)
    planted, survived = (sum(proof[name].values()) for name in ('planted', 'survived'))
    again = summary['rules']['read-again'].get('review', 0)
    print(f'Proof: {survived:,} of {planted:,} planted checks failed; in {again:,} rows an engine still reads text. '
          f' All of it: {path}.')  # yapf: disable
    return 1 if survived or again else 0
