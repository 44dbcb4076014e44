"""CIDEr and CIDEr-D (Vedantam et al., CVPR 2015): words that are rare among the references weigh more."""
import math
import numpy as np
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .text_metrics import MAX_ORDER, ngrams

# Of the length penalty of CIDEr-D, in words.
_SIGMA = 6.


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many of the references each n-gram is.

    Attributes:
        counts: By n-gram.
        num_references: All of them.
    """
    counts: Counter[tuple[str, ...]]
    num_references: int

    @classmethod
    def of(cls, references: Sequence[Sequence[str]]) -> 'DocumentFrequencies':
        """Counts them.

        Args:
            references: Words, as `tokens` gives them.
        """
        counts: Counter[tuple[str, ...]] = Counter()
        for words in references:
            for n in range(1, MAX_ORDER + 1):
                counts.update(ngrams(words, n).keys())
        return cls(counts, len(references))

    def weighted(self, words: Sequence[str], n: int) -> dict[tuple[str, ...], float]:
        """TF-IDF of the n-grams of a text: count x log(references / references that have it)."""
        log_all = math.log(self.num_references)
        return {
            ngram: count * (log_all - math.log(max(1, self.counts[ngram])))
            for ngram, count in ngrams(words, n).items()
        }


def cider(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """CIDEr and CIDEr-D of each prediction, with one reference each.

    CIDEr is the mean cosine of the TF-IDF vectors of 1- to 4-grams. CIDEr-D counts a repeated n-gram no more often than
    the reference has it, and is multiplied by exp(-d**2 / 72), d being the difference in length: this is what COCO's
    tools (pycocoevalcap) print as CIDEr. An order in which a text has nothing that is not in all references adds 0: so
    texts of fewer than four words cannot be perfect.

    Args:
        predictions, references: Words, as `tokens` gives them; references are those of the whole corpus.

    Returns:
        Two float64 [number of references], 0 to 10; NaN with fewer than two references, where no word is rare.
    """
    num = len(references)
    plain, defended = np.full(num, np.nan), np.full(num, np.nan)
    if num < 2:
        return plain, defended
    frequencies = DocumentFrequencies.of(references)
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        # As pycocoevalcap measures it: by 2-grams.
        distance = max(len(prediction) - 1, 0) - max(len(reference) - 1, 0)
        cosines, clipped = [], []
        for n in range(1, MAX_ORDER + 1):
            found, wanted = frequencies.weighted(prediction, n), frequencies.weighted(reference, n)
            common = [(found[ngram], wanted[ngram]) for ngram in found.keys() & wanted.keys()]
            norm = math.sqrt(sum(x * x for x in found.values()) * sum(x * x for x in wanted.values()))
            cosines.append(sum(x * y for x, y in common) / norm if norm else 0.)
            clipped.append(sum(min(x, y) * y for x, y in common) / norm if norm else 0.)
        plain[i] = 10 * sum(cosines) / MAX_ORDER
        defended[i] = 10 * sum(clipped) / MAX_ORDER * math.exp(-distance**2 / (2 * _SIGMA**2))
    return plain, defended
