"""Matching of lab results by name."""
import itertools
import numpy as np
import pytest

from swift_citrusv.scoring.documents.lab_results import (LabResult, best_assignment, match_lab_results, name_similarity,
                                                         possible_synonyms)


def test_assignment_against_brute_force():
    generator = np.random.default_rng(1)
    for _ in range(200):
        rows, columns = (int(x) for x in generator.integers(1, 6, 2))
        weights = np.where(generator.random((rows, columns)) < .4, 0, generator.random((rows, columns)))
        best = max(
            sum(weights[i, j] for i, j in (zip(range(rows), order) if rows <= columns else zip(order, range(columns))))
            for order in itertools.permutations(range(max(rows, columns)), min(rows, columns)))
        found = best_assignment(weights)
        assert sum(weights[i, j] for i, j in found) == pytest.approx(best)
        assert len({i for i, _ in found}) == len({j for _, j in found}) == len(found)
        assert all(weights[i, j] > 0 for i, j in found)


def test_similarity():
    assert name_similarity('白细胞计数', '白细胞计数') == 1 and name_similarity('', '') == 0
    assert name_similarity('总胆红素', '直接胆红素') == pytest.approx(2 * 3 / 9)
    assert name_similarity('甘油三酯', '甘油三脂') == pytest.approx(.75)
    assert name_similarity('白细胞计数(wbc)', 'wbc') == name_similarity('wbc', '白细胞计数(wbc)') == .9
    assert name_similarity('脂蛋白(a)', 'a') < .5


def names(*texts):
    return [LabResult(text) for text in texts]


def test_matching_of_names():
    # Equal names go together, though another assignment would have as many pairs.
    assert match_lab_results(names('总胆红素', '直接胆红素'), names('直接胆红素', '总胆红素x'), .6) == [(0, 1), (1, 0)]
    assert match_lab_results(names('白细胞(WBC)', '红细胞(RBC)'), names('RBC', 'WBC'), .6) == [(0, 1), (1, 0)]
    assert match_lab_results(names('钾', '钠'), names('氯', '钾'), .6) == [(0, 1)]
    assert match_lab_results(names('甘油三酯'), names('甘油三脂'), .6) == [(0, 0)]
    assert match_lab_results(names('甘油三酯'), names('甘油三脂'), .8) == []
    assert match_lab_results([], names('钾'), .6) == match_lab_results(names('钾'), [], .6) == []
    # One alone needs no name; of several without names those go together that agree.
    assert match_lab_results([LabResult('钾', '4')], [LabResult('', '4')], .6) == [(0, 0)]
    assert match_lab_results([LabResult('', '4'), LabResult('', '5')],
                             [LabResult('', '5'), LabResult('', '4')], .6) == [(0, 1), (1, 0)]


def test_repeated_names_are_matched_by_their_cells():
    gold = [LabResult('白细胞', '5.2', '', '10^9/L'), LabResult('白细胞', '3', '0-5', '/HPF')]
    assert match_lab_results(gold, gold[::-1], .6) == [(0, 1), (1, 0)]
    assert match_lab_results(gold, gold[1:], .6) == [(1, 0)]


def test_possible_synonyms():
    gold = [LabResult('丙氨酸氨基转移酶', '35', '9-50', 'U/L'), LabResult('钾', '4.1'), LabResult('氯', '100')]
    predicted = [LabResult('ALT', '35', '9~50', 'u/l'), LabResult('K+', '4.10'), LabResult('Na', '140')]
    pairs = match_lab_results(gold, predicted, .6)
    assert pairs == [] and possible_synonyms(gold, predicted, pairs) == [(0, 0), (1, 1)]
    assert possible_synonyms(gold, predicted, [(0, 0)]) == [(1, 1)]


def test_matches_are_one_to_one_and_similar():
    generator = np.random.default_rng(2)
    pool = ['白细胞', '红细胞', '血红蛋白', 'WBC', '白细胞(WBC)', '血小板', '血小板计数', '']
    for _ in range(100):
        gold, predicted = ([LabResult(pool[i], str(generator.integers(3))) for i in generator.integers(0, len(pool), n)]
                           for n in generator.integers(0, 6, 2))  # yapf: disable
        pairs = match_lab_results(gold, predicted, .6)
        assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
        for i, j in pairs:
            assert gold[i].entry_name == predicted[j].entry_name or name_similarity(
                gold[i].entry_name.casefold(), predicted[j].entry_name.casefold()) >= .6 or len(gold) == 1
