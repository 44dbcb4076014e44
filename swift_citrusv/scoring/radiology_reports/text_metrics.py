"""Word overlap of two texts: ROUGE-L, METEOR, BLEU. CIDEr, which needs the whole corpus, is in `cider`."""
import functools
import importlib
import numpy as np
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..task import Measure

MAX_ORDER = 4
BLEU_COLUMNS = (*(f'bleu_{part}_{n}' for n in range(1, MAX_ORDER + 1) for part in ('matches', 'ngrams')),
                'bleu_reference_length')  # yapf: disable

# Chinese characters and Japanese kana.
_HAN = '\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff'
_WORD = rf'[^\W_{_HAN}]'
_TOKEN = re.compile(rf"""
    [{_HAN}]
    | n't | '(?:s|re|ve|ll|d|m)\b
    | (?:[a-z]\.){{2,}}                     # a.m.
    | \d+(?:[.,:]\d+)+(?=[^\W\d_{_HAN}])  # 2.5 of 2.5cm
    | {_WORD}+(?:(?:[-/]|(?<=\d)[.,:](?=\d)){_WORD}+)*
    | [%<>=+&]
    """, re.VERBOSE)  # yapf: disable
_CONTRACTION = re.compile(r"n't\b")
_QUOTES = str.maketrans({'\u2019': "'", '\u2018': "'", '\u2010': '-'})
_CANNOT = re.compile(r'\bcannot\b')


def report_tokens(text: str) -> list[str]:
    """Splits a text into lower-case tokens without punctuation and Markdown; all measures but RaTEScore use them.

    Full-width forms become half-width (NFKC). Each Chinese character is a token. Everything else is split as by the
    tokenizer of COCO captions (Stanford's PTBTokenizer): 'right-sided', 'AP/lateral', '2.5', '3mm' and '1/2/2019' are
    one token each; "patient's", "isn't", 'cannot' and '2.5cm' are two. The signs `% < > = + &` are tokens. Unlike
    PTBTokenizer, it drops brackets, asterisks and other signs, and the full stop of abbreviations ('vs.'), except in
    'a.m.' and the like.
    """
    text = unicodedata.normalize('NFKC', text).translate(_QUOTES).lower()
    return _TOKEN.findall(_CONTRACTION.sub(" n't", _CANNOT.sub('can not', text)))


# ---- ROUGE-L


