"""Likeness of two texts by their words: ROUGE-L, METEOR, BLEU. CIDEr, which needs all texts, is in `cider`."""
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

# Chinese characters, and Japanese kana beside them.
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


def tokens(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and Markdown: what all measures but RaTEScore compare.

    Full-width forms become half-width ones (NFKC). Each Chinese character is a word. All else is divided as the
    tokenizer of COCO captions (Stanford's PTBTokenizer) does: 'right-sided', 'AP/lateral', '2.5', '3mm' and '1/2/2019'
    are a word each; "patient's", "isn't", 'cannot' and '2.5cm' two. Of signs `% < > = + &` count. Unlike there,
    brackets, asterisks and other signs do not, nor does the full stop of an abbreviation ('vs.'), but for 'a.m.' and
    the like.
    """
    text = unicodedata.normalize('NFKC', text).translate(_QUOTES).lower()
    return _TOKEN.findall(_CONTRACTION.sub(" n't", _CANNOT.sub('can not', text)))


# ---- ROUGE-L


def rouge_l(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L, by rouge-score: F1 of the longest common subsequence of words, without stemming.

    Args:
        prediction, reference: Words, as `tokens` gives them.

    Returns:
        0 to 1; 0 where one is empty.

    Raises:
        ValueError: rouge-score is not installed.
    """
    return float(_rouge_scorer().score(' '.join(reference), ' '.join(prediction))['rougeL'].fmeasure)


class _Spaces:
    """The tokenizer of rouge-score knows a to z and digits alone."""

    @staticmethod
    def tokenize(text: str) -> list[str]:
        return text.split()


@functools.cache
def _rouge_scorer() -> Any:
    return eval_package('rouge_score.rouge_scorer').RougeScorer(['rougeL'], tokenizer=_Spaces)


def rouge_l_medevalkit(prediction: str, reference: str) -> float:
    """ROUGE-L as MedEvalKit computes it, the evaluation code of Lingshu (cited in section 5.2.4).

    By the package `rouge` (1.0.1): texts in lower case are cut into sentences at each '.', and these into words at
    spaces; the distinct words of the longest common subsequences of all pairs of sentences, over the distinct words of
    either text. Punctuation stays on the words.

    Args:
        prediction, reference: Texts.

    Returns:
        0 to 1; 0 where one is empty.

    Raises:
        ValueError: The package is not installed.
    """
    texts = [' '.join(text.lower().split()) for text in (prediction, reference)]
    if not all(text.strip('. ') for text in texts):
        return 0.
    scorer = eval_package('rouge').Rouge(metrics=['rouge-l'], stats=['f'])
    limit = sys.getrecursionlimit()
    # It goes back through the table of a pair of sentences by recursion, one word deep at a time.
    sys.setrecursionlimit(limit + sum(len(text.split()) for text in texts))
    try:
        return float(scorer.get_scores(*texts)[0]['rouge-l']['f'])
    finally:
        sys.setrecursionlimit(limit)


# ---- METEOR


def meteor(prediction: Sequence[str], reference: Sequence[str], synonyms: bool) -> float:
    """METEOR of 2007 (alpha 0.9, beta 3, gamma 0.5), by NLTK.

    Words match if they are equal, have the same stem (Porter) or, with `synonyms`, share a set of WordNet's. n words
    that are all found in one piece score 1 - 0.5 / n**3: a perfect text is just below 1, a single word 0.5. This is not
    METEOR 1.5 of Java, with its paraphrases, which COCO's tools run.

    Args:
        prediction, reference: Words, as `tokens` gives them.
        synonyms: Use WordNet, which must be in nltk_data.

    Returns:
        0 to 1; 0 where one is empty.

    Raises:
        ValueError: NLTK is not installed, or WordNet is wanted and not there.
    """
    if synonyms and not has_wordnet():
        raise no_wordnet()
    source = eval_package('nltk.corpus').wordnet if synonyms else _NoSynonyms
    score = eval_package('nltk.translate.meteor_score').single_meteor_score
    return float(score(list(reference), list(prediction), wordnet=source))


class _NoSynonyms:
    """In the place of WordNet."""

    @staticmethod
    def synsets(word: str) -> tuple[()]:
        return ()


def has_wordnet() -> bool:
    """Whether NLTK finds WordNet on this machine. Downloads nothing."""
    try:
        eval_package('nltk.corpus').wordnet.ensure_loaded()
    except LookupError:
        return False
    return True


def no_wordnet() -> ValueError:
    """The error of a user who asks for synonyms in vain."""
    return ValueError('METEOR with synonyms needs WordNet, and nltk_data has none: run `python -m nltk.downloader '
                      'wordnet`, or give --synonyms no.')  # yapf: disable


# ---- BLEU


def bleu_counts(prediction: Sequence[str], reference: Sequence[str]) -> dict[str, float]:
    """What a pair of texts adds to the BLEU of a corpus, by `BLEU_COLUMNS`.

    Args:
        prediction, reference: Words, as `tokens` gives them.
    """
    counts: dict[str, float] = {}
    for n in range(1, MAX_ORDER + 1):
        found, wanted = ngrams(prediction, n), ngrams(reference, n)
        counts[f'bleu_matches_{n}'] = float((found & wanted).total())
        counts[f'bleu_ngrams_{n}'] = float(found.total())
    counts['bleu_reference_length'] = float(len(reference))
    return counts


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each sequence of n words is there."""
    return Counter(zip(*(words[i:] for i in range(n))))


def bleu(order: int) -> Measure:
    """BLEU of the corpus up to n-grams of an order, without smoothing (Papineni et al. 2002; one reference a text).

    The geometric mean of the share of the predictions' n-grams that are in their references, all texts together, times
    exp(1 - reference length / prediction length) where the predictions are shorter. 0 where an order has no match.
    """

    def formula(sums: np.ndarray) -> np.ndarray:
        matches, totals = sums[..., 0:4 * order:4], sums[..., 2:4 * order:4]
        # The last column; every column is followed by its count.
        reference_length, count = sums[..., 4 * MAX_ORDER], sums[..., 4 * MAX_ORDER + 1]
        length = totals[..., 0]
        with np.errstate(divide='ignore', invalid='ignore'):
            precision = np.exp(np.log(matches / totals).mean(axis=-1))
            brevity = np.exp(np.minimum(0., 1 - reference_length / length))
        value = np.where((matches > 0).all(axis=-1), precision * brevity, 0.)
        return np.where(count > 0, value, np.nan)

    return Measure(f'bleu_{order}', BLEU_COLUMNS, formula)


def eval_package(name: str) -> Any:
    """Imports a package of the extra `eval`, or a module of it.

    Raises:
        ValueError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ValueError(f'Scoring reports needs the package {name.partition(".")[0]} ({e}): pip install '
                         "'swift-citrusv[eval]'.") from e  # yapf: disable
