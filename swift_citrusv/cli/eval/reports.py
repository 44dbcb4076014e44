"""`citrusv eval reports`: its options."""
import argparse
from typing import Any

NAME = 'reports'
HELP = 'report generation: ROUGE-L, CIDEr, BLEU, METEOR, RaTEScore'


def add_arguments(parser: Any) -> None:
    parser.add_argument(
        '--section', default='report', choices=('report', 'findings', 'impression', 'findings+impression'),
        help='what is compared (default: report, all of it with its headings)')  # yapf: disable
    parser.add_argument(
        '--synonyms', default='auto', choices=('auto', 'yes', 'no'),
        help="whether METEOR uses WordNet's synonyms; auto: where nltk_data has it. Without, it is called "
        'meteor_exact_stem (default: auto)')  # yapf: disable
    parser.add_argument(
        '--medevalkit', action='store_true', help="add ROUGE-L as MedEvalKit computes it, Lingshu's evaluation code")
    parser.add_argument('--rate-ner', '--rate_ner', metavar='DIR', help='add RaTEScore: weights of RaTE-NER-Deberta')
    parser.add_argument(
        '--rate-embeddings', '--rate_embeddings', metavar='DIR', help='and of BioLORD-2023-C; nothing is downloaded')


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of `ReportsTask`.

    Raises:
        ValueError: WordNet or RaTEScore is asked for and not there.
    """
    from ...scoring.radiology_reports.ratescore import check_ratescore
    from ...scoring.radiology_reports.text_metrics import has_wordnet, no_wordnet
    if args.synonyms == 'yes' and not has_wordnet():
        raise no_wordnet()
    if args.rate_ner is not None and args.rate_embeddings is not None:
        check_ratescore(args.rate_ner, args.rate_embeddings)
    return {
        'section': args.section,
        # Decided here, so that scores.json says what was used, and `citrusv compare` refuses to mix the two.
        'synonyms': args.synonyms != 'no' and has_wordnet(),
        'medevalkit': args.medevalkit,
        'rate_ner': args.rate_ner,
        'rate_embeddings': args.rate_embeddings
    }
