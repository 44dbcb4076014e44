"""CIDEr and CIDEr-D against other implementations and by hand."""
import math
import numpy as np
import pytest
from support.radiology_reports import corpus

from swift_citrusv.scoring.radiology_reports.cider import DocumentFrequencies, cider


def test_cider_d_is_that_of_pycocoevalcap():
    from pycocoevalcap.cider.cider import Cider
    for seed in range(8):
        predictions, references = corpus(seed)
        texts = [{i: [' '.join(words)] for i, words in enumerate(part)} for part in (references, predictions)]
        expected = Cider().compute_score(*texts)[1]
        np.testing.assert_allclose(cider(predictions, references)[1], expected, atol=1e-9, err_msg=f'seed {seed}')


def slow_cider(predictions, references):
    """The cosines of dense TF-IDF vectors."""
    scores = np.zeros(len(references))
    for n in range(1, 5):
        cut = [[[tuple(words[i:i + n]) for i in range(len(words) - n + 1)] for words in part]
               for part in (predictions, references)]  # yapf: disable
        names = sorted({ngram for part in cut for found in part for ngram in found})
        counts = np.array([[[found.count(name) for name in names] for found in part] for part in cut], np.float64)
        frequency = np.maximum((counts[1] > 0).sum(axis=0), 1)
        one, two = counts * np.log(len(references) / frequency)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        scores += 10 / 4 * (one * two).sum(axis=1) / np.where(norms > 0, norms, 1)
    return scores


def test_cider_is_that_of_dense_vectors():
    for seed in range(8):
        predictions, references = corpus(seed)
        expected = slow_cider(predictions, references)
        np.testing.assert_allclose(cider(predictions, references)[0], expected, atol=1e-9, err_msg=f'seed {seed}')


def test_cider_by_hand():
    # Each word is in one of the two references: idf log 2. 1-grams: cosine 1/2; clipped the same. 2-grams: nothing.
    plain, defended = cider([['a', 'x'], ['a', 'a', 'a']], [['a', 'b'], ['c', 'd']])
    assert plain.tolist() == pytest.approx([10 / 4 / 2, 0])
    assert defended.tolist() == pytest.approx([10 / 4 / 2, 0])
    # 'a a' against 'a b': cosine 2 / (2 sqrt 2); clipped 1 / (2 sqrt 2). One word too many costs exp(-1 / 72).
    plain, defended = cider([['a', 'a'], ['c', 'd', 'c']], [['a', 'b'], ['c', 'd']])
    assert plain[0] == pytest.approx(2.5 * 2 / 8**.5) and defended[0] == pytest.approx(2.5 / 8**.5)
    assert plain[1] == pytest.approx(2.5 * (3 / 10**.5 + 1 / 2**.5))
    assert defended[1] == pytest.approx(2.5 * (2 / 10**.5 + 1 / 2**.5) * math.exp(-1 / 72))


def test_the_scale_of_cider():
    different = [f'{word} one two three'.split() for word in 'abcd']
    for values in cider(different, different):
        assert values.tolist() == pytest.approx([10] * 4)
    short = [['a', 'b'], ['c'], ['d', 'e', 'f']]
    for values in cider(short, short):
        assert values.tolist() == pytest.approx([5, 2.5, 7.5])
    same = [['no', 'acute', 'findings', 'seen']] * 3
    for values in cider(same, same):
        assert values.tolist() == [0, 0, 0]
    assert np.isnan(cider([['a']], [['a']])).all()
    counts = DocumentFrequencies.of([['a', 'a', 'b'], ['a']]).counts
    assert {
        ' '.join(ngram): count
        for ngram, count in counts.items()
    } == {
        'a': 2,
        'b': 1,
        'a a': 1,
        'a b': 1,
        'a a b': 1
    }
