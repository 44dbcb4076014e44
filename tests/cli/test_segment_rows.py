"""Input and output files of `citrusv segment`: given answers, and results of other data."""
import pytest
from support.rows import Maker, write_jsonl
from support.segment import lines_of, segment, segment_given_texts

from swift_citrusv.errors import RowError


def test_answers_from_a_file(pipe, segment_data, one_pass, tmp_path):
    expected = segment_given_texts(pipe, segment_data, one_pass, tmp_path)
    # A result file also has answers.
    backwards = write_jsonl(tmp_path / 'back.jsonl', expected[::-1])
    assert segment(pipe, segment_data, tmp_path / 'again.jsonl', '--text', backwards) == expected
    cases = [
        (expected[:-1], 'texts.jsonl has no answer to it'),
        ([*expected, expected[0]], "citrusv_row.*rows.jsonl:1', which another line also has"),
        ([{**expected[0], 'citrusv_row': 'x:1'}], "'x:1', which no row"),
        ([{'response': None}], "texts.jsonl:1: 'response' is 'None'"),
        ([{'response': 'a', 'token_ids': [-1]}], "'token_ids' is"),
        ([{'response': 'a'}] * 3, f'3 answers without .* for {len(expected)} rows'),
    ]  # yapf: disable
    for lines, problem in cases:
        texts = write_jsonl(tmp_path / 'texts.jsonl', lines)
        with pytest.raises(ValueError, match=problem):
            segment(pipe, segment_data, tmp_path / 'no.jsonl', '--text', texts)


def test_results_of_other_data_are_rejected(pipe, tmp_path):
    maker = Maker(tmp_path)
    data, output = tmp_path / 'rows.jsonl', tmp_path / 'out.jsonl'
    flags = ['--max-tokens', '2']
    segment(pipe, write_jsonl(data, [maker.row('One?'), maker.row('Two?')]), output, *flags)
    for rows, problem in (([maker.row('One?'), maker.row('Three?')], 'rows.jsonl:2: .*answer to another question'),
                          ([maker.row('One?')], 'rows.jsonl:2: .*no such row')):
        with pytest.raises(RowError, match=problem):
            segment(pipe, write_jsonl(data, rows), output, *flags)
    assert len(lines_of(output)) == 2
    with pytest.raises(RowError, match='out.jsonl:1: .*not a result'):
        output.write_text('{}\n')
        segment(pipe, str(data), output, *flags)
