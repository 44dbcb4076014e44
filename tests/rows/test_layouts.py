"""Layouts of rows: each becomes the messages and images that ms-swift's own preprocessors make of it."""
import copy
import json
import pytest
from typing import Any

from swift_citrusv.errors import RowError
from swift_citrusv.rows.columns import check_columns, filled_columns
from swift_citrusv.rows.jsonl import parse_line
from swift_citrusv.rows.layouts import standard_row

MASKS = [{'size': [2, 3], 'counts': [1, 2, 3]}]
ASK, TELL = '<image>Segment the cell.', 'The cell: [SEG].'
TALK = [{'role': 'user', 'content': ASK}, {'role': 'assistant', 'content': TELL}]

LAYOUTS: dict[str, dict[str, Any]] = {
    'messages': {'messages': TALK, 'images': ['a.png']},
    'messages as text': {'messages': json.dumps(TALK), 'images': 'a.png'},
    'messages as Python text': {'messages': repr(TALK), 'image': 'a.png'},
    'one image': {'messages': TALK, 'image': 'a.png'},
    'image object': {'messages': TALK, 'image': {'bytes': None, 'path': 'a.png'}},
    'names in capitals': {'messages': TALK, 'Image': 'a.png', 'System': 'Be short.'},
    'LLaVA': {
        'id': '7', 'image': 'a.png',
        'conversations': [{'from': 'human', 'value': ASK}, {'from': 'gpt', 'value': TELL}]
    },
    'ShareGPT with a system turn': {
        'conversations': [{'from': 'system', 'value': 'Be short.'}, {'from': 'human', 'value': ASK},
                          {'from': 'gpt', 'value': TELL}],
        'images': ['a.png']
    },
    'ShareGPT with a system column': {
        'conversation': [{'from': 'user', 'value': ASK}, {'from': 'bot', 'value': TELL}],
        'system': 'Be short.', 'images': ['a.png']
    },
    'ShareGPT with tools': {
        'conversations': [{'from': 'human', 'value': ASK}, {'from': 'function_call', 'value': '{}'},
                          {'from': 'observation', 'value': '1'}, {'from': 'gpt', 'value': TELL}],
        'images': ['a.png']
    },
    'rounds': {'conversation': [{'human': ASK, 'assistant': TELL}], 'system_prompt': 'Hm.', 'image': 'a.png'},
    'other roles in messages': {
        'messages': [{'role': 'human', 'content': ASK}, {'role': 'gpt', 'content': TELL}], 'images': ['a.png']
    },
    'OpenAI tools': {
        'messages': [TALK[0], {'role': 'assistant', 'content': 'Wait.', 'tool_calls': [
            {'id': '1', 'type': 'function', 'function': {'name': 'find', 'arguments': '{"x": 1}'}}]},
            {'role': 'tool', 'tool_call_id': '1', 'content': 'found'}, TALK[1]],
        'images': ['a.png']
    },
    'Anthropic': {
        'messages': [
            {'role': 'user', 'content': [{'type': 'image', 'source': {'type': 'url', 'url': 'http://a/b.png'}},
                                         {'type': 'text', 'text': 'Segment.'}]},
            {'role': 'assistant', 'content': [{'type': 'text', 'text': TELL}, {
                'type': 'tool_use', 'id': '1', 'name': 'count', 'input': {'n': 1}}]},
            {'role': 'user', 'content': [{'type': 'tool_result', 'tool_use_id': '1', 'content': [
                {'type': 'text', 'text': '1'}]}]},
            {'role': 'assistant', 'content': 'One.'}]
    },
    'query and response': {'query': ASK, 'response': TELL, 'images': ['a.png']},
    'question and answer': {'question': ASK, 'answer': TELL, 'image': 'a.png', 'system': 'Be short.'},
    'prompt and completion': {'prompt': ASK, 'completion': TELL, 'image': 'a.png', 'mask_type': 'rle'},
    'several responses': {'query': ASK, 'response': [TELL, 'No.'], 'images': ['a.png']},
    'history': {'query': 'And now?', 'response': 'Grey.', 'history': [[ASK, TELL]], 'images': ['a.png']},
    'history as text': {'query': 'And now?', 'response': 'Grey.', 'history': repr([[ASK, TELL]]), 'images': ['a.png']},
    'Alpaca': {'instruction': 'Segment it.', 'input': '<image>', 'output': TELL, 'image': 'a.png'},
    'Alpaca without input': {'instruction': ASK, 'input': '', 'output': TELL, 'system': 'Hm.', 'images': ['a.png']},
    'instruction alone': {'instruction': ASK, 'output': TELL, 'images': ['a.png']},
    'text': {'text': TELL, 'image': 'a.png'},
}  # yapf: disable


