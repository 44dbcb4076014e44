"""From two files to scores: counts, groups, any number of processes, and memory."""
import functools
import json
import numpy as np
import pytest
import tracemalloc
from support.rows import write_jsonl
from support.scored import NumbersTask, evaluate_numbers, number_answers, number_rows

from swift_citrusv.cli.eval import command as _cli_eval
from swift_citrusv.errors import RowError
from swift_citrusv.scoring.compare import read_scores
from swift_citrusv.scoring.evaluate import EvaluationSettings, evaluate, evaluation_json, merge_clusters_by_image
from swift_citrusv.scoring.terminal import align_columns, evaluation_lines, problem_lines


@pytest.fixture
def evaluated(tmp_path):
    return functools.partial(evaluate_numbers, tmp_path)


def test_scores_of_groups_and_all(evaluated):
    rows = number_rows(10)
    found = evaluated(rows, number_answers(rows[:5]) + number_answers(rows[5:], 10))
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


def test_problems_of_predictions_are_counted(evaluated):
    rows = number_rows(6)
    given = number_answers(rows)
    given[1]['numbers'] = 'none'
    found = evaluated(rows, [given[4], *given[:4], given[0]])
    assert {kind: count for kind, count in found.problems.counts.items() if count} == {
        'missing': 1, 'doubled': 1, 'malformed': 1, 'reordered': 1}  # yapf: disable
    assert found.problems.examples['malformed'] == ["ref.jsonl:2: 'numbers' is 'none'."]
    # Rows without a prediction have cases, too.
    assert len(found.table) == sum(len(row['numbers']) for row in rows)
    assert found.table.flag_counts() == {'nothing': len(rows[1]['numbers']) + len(rows[5]['numbers'])}
    assert found.scores['far'].count == found.scores['near'].count - found.table.flag_counts()['nothing']
    said = '\n'.join(problem_lines(found))
    for word in ('missing: 1', 'doubled: 1', 'malformed: 1', 'reordered: 1', 'nothing 5', 'ref.jsonl:6'):
        assert word in said, word


def test_any_number_of_processes(evaluated, monkeypatch):
    rows = number_rows(300, patient=['p1', 'p2', 'p3'])
    given = number_answers(rows, 3)[20:]
    one = evaluated(rows, given)
    monkeypatch.setattr('swift_citrusv.scoring.evaluate._MIN_ROWS_FOR_WORKERS', 10)
    two = evaluated(rows, given, workers=2)
    assert evaluation_json(one, 'x') == evaluation_json(two, 'x') and one.clusters == 'patient'
    with pytest.raises(RowError, match='ref.jsonl:301: the row has no numbers'):
        evaluated([*rows, {'id': 'bad', 'patient': 'p'}], given, workers=2)


def test_group_and_cluster_columns(evaluated):
    rows = number_rows(8, scanner=['A', 'B', None, 'B'], volume=[1, 2, 3, 4])
    found = evaluated(rows, number_answers(rows), by=('scanner', 'volume'), cluster='scanner')
    assert set(found.groups) == {'scanner', 'volume', 'sign'} and set(found.groups['scanner']) == {'A', 'B'}
    assert set(found.groups['volume']) == {'1', '2', '3', '4'}
    # Two rows have no scanner: each is its own cluster.
    assert found.scores['near'].clusters == 4
    with pytest.raises(ValueError, match="ref.jsonl:1 has no column 'sex'; it has id, numbers, images, organ"):
        evaluated(number_rows(2), number_answers(number_rows(2)), by=('sex', ))


def test_rows_that_share_an_image_are_one_cluster():
    rows = ['["a"]', '["b", "c"]', '["d"]', 'x:5', '["c", "e"]', '["e"]', '["d", "a"]', 'x:6', '[{"path": "a"}]']
    assert merge_clusters_by_image(rows) == ['"a"', '"b"', '"a"', 'x:5', '"b"', '"b"', '"a"', 'x:6', '{"path": "a"}']
    assert merge_clusters_by_image(rows[::-1]) == merge_clusters_by_image(rows)[::-1]


def test_nothing_to_score(evaluated):
    with pytest.raises(ValueError, match='ref.jsonl has nothing that `citrusv eval numbers` scores, in any of its 2'):
        evaluated([{'id': 1, 'numbers': []}, {'id': 2, 'numbers': []}], [{'id': 1, 'numbers': []}])


def test_json_and_terminal(evaluated, tmp_path):
    rows = number_rows(12)
    found = evaluated(rows, number_answers(rows, 5)[:-1])
    content = evaluation_json(found, '1.2.3')
    text = json.dumps(content, allow_nan=False)
    _cli_eval.write_json(json.loads(text), str(tmp_path / 'scores.json'))
    assert read_scores(str(tmp_path / 'scores.json')) == content
    assert content['rules'] == NumbersTask().rules and content['options'] == {'digits': 2}
    assert content['interval']['drawn_together'] == 'images' and content['joined'] == "by 'id'"
    lines = evaluation_lines(found)
    assert lines[1].split('  ')[-1] == 'mean over sign' and '[' in lines[2] and lines[2].startswith('near')
    assert any(line.startswith('far, lower is better') for line in lines)
    assert any(line.startswith('liver') for line in lines) and lines[-1] == 'flagged cases: nothing 3'
    # Cases have their own ids beside file and line.
    assert content['per_case']['id'][0] == str(rows[0]['id']) and content['per_case']['row'][0] == 'ref.jsonl:1'
    assert found.table.case_name(0) == f'{rows[0]["id"]} (ref.jsonl:1)'
    assert align_columns([['a', '1'], ['肝', '22']]) == ['a    1', '肝  22']


def test_memory_is_flat(tmp_path):
    """Memory is a few numbers per row, however large the references are."""

    def peak(number):
        rows = [{'id': i, 'numbers': [i], 'text': 'x' * 20000} for i in range(number)]
        files = write_jsonl(tmp_path / 'ref.jsonl', rows), write_jsonl(tmp_path / 'pred.jsonl', number_answers(rows))
        del rows
        tracemalloc.start()
        evaluate(NumbersTask(), *files, EvaluationSettings(repeats=0))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(1000) < 2**20 + 2000 * 1000 < peak(20) + 4 * 2**20
