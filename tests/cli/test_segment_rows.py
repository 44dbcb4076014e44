"""Input and output files of `citrusv segment`: given answers, and results of other data."""
import json
import pyarrow as pa
import pytest
from pathlib import Path
from pyarrow import parquet
from support.row_formats import FORMATS, write
from support.rows import Maker, write_jsonl
from support.segment import lines_of, segment, segment_given_texts
from typing import Any

from swift_citrusv.cli.segment_rows import read_requests
from swift_citrusv.errors import RowError
from swift_citrusv.files.images import open_image
from swift_citrusv.rows.names import RowNames


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


@pytest.mark.parametrize('name', FORMATS)
def test_rows_of_every_format(name, tmp_path):
    rows = [row for row in Maker(tmp_path / 'images').every_kind() if not ('structs' in name and row.get('videos'))]
    wanted: list[Any] = list(read_requests(write_jsonl(tmp_path / 'rows.jsonl', rows)))
    path = write(tmp_path / 'A', name, rows)
    for source in (path, path.parent):
        found: list[Any] = list(read_requests(str(source)))
        assert [request.name for request in found] == [f'A/{path.name}:{i + 1}' for i in range(len(rows))]
        for ours, other in zip(found, wanted):
            assert (ours.digest, ours.labels, ours.targets) == (other.digest, other.labels, other.targets)
            json.dumps(ours.line(response='x'))


def test_other_layouts_and_images_in_the_file(tmp_path):
    file = Path(Maker(tmp_path / 'images').image())
    rows = [{'query': '<image>Segment.', 'response': '[SEG]', 'image': {'bytes': file.read_bytes(), 'path': 'a.png'},
             'masks': '[[[1, 1, 40, 1, 40, 50]]]'}]  # yapf: disable
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / 'a.parquet')
    request: Any
    request, = read_requests(str(tmp_path / 'a.parquet'))
    assert request.row['messages'] == [{'role': 'user', 'content': '<image>Segment.'}] and request.labels == '[SEG]'
    assert request.targets == {'label_masks': [[[1, 1, 40, 1, 40, 50]]]}
    image, = json.loads(json.dumps(request.line(response='x')))['images']
    assert open_image(image).tobytes() == open_image(str(file)).tobytes()


def test_rows_are_found_by_name():
    names = RowNames(['A/x.jsonl:1', 'B/x.jsonl:1', 'A/x.jsonl:2'])
    cases = {'B/x.jsonl:1': 'B/x.jsonl:1', 'x.jsonl:1': None, 'C/x.jsonl:1': None, 'x.jsonl:2': 'A/x.jsonl:2',
             'y/C/x.jsonl:2': 'A/x.jsonl:2', 'x.jsonl:3': None}  # yapf: disable
    for given, found in cases.items():
        assert names.find(given) == found, given