def rouge_l(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L by rouge-score: F1 of the longest common subsequence of words, without stemming.

    Args:
        prediction, reference: Token lists from `report_tokens`.

    Returns:
        0 to 1; 0 if one is empty.

    Raises:
        ValueError: rouge-score is not installed.
    """
    return float(_rouge_scorer().score(' '.join(reference), ' '.join(prediction))['rougeL'].fmeasure)


class _WhitespaceTokenizer:
    """Replaces the tokenizer of rouge-score, which supports only a to z and digits."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        return text.split()


@functools.cache
def _rouge_scorer() -> Any:
    return import_eval_package('rouge_score.rouge_scorer').RougeScorer(['rougeL'], tokenizer=_WhitespaceTokenizer)


def rouge_l_medevalkit(prediction: str, reference: str) -> float:
    """ROUGE-L as in MedEvalKit, the evaluation code of Lingshu (cited in section 5.2.4).

    Uses the package `rouge` (1.0.1): lower-case texts are split into sentences at each '.', and into words at spaces.
    Precision and recall are the number of distinct words in the longest common subsequences of all pairs of sentences,
    over the number of distinct words of either text. Punctuation stays attached to words.

    Args:
        prediction, reference: Texts.

    Returns:
        0 to 1; 0 if one is empty.

    Raises:
        ValueError: The package `rouge` is not installed.
    """
    texts = [' '.join(text.lower().split()) for text in (prediction, reference)]
    if not all(text.strip('. ') for text in texts):
        return 0.
    scorer = import_eval_package('rouge').Rouge(metrics=['rouge-l'], stats=['f'])
    limit = sys.getrecursionlimit()
    # The package backtracks by recursion, one level for each word.
    sys.setrecursionlimit(limit + sum(len(text.split()) for text in texts))
    try:
        return float(scorer.get_scores(*texts)[0]['rouge-l']['f'])
    finally:
        sys.setrecursionlimit(limit)


# ---- METEOR


def meteor(prediction: Sequence[str], reference: Sequence[str], synonyms: bool) -> float:
    """METEOR of 2007 (alpha 0.9, beta 3, gamma 0.5) by NLTK.

    Words match if they are equal, have the same Porter stem or, with `synonyms`, share a WordNet synset. n words that
    match in one chunk score 1 - 0.5 / n**3: a perfect text scores just below 1, a single word 0.5. This differs from
    the Java METEOR 1.5 of the COCO tools, which also matches paraphrases.

    Args:
        prediction, reference: Token lists from `report_tokens`.
        synonyms: Use WordNet, which must be in nltk_data.

    Returns:
        0 to 1; 0 if one is empty.

    Raises:
        ValueError: NLTK is not installed, or WordNet is needed and missing.
    """
    if synonyms and not has_wordnet():
        raise wordnet_error()
    source = import_eval_package('nltk.corpus').wordnet if synonyms else _NoSynonyms
    score = import_eval_package('nltk.translate.meteor_score').single_meteor_score
    return float(score(list(reference), list(prediction), wordnet=source))


class _NoSynonyms:
    """An empty stand-in for WordNet."""

    @staticmethod
    def synsets(word: str) -> tuple[()]:
        return ()


def has_wordnet() -> bool:
    """Whether NLTK finds WordNet locally. Downloads nothing."""
    try:
        import_eval_package('nltk.corpus').wordnet.ensure_loaded()
    except LookupError:
        return False
    return True


def wordnet_error() -> ValueError:
    """The error for synonyms without WordNet."""
    return ValueError('METEOR with synonyms needs WordNet, which is not in nltk_data: run `python -m nltk.downloader '
                      'wordnet`, or give --synonyms no.')  # yapf: disable


# ---- BLEU


def bleu_counts(prediction: Sequence[str], reference: Sequence[str]) -> dict[str, float]:
    """The contribution of a pair of texts to corpus BLEU, by column of `BLEU_COLUMNS`.

    Args:
        prediction, reference: Token lists from `report_tokens`.
    """
    counts: dict[str, float] = {}
    for n in range(1, MAX_ORDER + 1):
        found, wanted = ngrams(prediction, n), ngrams(reference, n)
        counts[f'bleu_matches_{n}'] = float((found & wanted).total())
        counts[f'bleu_ngrams_{n}'] = float(found.total())
    counts['bleu_reference_length'] = float(len(reference))
    return counts


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """The count of each sequence of n words."""
    return Counter(zip(*(words[i:] for i in range(n))))


def bleu(order: int) -> Measure:
    """Corpus BLEU up to n-grams of an order, without smoothing (Papineni et al. 2002), with one reference per text.

    The geometric mean of the n-gram precisions over all texts, times the brevity penalty exp(1 - reference length /
    prediction length) if the predictions are shorter. 0 if an order has no match.
    """

    def formula(sums: np.ndarray) -> np.ndarray:
        matches, totals = sums[..., 0:4 * order:4], sums[..., 2:4 * order:4]
        # The last column, and its count: each column is followed by its count.
        reference_length, count = sums[..., 4 * MAX_ORDER], sums[..., 4 * MAX_ORDER + 1]
        length = totals[..., 0]
        with np.errstate(divide='ignore', invalid='ignore'):
            precision = np.exp(np.log(matches / totals).mean(axis=-1))
            brevity = np.exp(np.minimum(0., 1 - reference_length / length))
        value = np.where((matches > 0).all(axis=-1), precision * brevity, 0.)
        return np.where(count > 0, value, np.nan)

    return Measure(f'bleu_{order}', BLEU_COLUMNS, formula)


def import_eval_package(name: str) -> Any:
    """Imports a package of the extra `eval`, or one of its modules.

    Raises:
        ValueError: The package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ValueError(f'Scoring reports needs the package {name.partition(".")[0]} ({e}): pip install '
                         "'swift-citrusv[eval]'.") from e  # yapf: disable
