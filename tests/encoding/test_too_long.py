"""Too-long rows: the error says what fills the row, and each remedy that it names makes the row fit, mask and all."""
import pytest
import re
import torch
from PIL import Image
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from swift.template import MaxLengthError
from typing import Any

from swift_citrusv.encoding.row_length import measure
from swift_citrusv.encoding.too_long import image_tokens
from swift_citrusv.errors import RowError

WORDS = ' '.join(['the cell and the bone'] * 12)


@pytest.fixture(scope='module')
def rows(tmp_path_factory) -> dict[str, dict[str, Any]]:
    maker = Maker(tmp_path_factory.mktemp('images'))
    masks = {
        'a large image': ((280, 420), 'It is [SEG].'),
        'a long text': ((56, 56), f'{WORDS} It is [SEG].'),
        'both': ((200, 300), f'It is [SEG]. {WORDS}'),
    }
    made = {
        name: maker.row('<image>Segment.', answer, images=[maker.image(*size)], masks=[maker.mask(*size)])
        for name, (size, answer) in masks.items()
    }
    made['two images of other sizes'] = maker.row(
        '<image><image>Both?', f'[SEG] and [SEG]. {WORDS}', images=[maker.image(140, 280), maker.image(56, 40)],
        masks=[maker.mask(56, 40), maker.mask(140, 280)], mask_images=[1, 0])  # yapf: disable
    made['text alone'] = maker.row('What is a cell?', WORDS)
    made['a large image without masks'] = maker.row('<image>What?', 'A cell.', images=[maker.image(400, 280)])
    made['a narrow image'] = maker.row('<image>What?', '[SEG]', images=[maker.image(30, 2800)],
                                       masks=[maker.mask(30, 2800)])  # yapf: disable
    made['an image with its own size'] = {
        **made['a large image'], 'chat_template_kwargs': {'resized_height': 280, 'resized_width': 280}
    }  # yapf: disable
    return made


def error_of(template, row: dict[str, Any]) -> str:
    with pytest.raises((MaxLengthError, RowError)) as error:
        template.encode({**row, 'citrusv_row': 'train.jsonl:7'}, return_length=True)
    with pytest.raises((MaxLengthError, RowError)) as again:
        measure(template, {**row, 'citrusv_row': 'train.jsonl:7'})
    assert str(again.value) == str(error.value)
    return str(error.value)


def settings_of(message: str) -> list[dict[str, Any]]:
    """The remedies of a message, in order, as settings of a template."""
    text = message.partition('. Use ')[2].partition(' Not --truncation')[0]
    found: list[dict[str, Any]] = []
    for remedy in text.split(', or '):
        flags = dict(re.findall(r'--(\w+) (\w+)', remedy))
        flags.pop('packing', None)
        found.append({name: int(value) if value.isdecimal() else value for name, value in flags.items()})
    assert found.pop() == {'strict': 'false'}
    return found


@pytest.mark.parametrize('strategy', ['raise', 'left', 'right', 'split'])
def test_each_remedy_helps(strategy, rows, make_template):
    num_remedies = 0
    for name, row in rows.items():
        whole = make_template().encode(row, return_length=True)
        is_image = sum(token == make_template().image_token_id for token in whole['input_ids'])
        for limit in (40, 60, 100):
            template = make_template(limit, truncation_strategy=strategy)
            try:
                encoded = template.encode(row, return_length=True)
            except (MaxLengthError, RowError):
                pass
            else:
                # Nothing that a mask needs is gone.
                parts = encoded if isinstance(encoded, list) else [encoded]
                assert sum(len(part.get('masks', ())) for part in parts) == len(row.get('masks', ())), name
                continue
            message = error_of(template, row)
            assert message.startswith('train.jsonl:7: ') and f'{len(whole["input_ids"])} tokens' in message, message
            assert (' of its ' in message.partition('. Use ')[0]) == bool(row.get('images')), message
            if row.get('images'):
                images = 'image' if len(row['images']) == 1 else f'{len(row["images"])} images'
                assert f'{is_image} of them of its {images}' in message
            remedies = settings_of(message)
            first = 'max_pixels' if 2 * is_image > len(whole['input_ids']) else 'max_length'
            names = [list(flags)[0] for flags in remedies]
            assert 'max_pixels' not in names or names[0] == first, message
            # Never advice to cut off a [SEG].
            assert not {'left', 'right'} & {flags.get('truncation_strategy') for flags in remedies}
            for flags in remedies:
                num_remedies += 1
                fits = make_template(**{'max_length': limit, 'truncation_strategy': 'raise', **flags})
                encoded = fits.encode(row, return_length=True)
                parts = encoded if isinstance(encoded, list) else [encoded]
                assert all(len(part['input_ids']) <= fits.max_length for part in parts), (name, flags)
                masks = [part['masks'] for part in parts if 'masks' in part]
                assert ('masks' in whole) == bool(masks), (name, flags)
                assert not masks or torch.equal(torch.cat(masks), whole['masks']), (name, flags)
            if is_image and len(whole['input_ids']) - is_image + 4 * len(row['images']) <= limit:
                assert ('max_pixels' in names) != ('chat_template_kwargs' in row), message
    assert num_remedies > 20


def test_tokens_of_an_image(make_template, tmp_path):
    """Against the template itself."""
    for size in ((280, 420), (33, 90), (500, 31), (28, 28)):
        Image.new('RGB', size).save(tmp_path / 'image.png')
        row = Maker(tmp_path).row('<image>What?', 'It.', images=[str(tmp_path / 'image.png')])
        for pixels in (900, 4000, 20000, 10**6):
            ids = make_template(max_pixels=pixels).encode(row)['input_ids']
            assert image_tokens(size, pixels, {}) == ids.count(make_template().image_token_id), (size, pixels)


def test_printed_remedies_in_a_run(rows, tiny_checkpoint, tmp_path):
    """Taken literally, one after another, until the run passes."""
    data = write_jsonl(tmp_path / 'train.jsonl', [rows['a large image'], rows['both'], rows['text alone']])
    flags: dict[str, str] = {'--max_length': '100', '--packing': 'true', '--gradient_accumulation_steps': '1'}
    used = []
    for _ in range(4):
        arguments = [part for pair in flags.items() for part in pair]
        try:
            watch = run_sft('--model', tiny_checkpoint, '--model_type', 'citrusv', '--dataset', data, '--output_dir',
                            str(tmp_path / 'out'), '--num_train_epochs', '1', *arguments)
            break
        except MaxLengthError as e:
            first = settings_of(str(e))[0]
            used.append(list(first)[0])
            flags.update({f'--{name}': str(value) for name, value in first.items()})
    assert used == ['max_pixels', 'max_length'] and sum(log.get('num_masks', 0) for log in watch.logs) == 2
