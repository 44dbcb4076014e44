"""Every prediction is joined with its row, or counted as a problem."""
import json
import numpy as np
import pickle
import pytest
import random
from support.row_formats import FORMATS

from swift_citrusv.errors import RowError
from swift_citrusv.scoring.pairing import Pairs, _longest_increasing


def write(path, rows):
    path.write_text(''.join(f'{row if isinstance(row, str) else json.dumps(row)}\n' for row in rows), encoding='utf-8')
    return str(path)


@pytest.fixture
def joined(tmp_path):

    def join(references, predictions, id_column=None):
        return Pairs(write(tmp_path / 'ref.jsonl', references), write(tmp_path / 'pred.jsonl', predictions), id_column)

    return join


def counts(pairs):
    return {kind: count for kind, count in pairs.problems.counts.items() if count}


def responses_of(pairs):
    return [(pairs.pair(i).prediction or {}).get('response') for i in range(len(pairs))]


ROWS = [{'id': i, 'answer': f'a{i}'} for i in range(6)]
ANSWERS = [{'id': i, 'response': f'a{i}'} for i in range(6)]


def test_join_by_id(joined):
    pairs = joined(ROWS, ANSWERS)
    assert pairs.how == "by 'id'" and not counts(pairs) and responses_of(pairs) == [f'a{i}' for i in range(6)]
    assert [pairs.pair(i).name for i in range(2)] == ['ref.jsonl:1', 'ref.jsonl:2']


@pytest.mark.parametrize('answers, found, responses', [
    (ANSWERS[1:], {'missing': 1}, [None, 'a1', 'a2', 'a3', 'a4', 'a5']),
    ([], {'missing': 6}, [None] * 6),
    (ANSWERS + [{'id': 2, 'response': 'late'}] * 2, {'doubled': 2}, [f'a{i}' for i in range(6)]),
    (ANSWERS[::-1], {'reordered': 5}, [f'a{i}' for i in range(6)]),
    (ANSWERS[:2] + ANSWERS[3:] + ANSWERS[2:3], {'reordered': 1}, [f'a{i}' for i in range(6)]),
    (ANSWERS + [{'id': 77, 'response': 'x'}], {'unknown': 1}, [f'a{i}' for i in range(6)]),
    (ANSWERS[:5] + ['{"id": 5, "resp'], {'malformed': 1, 'missing': 1}, ['a0', 'a1', 'a2', 'a3', 'a4', None]),
    (ANSWERS[:5] + ['[5]', '"x"'], {'malformed': 2, 'missing': 1}, ['a0', 'a1', 'a2', 'a3', 'a4', None]),
    (ANSWERS[:5] + [{'response': 'a5'}], {'malformed': 1, 'missing': 1}, ['a0', 'a1', 'a2', 'a3', 'a4', None]),
    (ANSWERS[:5] + [{'id': 5, 'error': 'too long'}], {'failed': 1}, ['a0', 'a1', 'a2', 'a3', 'a4', None]),
    ([{**answer, 'id': str(answer['id'])} for answer in ANSWERS], {}, [f'a{i}' for i in range(6)]),
    (ANSWERS[4:] + ['{'] + ANSWERS[1:3] * 2, {'reordered': 2, 'malformed': 1, 'doubled': 2, 'missing': 2},
     [None, 'a1', 'a2', None, 'a4', 'a5']),
])  # yapf: disable
def test_problems_are_counted(joined, answers, found, responses):
    pairs = joined(ROWS, answers)
    assert counts(pairs) == found and responses_of(pairs) == responses
    assert set(pairs.problems.examples) == set(found)


def test_join_by_citrusv_row(joined):
    answers = [{'citrusv_row': f'ref.jsonl:{i + 1}', 'response': f'a{i}'} for i in (2, 0, 1)]
    pairs = joined([{'answer': f'a{i}'} for i in range(3)], answers)
    assert pairs.how == "by 'citrusv_row'" and responses_of(pairs) == ['a0', 'a1', 'a2'] and counts(pairs) == {
        'reordered': 1
    }


def test_blank_lines_and_a_byte_order_mark(tmp_path):
    (tmp_path / 'ref.jsonl').write_bytes(b'\xef\xbb\xbf{"answer": "a"}\n\n  \n{"answer": "b"}\n')
    predictions = write(tmp_path / 'pred.jsonl', [{'citrusv_row': 'ref.jsonl:4', 'response': 'b'}])
    pairs = Pairs(str(tmp_path / 'ref.jsonl'), predictions)
    assert len(pairs) == 2 and responses_of(pairs) == [None, 'b']


def test_join_line_by_line(joined):
    rows = [{'answer': 'a'}] * 3
    pairs = joined(rows, [{'response': 'a'}, {'response': 'b'}, '{'])
    assert pairs.how == 'line by line' and responses_of(pairs) == ['a', 'b', None]
    assert counts(pairs) == {'malformed': 1, 'missing': 1}
    with pytest.raises(ValueError, match=r'has 2 lines and .* has 3, .*--id COLUMN'):
        joined(rows, [{'response': 'a'}] * 2)


