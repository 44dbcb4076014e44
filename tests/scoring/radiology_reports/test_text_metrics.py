"""Tokens, ROUGE-L, METEOR and BLEU against other implementations and by hand."""
import math
import numpy as np
import pytest
import sys
from functools import lru_cache
from nltk.translate.bleu_score import corpus_bleu
from support.radiology_reports import FakeWordNet, corpus, report

from swift_citrusv.scoring.radiology_reports.text_metrics import (BLEU_COLUMNS, bleu, bleu_counts, has_wordnet, meteor,
                                                                  report_tokens, rouge_l, rouge_l_medevalkit)

# ---- tokens

# Expected values from PTBTokenizer of CoreNLP 3.4.1 with pycocoevalcap's list of punctuation.
PTB = {
    'Findings: The heart size is normal. No effusion, or pneumothorax.':
    'findings the heart size is normal no effusion or pneumothorax',
    'Impression: 1. Stable 3mm nodule in the right lung.': 'impression 1 stable 3mm nodule in the right lung',
    'There is a 2.5cm x 3.4 cm mass; follow-up CT.': 'there is a 2.5 cm x 3.4 cm mass follow-up ct',
    'AP/lateral views. Right-sided PICC line': 'ap/lateral views right-sided picc line',
    "The patient's exam from 01/02/2019 isn't available, can't be compared, and cannot be assessed.":
    "the patient 's exam from 01/02/2019 is n't available ca n't be compared and can not be assessed",
    'NG tube courses below the diaphragm -- tip not seen': 'ng tube courses below the diaphragm tip not seen',
    'Approximately 50% of it. T12-L1 fracture.': 'approximately 50 % of it t12-l1 fracture',
    'Notified at 10:30 a.m. on 5/6': 'notified at 10:30 a.m. on 5/6',
    'Low lung volumes... no consolidation! Is there an effusion? No.':
    'low lung volumes no consolidation is there an effusion no',
    'Ratio > 0.5, 1,200 HU & <5 mm': 'ratio > 0.5 1,200 hu & < 5 mm',
    'Effusion/pneumothorax. 1.2-cm nodule; 10-15 mm; 3–4 mm; the lung’s apex':
    "effusion/pneumothorax 1.2-cm nodule 10-15 mm 3 4 mm the lung 's apex",
}  # yapf: disable


def test_english_tokens_are_those_of_ptbtokenizer():
    for text, tokens in PTB.items():
        assert ' '.join(report_tokens(text)) == tokens, text


def test_tokens_of_other_texts():
    for text, tokens in {
            '双肺清晰，未见异常。': '双 肺 清 晰 未 见 异 常',
            '右肺上叶见3.5cm结节（ＣＴ值约30ＨＵ）': '右 肺 上 叶 见 3.5 cm 结 节 ct 值 约 30hu',
            '**Impression:** [normal] (see above) vs. prior': 'impression normal see above vs prior',
            'T2WI高信号，50％': 't2wi 高 信 号 50 %',
            '': '',
            ' \n。—- ** __': '',
    }.items():
        assert report_tokens(text) == tokens.split(), text


# ---- ROUGE-L


def slow_lcs(one, two):

    @lru_cache(None)
    def longest(i, j):
        if i == len(one) or j == len(two):
            return 0
        return 1 + longest(i + 1, j + 1) if one[i] == two[j] else max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


def test_rouge_l_is_that_of_a_slow_subsequence():
    for seed in range(8):
        for prediction, reference in zip(*corpus(seed)):
            length = slow_lcs(tuple(prediction), tuple(reference))
            expected = 2 * length / (len(prediction) + len(reference)) if prediction else 0
            assert rouge_l(prediction, reference) == pytest.approx(expected, abs=1e-12), (prediction, reference)


def test_rouge_l_is_that_of_rouge_score_on_plain_words():
    from rouge_score.rouge_scorer import RougeScorer
    scorer = RougeScorer(['rougeL'])
    random = np.random.default_rng(8)
    for _ in range(10):
        one, two = report(random), report(random)
        assert rouge_l(report_tokens(one), report_tokens(two)) == scorer.score(two, one)['rougeL'].fmeasure


def test_rouge_l_of_medevalkit_by_hand():
    for prediction, reference, value in (
        ('a b c', 'a b c', 1),
        ('A B', 'a b', 1),
        ('a a b', 'a b', 1),  # Distinct words count.
        ('b a', 'a b', 1 / 2),
        ('a b. c d.', 'c d. a b.', 1),  # Sentences may be in any order.
        ('a b c d', 'a x c y', 2 / 4),
        ('a, b', 'a b', 1 / 2),  # Punctuation stays attached to words.
        ('a b', 'a b c d', 2 * 1 * .5 / 1.5),
        ('no effusion.', 'no effusion. no edema.', 2 * 1 * (2 / 3) / (5 / 3)),
        ('x', 'a', 0),
        ('', 'a', 0),
        ('. .', 'a', 0),
    ):  # yapf: disable
        found = rouge_l_medevalkit(prediction, reference)
        assert found == pytest.approx(value, abs=1e-7), (prediction, reference)


