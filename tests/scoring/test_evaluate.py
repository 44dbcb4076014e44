"""From two files to scores: counted, grouped, alike in any number of processes, and small in memory."""
import json
import numpy as np
import pytest
import tracemalloc
from support.scored import NumbersTask

from swift_citrusv.cli.eval import command as _cli_eval
from swift_citrusv.errors import RowError
from swift_citrusv.scoring import compare as comparing
from swift_citrusv.scoring.cases import Case, PredictionError
from swift_citrusv.scoring.compare import compare, comparison_json, comparison_lines, read_scores
from swift_citrusv.scoring.evaluate import EvaluationSettings, evaluate, evaluation_json, merge_clusters_by_image
from swift_citrusv.scoring.rows import answer_of, question_of, response_of, without_reasoning
from swift_citrusv.scoring.table import CaseTable
from swift_citrusv.scoring.terminal import align_columns, evaluation_lines, problem_lines


def write(path, rows):
    path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows), encoding='utf-8')
    return str(path)


def rows_of(number, seed=0, **columns):
    generator = np.random.default_rng(seed)
    return [{
        'id': f'r{i}',
        'numbers': [int(value) for value in generator.integers(-50, 50, 1 + i % 3)],
        'images': [f'{i // 2}.png'],
        'organ': ('liver', 'lung')[i % 2],
        **{name: values[i % len(values)] for name, values in columns.items()}
    } for i in range(number)]  # yapf: disable


@pytest.fixture
def evaluated(tmp_path):

    def run(rows, predictions, name='pred.jsonl', **settings):
        return evaluate(NumbersTask(), write(tmp_path / 'ref.jsonl', rows), write(tmp_path / name, predictions),
                        EvaluationSettings(**{
                            'repeats': 50,
                            **settings
                        }))

    return run


def answers(rows, away=0):
    return [{'id': row['id'], 'numbers': [number + away for number in row['numbers']]} for row in rows]


def test_scores_of_groups_and_all(evaluated):
    rows = rows_of(10)
    found = evaluated(rows, answers(rows[:5]) + answers(rows[5:], 10))
    near = [1.] * sum(len(row['numbers']) for row in rows[:5]) + [.9] * sum(len(row['numbers']) for row in rows[5:])
    assert found.scores['near'].value == pytest.approx(np.mean(near))
    assert found.scores['micro'].value == pytest.approx(near.count(1.) / len(near))
    assert found.scores['near'].count == len(near) == len(found.table) and found.scores['near'].clusters == 5
    assert found.clusters == 'images' and set(found.groups) == {'organ', 'sign'}
    for organ, number in (('liver', 0), ('lung', 1)):
        values = [value for i, row in enumerate(rows) if i % 2 == number
                  for value in [1. if i < 5 else .9] * len(row['numbers'])]  # yapf: disable
        assert found.groups['organ'][organ]['near'].value == pytest.approx(np.mean(values))
    organs = found.groups['organ'].values()
    assert found.macros['organ']['near'].value == pytest.approx(np.mean([scores['near'].value for scores in organs]))
    assert 'median' not in found.macros['organ']


def test_nothing_is_lost_in_silence(evaluated):
    rows = rows_of(6)
    given = answers(rows)
    given[1]['numbers'] = 'none'
    found = evaluated(rows, [given[4], *given[:4], given[0]])
    assert {kind: count for kind, count in found.problems.counts.items() if count} == {
        'missing': 1, 'doubled': 1, 'malformed': 1, 'reordered': 1}  # yapf: disable
    assert found.problems.examples['malformed'] == ["ref.jsonl:2: 'numbers' is 'none'."]
    # Rows without a prediction are cases all the same.
    assert len(found.table) == sum(len(row['numbers']) for row in rows)
    assert found.table.flag_counts() == {'nothing': len(rows[1]['numbers']) + len(rows[5]['numbers'])}
    assert found.scores['far'].count == found.scores['near'].count - found.table.flag_counts()['nothing']
    said = '\n'.join(problem_lines(found))
    for word in ('missing: 1', 'doubled: 1', 'malformed: 1', 'reordered: 1', 'nothing 5', 'ref.jsonl:6'):
        assert word in said, word


