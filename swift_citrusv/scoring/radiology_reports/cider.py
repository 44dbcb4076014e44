"""CIDEr and CIDEr-D (Vedantam et al., CVPR 2015): n-gram similarity that gives rare n-grams more weight."""
import math
import numpy as np
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .text_metrics import MAX_ORDER, ngrams

# Standard deviation of the length penalty of CIDEr-D, in words.
_SIGMA = 6.


@dataclass(frozen=True)
class DocumentFrequencies:
    """The number of references that contain each n-gram.

    Attributes:
        counts: Number of references by n-gram.
        num_references: Number of all references.
    """
    counts: Counter[tuple[str, ...]]
    num_references: int

    @classmethod
    def of(cls, references: Sequence[Sequence[str]]) -> 'DocumentFrequencies':
        """Counts the n-grams of references.

        Args:
            references: Token lists from `report_tokens`.
        """
        counts: Counter[tuple[str, ...]] = Counter()
        for words in references:
            for n in range(1, MAX_ORDER + 1):
                counts.update(ngrams(words, n).keys())
        return cls(counts, len(references))

    def tf_idf(self, words: Sequence[str], n: int) -> dict[tuple[str, ...], float]:
        """TF-IDF of the n-grams of a text: count x log(references / references that contain it)."""
        log_all = math.log(self.num_references)
        return {
            ngram: count * (log_all - math.log(max(1, self.counts[ngram])))
            for ngram, count in ngrams(words, n).items()
        }


def cider(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """CIDEr and CIDEr-D of each prediction, with one reference each.

    CIDEr is ten times the mean cosine of the TF-IDF vectors of 1- to 4-grams. CIDEr-D clips the count of an n-gram to
    its count in the reference, and is multiplied by exp(-d**2 / 72), where d is the difference in length; pycocoevalcap
    prints it as CIDEr. An order adds 0 if all n-grams of a text are in every reference, or if it has none. So a text
    of fewer than four words never scores 10.

    Args:
        predictions, references: Token lists from `report_tokens`; the references must be the whole corpus.

    Returns:
        Two float64 [number of references], 0 to 10; NaN with fewer than two references, where IDF is undefined.
    """
    num = len(references)
    plain, defended = np.full(num, np.nan), np.full(num, np.nan)
    if num < 2:
        return plain, defended
    frequencies = DocumentFrequencies.of(references)
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        # pycocoevalcap measures the length in 2-grams.
        distance = max(len(prediction) - 1, 0) - max(len(reference) - 1, 0)
        cosines, clipped = [], []
        for n in range(1, MAX_ORDER + 1):
            found, wanted = frequencies.tf_idf(prediction, n), frequencies.tf_idf(reference, n)
            common = [(found[ngram], wanted[ngram]) for ngram in found if ngram in wanted]
            norm = math.sqrt(sum(x * x for x in found.values()) * sum(x * x for x in wanted.values()))
            cosines.append(sum(x * y for x, y in common) / norm if norm else 0.)
            clipped.append(sum(min(x, y) * y for x, y in common) / norm if norm else 0.)
        plain[i] = 10 * sum(cosines) / MAX_ORDER
        defended[i] = 10 * sum(clipped) / MAX_ORDER * math.exp(-distance**2 / (2 * _SIGMA**2))
    return plain, defended