def of_ms_swift(row: dict[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    from swift.dataset import AutoPreprocessor
    from swift.dataset.preprocessor import RowPreprocessor

    from swift_citrusv.cli.encoder import _ColumnNames
    names = _ColumnNames(columns)
    preprocessor = AutoPreprocessor()._get_preprocessor(names)
    RowPreprocessor.safe_rename_columns(names, preprocessor.columns)
    batch = {names.new_names.get(key, key): [copy.deepcopy(row.get(key))] for key in columns}
    result = preprocessor.batched_preprocess(batch, strict=True, ignore_max_length_error=False)
    return {key: values[0] for key, values in result.items()}


def paths(images: Any) -> list[str]:
    return [image if isinstance(image, str) else image['path'] for image in images or []]


@pytest.mark.parametrize('name', LAYOUTS)
def test_layouts_are_those_of_ms_swift(name):
    row = LAYOUTS[name]
    before = copy.deepcopy(row)
    ours, wanted = standard_row(row, 'row'), of_ms_swift(row, tuple(row))
    assert row == before
    shown = [(turn['role'], turn['content']) for turn in ours['messages']]
    expected = [(turn['role'], turn['content']) for turn in wanted['messages']]
    assert (ours is row) == (name == 'messages')
    if name == 'OpenAI tools':
        # What a tool is called with is no text of an answer.
        shown, expected = ([turn for turn in turns if turn[0] != 'tool_call'] for turns in (shown, expected))
    assert shown == expected
    assert paths(ours.get('images')) == paths(wanted['images']) != []
    # And with masks, the row is accepted from JSONL.
    assert parse_line(json.dumps({**row, 'masks': MASKS}), 'row')['masks'] == MASKS


@pytest.mark.parametrize('name', [name for name in LAYOUTS if name not in ('text', )])
def test_masks_are_counted_in_every_layout(name):
    with pytest.raises(RowError, match=r"'masks' has 2 entries, but the assistant turns have \[SEG\] 1 times") as error:
        parse_line(json.dumps({**LAYOUTS[name], 'masks': 2 * MASKS}), 'row')
    assert error.value.kind == 'mask-count'


def test_columns_of_other_rows():
    """A column that ms-swift does not rename because of another column of the file is an error."""
    for row, columns, lost in (
        ({'question': 'a', 'answer': 'b'}, ('question', 'answer', 'solution'), 'answer'),
        ({'question': 'a', 'response': 'b'}, ('question', 'prompt', 'response'), 'question'),
        ({'query': 'a', 'response': 'b'}, ('query', 'question', 'response', 'text'), None),
        ({'instruction': 'a', 'output': 'b'}, ('instruction', 'input', 'output'), None),
        ({'chat;image': 'a'}, ('chat;image', ), 'no conversation'),
    ):  # yapf: disable
        if lost is None:
            assert of_ms_swift(row, columns)['messages'][0] == {'role': 'user', 'content': 'a'}, columns
            check_columns(filled_columns(row), columns, 'row')
            continue
        with pytest.raises(RowError, match=lost) as error:
            check_columns(filled_columns(row), columns, 'row')
        assert error.value.kind == 'columns' and '--columns' in error.value.remedy, columns


def test_rows_that_have_not_the_layout_of_their_columns():
    for row, words in (
        ({'instruction': None, 'input': None, 'output': '[SEG]'}, "'instruction' is None"),
        ({'query': 'a', 'response': '[SEG]', 'history': 'no'}, "'history' is 'no'"),
        ({'image': 'a.png'}, "no conversation in the columns .'images', 'masks'"),
    ):  # yapf: disable
        with pytest.raises(RowError, match=words) as error:
            parse_line(json.dumps({**row, 'masks': MASKS}), 'row')
        assert error.value.kind in ('layout', 'columns'), row