def test_any_number_of_processes(evaluated, monkeypatch):
    rows = rows_of(300, patient=['p1', 'p2', 'p3'])
    given = answers(rows, 3)[20:]
    one = evaluated(rows, given)
    monkeypatch.setattr('swift_citrusv.scoring.evaluate._MIN_ROWS_FOR_WORKERS', 10)
    two = evaluated(rows, given, workers=2)
    assert evaluation_json(one, 'x') == evaluation_json(two, 'x') and one.clusters == 'patient'
    with pytest.raises(RowError, match='ref.jsonl:301: the row has no numbers'):
        evaluated([*rows, {'id': 'bad', 'patient': 'p'}], given, workers=2)


def test_columns_of_the_user(evaluated):
    rows = rows_of(8, scanner=['A', 'B', None, 'B'], volume=[1, 2, 3, 4])
    found = evaluated(rows, answers(rows), by=('scanner', 'volume'), cluster='scanner')
    assert set(found.groups) == {'scanner', 'volume', 'sign'} and set(found.groups['scanner']) == {'A', 'B'}
    assert set(found.groups['volume']) == {'1', '2', '3', '4'}
    # Two rows say no scanner: each stands for itself.
    assert found.scores['near'].clusters == 4
    with pytest.raises(ValueError, match="ref.jsonl:1 has no column 'sex'; it has id, numbers, images, organ"):
        evaluated(rows_of(2), answers(rows_of(2)), by=('sex', ))


def test_rows_that_share_an_image_are_one_cluster():
    rows = ['["a"]', '["b", "c"]', '["d"]', 'x:5', '["c", "e"]', '["e"]', '["d", "a"]', 'x:6', '[{"path": "a"}]']
    assert merge_clusters_by_image(rows) == ['"a"', '"b"', '"a"', 'x:5', '"b"', '"b"', '"a"', 'x:6', '{"path": "a"}']
    assert merge_clusters_by_image(rows[::-1]) == merge_clusters_by_image(rows)[::-1]


def test_nothing_to_score(evaluated):
    with pytest.raises(ValueError, match='ref.jsonl has nothing that `citrusv eval numbers` scores, in any of its 2'):
        evaluated([{'id': 1, 'numbers': []}, {'id': 2, 'numbers': []}], [{'id': 1, 'numbers': []}])


def test_json_and_terminal(evaluated, tmp_path):
    rows = rows_of(12)
    found = evaluated(rows, answers(rows, 5)[:-1])
    content = evaluation_json(found, '1.2.3')
    text = json.dumps(content, allow_nan=False)
    _cli_eval.write_json(json.loads(text), str(tmp_path / 'scores.json'))
    assert read_scores(str(tmp_path / 'scores.json')) == content
    assert content['rules'] == NumbersTask().rules and content['options'] == {'digits': 2}
    assert content['interval']['drawn_together'] == 'images' and content['joined'] == "by 'id'"
    lines = evaluation_lines(found)
    assert lines[1].split('  ')[-1] == 'mean over sign' and '[' in lines[2] and lines[2].startswith('near')
    assert any(line.startswith('far (lower is better)') for line in lines)
    assert any(line.startswith('liver') for line in lines) and lines[-1] == 'flagged cases: nothing 3'
    assert align_columns([['a', '1'], ['肝', '22']]) == ['a    1', '肝  22']


def test_memory_is_flat(tmp_path):
    """Ten times as many rows with large references take little more: what is held is a few numbers a row."""

    def peak(number):
        rows = [{'id': i, 'numbers': [i], 'text': 'x' * 20000} for i in range(number)]
        files = write(tmp_path / 'ref.jsonl', rows), write(tmp_path / 'pred.jsonl', answers(rows))
        del rows
        tracemalloc.start()
        evaluate(NumbersTask(), *files, EvaluationSettings(repeats=0))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(1000) < 2**20 + 2000 * 1000 < peak(20) + 4 * 2**20


# ---- two runs


def scores_of_runs(evaluated, rows, *runs):
    return [json.loads(json.dumps(evaluation_json(evaluated(rows, run), 'x'))) for run in runs]


