"""Two evaluations of the same rows are compared; of other rows, tasks or options they are refused."""
import functools
import json
import pytest
from support.scored import NumbersTask, evaluate_numbers, number_answers, number_rows

from swift_citrusv.scoring import compare as comparing
from swift_citrusv.scoring.compare import compare, comparison_json, comparison_lines, read_scores
from swift_citrusv.scoring.evaluate import evaluation_json


@pytest.fixture
def evaluated(tmp_path):
    return functools.partial(evaluate_numbers, tmp_path)


def scores_of_runs(evaluated, rows, *runs):
    return [json.loads(json.dumps(evaluation_json(evaluated(rows, run), 'x'))) for run in runs]


@pytest.fixture
def numbers_task(monkeypatch):
    monkeypatch.setattr(comparing, 'task_class', lambda name: NumbersTask)


def test_compare(evaluated, numbers_task):
    rows = number_rows(40)
    one, two = scores_of_runs(evaluated, rows, number_answers(rows, 20), number_answers(rows, 10)[::-1])
    found = compare(one, two, repeats=400)
    assert found['near'].first == pytest.approx(.8) and found['near'].second == pytest.approx(.9)
    assert found['near'].p_value < .01 and found['near'].low == pytest.approx(.1) and found['near'].clusters == 20
    assert compare(one, one)['near'].p_value == 1
    lines = comparison_lines(NumbersTask(), found)
    assert lines[1].split()[:4] == ['near', '80.00', '90.00', '10.00']
    assert json.loads(json.dumps(comparison_json(found), allow_nan=False))['far']['first'] == 20


def test_compare_refuses_what_is_not_the_same(evaluated, numbers_task, tmp_path):
    rows = number_rows(10)
    one, = scores_of_runs(evaluated, rows, number_answers(rows))
    two, = scores_of_runs(evaluated, rows[:8], number_answers(rows, 1)[:8])
    with pytest.raises(ValueError, match=r'2 rows are in one file only, e.g. ref.jsonl:10.*--common'):
        compare(one, two)
    assert compare(one, two, common=True, repeats=20)['near'].clusters == 4
    with pytest.raises(ValueError, match='The tasks of the two files differ: numbers and qa'):
        compare(one, {**one, 'task': 'qa'})
    with pytest.raises(ValueError, match='The options of the two files differ'):
        compare(one, {**one, 'options': {'digits': 3}})
    with pytest.raises(ValueError, match='no row in common'):
        compare(one, {**one, 'per_case': {**one['per_case'], 'row': ['x'] * len(one['per_case']['row'])}})
    clusters = [name + 'x' for name in one['per_case']['cluster']]
    clusters[0] += 'y'
    with pytest.raises(ValueError, match='same --cluster'):
        compare(one, {**one, 'per_case': {**one['per_case'], 'cluster': clusters}})
    for text, message in (('{', 'is not JSON'), ('{}', 'is not a scores.json'), ('[]', 'is not a scores.json')):
        (tmp_path / 'bad.json').write_text(text)
        with pytest.raises(ValueError, match=message):
            read_scores(str(tmp_path / 'bad.json'))


def test_tasks_are_found_by_name():
    for name in comparing.TASK_MODULES:
        assert comparing.task_class(name).NAME == name
    with pytest.raises(ValueError, match="no task 'nonsense'"):
        comparing.task_class('nonsense')