def test_join_by_a_named_column(joined):
    rows = [{'study': f's{i}', 'id': 1} for i in range(3)]
    pairs = joined(rows, [{'study': f's{i}', 'response': str(i)} for i in (0, 2)], 'study')
    assert responses_of(pairs) == ['0', None, '2'] and counts(pairs) == {'missing': 1}
    with pytest.raises(ValueError, match="no 'study', the column of --id"):
        joined(rows, [{'id': 1}], 'study')
    with pytest.raises(RowError, match=r"ref.jsonl:2: the row has the 'id' 1, as ref.jsonl:1 has"):
        joined(rows, [{'id': 1}], 'id')
    with pytest.raises(RowError, match=r"ref.jsonl:1: the row has no 'name'"):
        joined(rows, [{'id': 1}], 'name')


def test_references_that_cannot_be_read(joined):
    with pytest.raises(RowError, match='ref.jsonl:2: the line is not JSON'):
        joined([{'id': 1}, '{'], [{'id': 1}])
    with pytest.raises(ValueError, match='has no rows'):
        joined([], [{'id': 1}])
    with pytest.raises(ValueError, match='No prediction belongs to a row: pred.jsonl:1: no row of ref.jsonl'):
        joined(ROWS, [{'id': 99}])


def test_references_beside_the_predictions(tmp_path):
    path = write(tmp_path / 'out.jsonl', [{'response': 'a', 'labels': 'a'}, {'error': 'no image', 'labels': 'b'}])
    pairs = Pairs(None, path)
    assert responses_of(pairs) == ['a', None] and counts(pairs) == {'failed': 1}
    with pytest.raises(RowError, match='bad.jsonl:1: the line is not JSON'):
        Pairs(None, write(tmp_path / 'bad.jsonl', ['{']))


def test_pairs_can_be_pickled(joined):
    pairs = joined(ROWS, ANSWERS)
    pairs.pair(0)
    again = pickle.loads(pickle.dumps(pairs))
    assert responses_of(again) == responses_of(pairs)


def test_longest_increasing():
    """Against the quadratic dynamic programme."""
    generator = random.Random(0)
    for length in range(12):
        for _ in range(20):
            values = generator.sample(range(30), length)
            best = np.ones(length, int)
            for i in range(length):
                for j in range(i):
                    if values[j] < values[i]:
                        best[i] = max(best[i], best[j] + 1)
            assert _longest_increasing(values) == best.max(initial=0)


@pytest.mark.parametrize('name', FORMATS)
def test_references_of_every_format(name, tmp_path):
    from support.row_formats import write as write_rows
    talk = [{'role': 'user', 'content': 'What?'}, {'role': 'assistant', 'content': 'A cell.'}]
    rows = [{'messages': talk, 'masks': [{'size': [2, 3], 'counts': '05010'}], 'study': f's{i}'} for i in range(4)]
    references = write_rows(tmp_path / 'A', name, rows)
    predictions = [{'citrusv_row': f'A/{references.name}:{i}', 'response': str(i)} for i in (1, 2, 4)]
    pairs = Pairs(str(references), write(tmp_path / 'pred.jsonl', predictions))
    assert responses_of(pairs) == ['1', '2', None, '4'] and pairs.how == "by 'citrusv_row'"
    copied = pickle.loads(pickle.dumps(pairs))
    pair = copied.pair(3)
    assert pair.name == f'{references.name}:4'
    assert {key: pair.reference[key] for key in rows[3]} == rows[3]
    copied.close()


def test_conversations_and_damaged_rows(tmp_path):
    talk = [{'from': 'human', 'value': 'What?'}, {'from': 'gpt', 'value': 'A cell.'}]
    references = write(tmp_path / 'ref.jsonl', [{'conversations': talk}])
    pairs = Pairs(references, write(tmp_path / 'pred.jsonl', [{'response': 'A cell.'}]))
    assert pairs.pair(0).reference['messages'][1] == {'role': 'assistant', 'content': 'A cell.'}
    (tmp_path / 'ref.csv').write_text('id,answer\n1,a\n2,b,c\n')
    with pytest.raises(RowError, match='^ref.csv:2: .*3 cells, but the header 2'):
        Pairs(str(tmp_path / 'ref.csv'), write(tmp_path / 'pred.jsonl', [{'id': 1, 'response': 'a'}]))


def test_names_of_rows_whose_file_was_elsewhere(tmp_path):
    """By folder and name; by the name alone where that is enough, as in files of earlier releases."""
    rows = [{'answer': str(i)} for i in range(3)]
    for folder in ('A', 'B'):
        (tmp_path / folder).mkdir()
    references = write(tmp_path / 'A' / 'x.jsonl', rows)
    for names in ('A/x.jsonl:{}', 'x.jsonl:{}', 'elsewhere/x.jsonl:{}'):
        predictions = [{'citrusv_row': names.format(i), 'response': str(i)} for i in (3, 1)]
        pairs = Pairs(references, write(tmp_path / 'B' / 'x.jsonl', predictions))
        assert responses_of(pairs) == ['1', None, '3'], names
        # The two files share a name.
        assert (pairs.pair(0).name, pairs.predictions.row_id(0)) == ('A/x.jsonl:1', 'B/x.jsonl:1')
    merged = [{'citrusv_row': f'{folder}/x.jsonl:1', 'answer': folder} for folder in ('A', 'B')]
    references = write(tmp_path / 'merged.jsonl', merged)
    predictions = [{'citrusv_row': f'{folder}/x.jsonl:1', 'response': folder} for folder in ('B', 'A')]
    assert responses_of(Pairs(references, write(tmp_path / 'pred.jsonl', predictions))) == ['A', 'B']