@pytest.fixture
def numbers_task(monkeypatch):
    monkeypatch.setattr(comparing, 'task_class', lambda name: NumbersTask)


def test_compare(evaluated, numbers_task):
    rows = rows_of(40)
    one, two = scores_of_runs(evaluated, rows, answers(rows, 20), answers(rows, 10)[::-1])
    found = compare(one, two, repeats=400)
    assert found['near'].first == pytest.approx(.8) and found['near'].second == pytest.approx(.9)
    assert found['near'].p_value < .01 and found['near'].low == pytest.approx(.1) and found['near'].clusters == 20
    assert compare(one, one)['near'].p_value == 1
    lines = comparison_lines(NumbersTask(), found)
    assert lines[1].split()[:4] == ['near', '80.00', '90.00', '10.00']
    assert json.loads(json.dumps(comparison_json(found), allow_nan=False))['far']['first'] == 20


def test_compare_refuses_what_is_not_the_same(evaluated, numbers_task, tmp_path):
    rows = rows_of(10)
    one, = scores_of_runs(evaluated, rows, answers(rows))
    two, = scores_of_runs(evaluated, rows[:8], answers(rows, 1)[:8])
    with pytest.raises(ValueError, match=r'2 rows are in one file only, e.g. ref.jsonl:10.*--common'):
        compare(one, two)
    assert compare(one, two, common=True, repeats=20)['near'].clusters == 4
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


# ---- small parts


def test_table_fills_what_is_missing():
    table = CaseTable()
    table.add_row('a', 'p', {'organ': 'liver'}, [Case({'x': 1.}), Case({'y': 2.}, ('odd', 'odd'), {'part': 'left'})])
    table.add_row('b', 'p', {}, [])
    table.add_row('c', 'q', {}, [Case({'x': 3.}, data=[1])])
    table.close()
    np.testing.assert_array_equal(table.columns['x'], [1, np.nan, 3])
    np.testing.assert_array_equal(table.columns['y'], [np.nan, 2, np.nan])
    assert table.groups == {'organ': ['liver', 'liver', ''], 'part': ['', 'left', '']}
    assert table.data == [None, None, [1]] and table.flag_counts() == {'odd': 1}
    assert [table.case_name(i) for i in range(3)] == ['a#1', 'a#2', 'c'] and table.rows.tolist() == [0, 0, 2]


@pytest.mark.parametrize('text, rest', [
    ('plain', 'plain'),
    ('<think>no</think>yes', 'yes'),
    ('<think>no</think>\n<answer> yes </answer>', 'yes'),
    ('<answer>a</answer> or <answer>b</answer>', 'b'),
    ('no</think>yes', 'yes'),
    ('<think>for ever', ''),
    ('<think>a</think>b<think>c</think>', 'b'),
    ('<answer>open', 'open'),
    ('<think><answer>draft</answer></think>final', 'final'),
    ('', ''),
])
def test_reasoning_is_taken_off(text, rest):
    assert without_reasoning(text) == rest


def test_rows_say_question_and_answer():
    row = {'messages': [{'role': 'user', 'content': '<image>Where?'}, {'role': 'assistant', 'content': 'Here.'}]}
    assert question_of(row) == 'Where?' and answer_of(row, 'r') == 'Here.'
    assert answer_of({**row, 'answer': 'There.'}, 'r') == 'There.' and question_of({'question': 'Q'}) == 'Q'
    assert answer_of({'query': 'Where?', 'response': 'Here.'}, 'r') == 'Here.'
    assert answer_of({**row, 'response': 'Here.', 'labels': 'There.'}, 'r') == 'There.'
    with pytest.raises(RowError, match='no answer'):
        answer_of({**row, 'response': 'Here.'}, 'a result of swift infer without labels')
    with pytest.raises(RowError, match="x.jsonl:3: the row has no answer"):
        answer_of({'messages': row['messages'][:1]}, 'x.jsonl:3')
    assert response_of({'response': 'a'}) == 'a' and response_of(None) is None
    assert response_of({'error': 'x', 'response': None}) is None
    with pytest.raises(PredictionError, match='12'):
        response_of({'response': 12})
