"""Lengths of rows: measured, and by the full encode."""
import base64
import json
import numpy as np
from pathlib import Path
from PIL import Image
from support.rows import Maker, rle
from swift.template import MaxLengthError

from swift_citrusv.encoding.row_length import measure
from swift_citrusv.errors import RowError


def full_lengths(template, row) -> list[tuple[int, int, int]]:
    """Length, vision tokens and segmentation images of each chunk, from the tensors of the full encode."""
    encoded = template.encode(row, return_length=True)
    chunks = encoded if isinstance(encoded, list) else [encoded]
    vision = (template.image_token_id, template.video_token_id)
    return [(chunk['lengths'][0], sum(token in vision
                                      for token in chunk['input_ids']), len(chunk.get('g_pixel_values', ())))
            for chunk in chunks]


def measured_lengths(template, row) -> list[tuple[int, int, int]]:
    return [(chunk.length, chunk.vision_tokens, chunk.seg_images) for chunk in measure(template, row)]


def outcome(lengths, template, row):
    """What `lengths(template, row)` gives, or how it ends."""
    try:
        return lengths(template, row)
    except (RowError, MaxLengthError) as e:
        return type(e), str(e)


def assert_equal_lengths(template, rows) -> list:
    """Measures every row and encodes it; returns what both give."""
    outcomes = [outcome(full_lengths, template, row) for row in rows]
    for row, full in zip(rows, outcomes):
        assert outcome(measured_lengths, template, row) == full, row
    return outcomes


def tokens(outcomes: list) -> list[int]:
    """The lengths, where every row has one chunk."""
    assert all(isinstance(chunks, list) for chunks in outcomes), outcomes
    return [length for chunks in outcomes for length, _, _ in chunks]


def ask(*images, **columns):
    return Maker(Path('.')).row('<image>' * len(images) + 'What is it?', 'A cell.', images=list(images), **columns)


def video_rows(folder: Path) -> list[dict]:
    """Frames of several sizes and numbers; even, odd and single."""
    maker = Maker(folder / 'frames')

    def frames(count: int, height: int, width: int) -> list[str]:
        return [maker.image(height, width) for _ in range(count)]

    named = frames(2, 64, 48)
    return [
        maker.row('<video>What moves?', 'The cell.', videos=[frames(2, 84, 84)]),
        maker.row('<video>What moves?', 'The cell.', videos=[frames(5, 120, 200)]),
        maker.row('<video>What moves?', 'The cell.', videos=[frames(1, 300, 90)]),
        maker.row('<video><video>And here?', 'The cell.', videos=[frames(3, 60, 60),
                                                                  frames(7, 300, 420)]),
        maker.row('<video>What moves?', 'The cell.', videos=[[f'file://{name}' for name in named]]),
        maker.row('<video>What moves?', 'The cell.', videos=[[Image.open(name) for name in named]]),
        maker.row('<video>What moves?', 'The cell.', videos=[[data_url(named[0]), named[1]]]),
    ]


def data_url(path: str) -> str:
    return f'data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}'


def other_rows(maker: Maker) -> list[dict]:
    """Tools, boxes, systems, weights of the loss, empty masks and everything else that changes the text."""
    image = maker.image(100, 300)
    tool = {'name': 'measure', 'description': 'Measures.', 'parameters': {'type': 'object', 'properties': {}}}
    calls = [{
        'role': 'user',
        'content': '<image>How large is it? Not [SEG].'
    }, {
        'role': 'tool_call',
        'content': '{"name": "measure", "arguments": {"unit": "mm"}}'
    }, {
        'role': 'tool_response',
        'content': '{"size": 12}'
    }, {
        'role': 'assistant',
        'content': 'Twelve: [SEG].'
    }]
    return [
        {'messages': calls, 'tools': json.dumps([tool]), 'images': [image], 'masks': [maker.mask(100, 300)]},
        maker.row('<image>Find <ref-object>.', 'It is at <bbox>.', images=[image],
                  objects={'ref': ['the cell'], 'bbox': [[10, 20, 299, 99]]}),
        maker.row('<image>Find <ref-object>.', 'It is at <bbox>.', images=[image],
                  objects={'ref': ['the cell'], 'bbox': [[.1, .2, .9, .9]], 'bbox_type': 'norm1'}),
        maker.row('Without a tag.', 'An answer.', images=[image, image]),
        {'messages': [{'role': 'system', 'content': 'You see [SEG].'}, *maker.row('Hi', 'Hello')['messages']]},
        maker.row('<image>Is it there?', 'No: [SEG].', images=[image], masks=[rle(np.zeros((100, 300)))]),
        maker.row('<image>Segment.', '[SEG]', images=[image],
                  masks=json.dumps([[[1, 1, 60, 1, 60, 60]]]), mask_images='[0]'),
    ]  # yapf: disable
