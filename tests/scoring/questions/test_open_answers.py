"""Words, exact match, and overlap of open answers."""
import pytest
import random

from swift_citrusv.scoring.questions.open_answers import answer_tokens, same_words, token_overlap


def test_tokens():
    for text, expected in [
        ('The Lungs.', ['lungs']), ('an X-ray', ['x', 'ray']), ('two', ['2']), ('1,000 mg', ['1000', 'mg']),
        ('2.50', ['2.5']),
        ('.5 / 05', ['0.5', '5']), ('５ｍｍ', ['5', 'mm']), ('右肺上叶', ['右', '肺', '上', '叶']), ('十二指肠', ['12', '指', '肠']),
        ('两个', ['2', '个']), ('HER2-', ['her2-']), ('HER2-positive', ['her2', 'positive']), ('<5%', ['<', '5', '%']),
        ('≥ 3 percent', ['>=', '3', '%']), ("Crohn's", ['crohns']), ('vitamin A', ['vitamin', 'a']), ('the', ['the']),
        ('T2-weighted', ['t2', 'weighted']), ('', []), ('!?', []),
    ]:  # yapf: disable
        assert answer_tokens(text) == expected, text


def test_same_words():
    for first, second in [
        ('The right lung.', 'right lung'), ('x-ray', 'X ray'), ('右肺。', '右肺'), ('three', '3'),
    ]:  # yapf: disable
        assert same_words(first, second), (first, second)
    for first, second in [
        ('right lung', 'left lung'), ('2, 3', '23'), ('HER2+', 'HER2-'), ('<5', '>5'), ('5%', '5'),
        ('vitamin', 'vitamin A'), ('', 'lung'),
    ]:  # yapf: disable
        assert not same_words(first, second), (first, second)


def test_overlap():
    for answer, reference, f1, recall in [
        # Worked by hand: 2 common / (said + meant), common / meant.
        ('right lung', 'right lung', 1, 1), ('the right lung', 'Right lung.', 1, 1),
        ('lung', 'right lung', 2 / 3, 1 / 2), ('the upper right lung', 'right lung', 4 / 5, 1), ('heart', 'lung', 0, 0),
        ('lung lung', 'lung', 2 / 3, 1),
        ('a b b c', 'b b d', 2 * 2 / 6, 2 / 3), ('右上肺', '右肺', 4 / 5, 1), ('左肺', '右肺', 1 / 2, 1 / 2), ('', 'lung', 0, 0),
        ('?', 'lung', 0, 0), ('', '', 1, 1), ('2 cm', 'two cm', 1, 1),
    ]:  # yapf: disable
        assert token_overlap(answer, reference) == pytest.approx((f1, recall)), (answer, reference)


def test_overlap_against_torchmetrics():
    squad = pytest.importorskip('torchmetrics.functional.text').squad
    random.seed(1)
    words = ['right', 'left', 'lung', 'upper', 'lobe', 'mass', 'the', 'Lung,']
    for _ in range(100):
        answer, reference = (' '.join([*random.choices(words, k=random.randrange(6)), 'end']) for _ in range(2))
        expected = squad([{'prediction_text': answer, 'id': '1'}],
                         [{'answers': {'answer_start': [0], 'text': [reference]}, 'id': '1'}])  # yapf: disable
        assert token_overlap(answer, reference)[0] == pytest.approx(float(expected['f1']) / 100, abs=1e-6)
        assert same_words(answer, reference) == bool(expected['exact_match'])


def test_signs_of_numbers():
    """A minus makes another number, however it is written; a hyphen does not."""
    for text in ('-2.5', '−2.5', '–2.5', '－2.5', '‑2.5', 'minus 2.5', 'Minus 2.50', 'negative 2.5', '负2.5', '零下2.5',
                 '(-2.5)', '-2.50'):
        assert answer_tokens(text) == ['-2.5'], text
        assert same_words(text, '-2.5') and not same_words(text, '2.5') and token_overlap(text, '2.5') == (0, 0), text
    for text in ('2.5', '+2.5', '2.50', '02.5', '＋2.5'):
        assert same_words(text, '2.5') and not same_words(text, '-2.5'), text
    for text, words in (('T-score -2.5', ['t', 'score',
                                          '-2.5']), ('2-3', ['2',
                                                             '3']), ('2 - 3', ['2',
                                                                               '3']), ('7.35-7.45', ['7.35', '7.45']),
                        ('covid-19', ['covid', '19']), ('T2-weighted', ['t2', 'weighted']), ('L4-L5', ['l4', 'l5']),
                        ('-0', ['0']), ('x = -3', ['x',
                                                   '-3']), ('HER2-', ['her2-']), ('50%-60%', ['50', '%', '60', '%']),
                        ('minus', ['minus']), ('负压', ['负',
                                                      '压']), ('负五', ['-5']), ('-2 to -1', ['-2', 'to',
                                                                                           '-1']), ('1e-3', ['0.001']),
                        ('2.5E3', ['2500']), ('1e5x', ['1', 'e5x']), ('- item', ['item']), ('<-2', ['<', '-2'])):
        assert answer_tokens(text) == words, (text, answer_tokens(text))
    assert same_words('−2.5 SD', '-2.5 SD') and not same_words('2.5 SD', '-2.5 SD') and same_words('.5', '0.5')
