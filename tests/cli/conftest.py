"""Answers of `citrusv segment`, shared by the tests of its modules."""
import pytest
import torch
from PIL import Image
from support.rows import Maker, write_jsonl
from support.segment import MAX_TOKENS, segment
from support.serving import deployed
from typing import Any

from swift_citrusv import CitrusVPipeline


@pytest.fixture(scope='session')
def pipe(talkative_checkpoint) -> CitrusVPipeline:
    return CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32, batch_size=4)


@pytest.fixture(scope='session')
def segment_data(tmp_path_factory) -> str:
    """A file of rows: text alone, one and several images of several formats and sizes, several turns, labels."""
    maker = Maker(tmp_path_factory.mktemp('segment'))
    jpeg, palette, transparent = (str(maker.folder / name) for name in ('a.jpg', 'b.png', 'c.png'))
    with Image.open(maker.image(90, 130)) as image:
        image.save(jpeg)
        image.convert('P').save(palette)
        image.convert('RGBA').save(transparent)
    image, mask, row = maker.image, maker.mask, maker.row
    rows = [
        row('<image>Segment the cell.', 'The cell: [SEG].', images=[image()], masks=[mask()]),
        row('What is a cell? ' * 6),
        row('<image>Segment the nucleus.', images=[image(120, 200)]),
        row('First <image> and then <image>: segment the cell in image 1 and in image 2.', images=[image(), jpeg]),
        row('<image>What does [SEG] mean? [SEG] [SEG]', images=[palette]),
        row('Segment the dark spot.', images=[transparent]),
        row('<image>Segment the cell.',
            'The cell: [SEG].',
            '<image>And here?',
            'Here: [SEG].',
            images=[image(), image()],
            masks=[mask(), mask()],
            mask_images=[0, 1]),
        row('<image>请分割细胞核。', '细胞核：[SEG]。', images=[image()], masks=[mask()], system='Be brief.', source='ours'),
        row('<image>Segment the vessel.', images=[image(60, 60)]),
        row('<image>Segment the bone.', images=[jpeg]),
    ]
    return write_jsonl(maker.folder / 'rows.jsonl', rows)


@pytest.fixture(scope='session')
def one_pass(pipe, segment_data, tmp_path_factory) -> list[dict[str, Any]]:
    """Results with text and masks from one engine."""
    return segment(pipe, segment_data, tmp_path_factory.mktemp('out') / 'one.jsonl', '--max-tokens', str(MAX_TOKENS))


@pytest.fixture(scope='session')
def server_url(talkative_checkpoint):
    with deployed(talkative_checkpoint, '--max_batch_size', '4') as server:
        yield server.url