def test_rouge_l_of_medevalkit_of_a_very_long_answer():
    limit = sys.getrecursionlimit()
    assert rouge_l_medevalkit('the lungs are clear ' * 1000, 'the lungs are clear') == pytest.approx(1, abs=1e-7)
    assert sys.getrecursionlimit() == limit


# ---- METEOR


def test_meteor_by_hand():
    for prediction, reference, matches, chunks in (
        ('the heart is normal', 'the heart is normal', 4, 1),
        ('normal', 'normal', 1, 1),
        ('is normal the heart', 'the heart is normal', 4, 2),
        ('the lungs are clear', 'the heart is normal', 1, 1),
        ('nodules seen', 'nodule seen', 2, 1),  # The same stem.
        ('heart size normal', 'heart is normal', 2, 2),
        ('双肺清晰', '双肺纹理清晰', 4, 2),
        ('CT 示双肺正常', 'CT 双肺正常', 5, 2),
        ('normal heart', 'effusion', 0, 0),
        ('', 'effusion', 0, 0),
    ):  # yapf: disable
        one, two = report_tokens(prediction), report_tokens(reference)
        value = 0.
        if matches:
            precision, recall = matches / len(one), matches / len(two)
            value = precision * recall / (.9 * precision + .1 * recall) * (1 - .5 * (chunks / matches)**3)
        assert meteor(one, two, synonyms=False) == pytest.approx(value, abs=1e-12), (prediction, reference)


def test_meteor_with_synonyms(monkeypatch):
    monkeypatch.setattr('nltk.corpus.wordnet', FakeWordNet)
    one, two = report_tokens('the ticker is normal'), report_tokens('the heart is normal')
    assert has_wordnet()
    assert meteor(one, two, synonyms=True) == pytest.approx(1 - .5 / 4**3)
    assert meteor(one, two, synonyms=False) == pytest.approx(.75 * (1 - .5 * (2 / 3)**3))


# ---- BLEU


def bleu_values(predictions, references):
    counts = [bleu_counts(*pair) for pair in zip(predictions, references)]
    sums = np.array([x for name in BLEU_COLUMNS for x in (sum(c[name] for c in counts), len(counts))], np.float64)
    return [float(bleu(order).formula(sums)) for order in range(1, 5)]


def test_bleu_is_that_of_nltk_and_pycocoevalcap():
    from pycocoevalcap.bleu.bleu import Bleu
    for seed in range(8):
        predictions, references = corpus(seed)
        texts = [{i: [' '.join(words)] for i, words in enumerate(part)} for part in (references, predictions)]
        found = bleu_values(predictions, references)
        # pycocoevalcap adds 1e-9 to each denominator.
        expected = Bleu(4).compute_score(*texts, verbose=0)[0]
        np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=f'seed {seed}')
        # NLTK counts one n-gram too many in each text that has none.
        predictions, references = predictions[3:], references[3:]
        expected = [corpus_bleu([[words] for words in references], predictions, [1 / n] * n) for n in range(1, 5)]
        np.testing.assert_allclose(bleu_values(predictions, references), expected, atol=1e-12, err_msg=f'seed {seed}')


def test_bleu_by_hand():
    for predictions, references, values in (
        (['a b c d e'], ['a b c d e'], [1, 1, 1, 1]),
        (['a b c'], ['a b c d e f'], [math.exp(-1)] * 3 + [0]),
        (['a a a a'], ['a b c d'], [1 / 4, 0, 0, 0]),
        ([''], ['a'], [0, 0, 0, 0]),
        (['', 'a b c d'], ['a b c d', 'a b c d'], [math.exp(-1)] * 4),
        (['a'], ['a'], [1, 0, 0, 0]),
        (['a b c d x y z'], ['a b c d'], [4 / 7, (4 / 7 * 3 / 6)**.5, (4 / 7 * 3 / 6 * 2 / 5)**(1 / 3),
                                          (4 / 7 * 3 / 6 * 2 / 5 * 1 / 4)**.25]),
        (['b a'], ['a b'], [1, 0, 0, 0]),
        ([], [], [np.nan] * 4),
    ):  # yapf: disable
        found = bleu_values([text.split() for text in predictions], [text.split() for text in references])
        np.testing.assert_allclose(found, values, atol=1e-12, err_msg=str(predictions))


def test_bleu_is_vectorised_over_resamplings():
    counts = [bleu_counts(*pair) for pair in zip(*corpus(0))]
    table = np.array([[x for name in BLEU_COLUMNS for x in (c[name], 1)] for c in counts])
    draws = np.random.default_rng(0).integers(0, 3, (5, len(counts)))
    values = bleu(4).formula(draws @ table)
    assert values.tolist() == [float(bleu(4).formula(draw @ table)) for draw in draws]
