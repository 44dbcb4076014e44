"""Questions, reference answers and responses are found in the layouts of rows."""
import pytest

from swift_citrusv.errors import RowError
from swift_citrusv.scoring.cases import PredictionError
from swift_citrusv.scoring.rows import answer_of, question_of, response_of, without_reasoning


def test_reasoning_is_removed():
    for text, rest in {
            'plain': 'plain',
            '<think>no</think>yes': 'yes',
            '<think>no</think>\n<answer> yes </answer>': 'yes',
            '<answer>a</answer> or <answer>b</answer>': 'b',
            'no</think>yes': 'yes',
            '<think>for ever': '',
            '<think>a</think>b<think>c</think>': 'b',
            '<answer>open': 'open',
            '<think><answer>draft</answer></think>final': 'final',
            '': '',
    }.items():
        assert without_reasoning(text) == rest, text


def test_question_answer_and_response():
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
