"""`citrusv eval reports`: scores radiology reports."""
import argparse
from typing import Any

from ..options import add_option

NAME = 'reports'
HELP = 'score report generation: ROUGE-L, CIDEr, BLEU, METEOR, RaTEScore'


def add_arguments(parser: Any) -> None:
    parser.add_argument(
        '--section',
        default='report',
        choices=('report', 'findings', 'impression', 'findings+impression'),
        help='the section to compare (default: report, the whole text with its headings)')
    parser.add_argument(
        '--synonyms',
        default='auto',
        choices=('auto', 'yes', 'no'),
        help='whether METEOR uses WordNet synonyms; auto: if nltk_data has WordNet. Without '
        'them the score is called meteor_exact_stem (default: auto)')
    parser.add_argument(
        '--medevalkit',
        action='store_true',
        help='add ROUGE-L as computed by MedEvalKit, the evaluation code of Lingshu')
    add_option(parser, '--rate-ner', metavar='DIR', help='add RaTEScore: the weights of RaTE-NER-Deberta')
    add_option(
        parser,
        '--rate-embeddings',
        metavar='DIR',
        help='for RaTEScore, the weights of BioLORD-2023-C; nothing is downloaded')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `ReportsTask`.

    Raises:
        ValueError: WordNet or RaTEScore is requested but not installed.
    """
    from ...scoring.radiology_reports.ratescore import check_ratescore
    from ...scoring.radiology_reports.text_metrics import has_wordnet, wordnet_error
    if args.synonyms == 'yes' and not has_wordnet():
        raise wordnet_error()
    if args.rate_ner is not None and args.rate_embeddings is not None:
        check_ratescore(args.rate_ner, args.rate_embeddings)
    return {
        'section': args.section,
        # Decided here, so that scores.json records it and `citrusv compare` does not mix the two.
        'synonyms': args.synonyms != 'no' and has_wordnet(),
        'medevalkit': args.medevalkit,
        'rate_ner': args.rate_ner,
        'rate_embeddings': args.rate_embeddings
    }
