"""Bad rows and settings end in an error that names the row (or the setting), the value and the remedy.

Every row goes the way of training: the JSONL is read, the row is encoded by the template, in strict mode.
"""
import json
import numpy as np
import pytest
import torch
from pathlib import Path
from PIL import Image
from rows import Maker, box_mask, rle, write_jsonl
from swift.template import MaxLengthError
from swift_run import run_sft
from unittest.mock import Mock

from swift_citrusv.constants import ROW_COLUMN
from swift_citrusv.errors import RowError, SettingError

GOOD_SIZE = (84, 84)
MASK = rle(box_mask(GOOD_SIZE, (5, 5, 40, 40)))


@pytest.fixture(scope='module')
def template(tiny_checkpoint):
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.register import register
    register()
    _, processor = get_model_processor(tiny_checkpoint, model_type='citrusv', load_model=False)
    template = get_template(processor, max_length=512)
    template.set_mode('train')
    return template


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    Maker(folder).image()
    good = (folder / 'image_0.png').rename(folder / 'good.png')
    (folder / 'truncated.png').write_bytes(good.read_bytes()[:-400])
    (folder / 'empty.png').write_bytes(b'')
    (folder / 'page.png').write_text('<html>404 Not Found</html>')
    (folder / 'folder.png').mkdir()
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(folder / 'small_mask.png')
    Image.fromarray(np.full((*GOOD_SIZE, 3), 255, np.uint8)).save(folder / 'colour_mask.png')
    return folder


def _row(answer='The cell: [SEG].', question='<image>Segment the cell.', **columns):
    messages = [{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
    return {'messages': messages, 'images': ['good.png'], 'masks': [MASK], **columns}


# name -> (row, or a raw line; words that the message must hold)
BAD_ROWS = {
    'line is not JSON': ('{"messages": [', ['not JSON']),
    'line is not UTF-8': (b'{"messages": "\xff"}', ['UTF-8', 'ff']),
    'line with a huge integer': ('{"messages": ' + 5000 * '9' + '}', ['not JSON', '999']),
    'line nested too deeply': (3000 * '[{"a":', ['not JSON', 'nested']),
    'line is a list': ('[1, 2]', ['list']),
    'no messages': ({
        'messages': [],
        'masks': [MASK]
    }, ['messages']),
    'a message without role': (_row() | {
        'messages': [{
            'content': 'x'
        }]
    }, ['role']),
    'a message without content': (_row() | {
        'messages': [{
            'role': 'user'
        }]
    }, ['content']),
    'two [SEG], one mask': (_row('[SEG] and [SEG].'), ['2', '1']),
    'one [SEG], two masks': (_row(masks=[MASK, MASK]), ['1', '2']),
    '[SEG] only in the question': (_row('The cell.', '<image>Segment [SEG].'), ['0', '1']),
    'masks without an image': (_row(images=[]), ['image']),
    'masks on a video only': (_row(question='<video>Segment.', images=[], videos=['v.mp4']), ['video']),
    'two images, no mask_images': (_row(images=['good.png'] * 2), ['mask_images']),
    'mask_images too short': (_row(images=['good.png'] * 2, mask_images=[]), ['mask_images']),
    'mask_images out of range': (_row(images=['good.png'] * 2, mask_images=[2]), ['2']),
    'mask_images negative': (_row(images=['good.png'] * 2, mask_images=[-1]), ['-1']),
    'mask_images not a number': (_row(images=['good.png'] * 2, mask_images=['a']), ['a']),
    'mask_images without masks': (_row('A cell.', masks=None, mask_images=[0]), ['mask_images']),
    'masks is a number': (_row(masks=5), ['masks']),
    'mask of unknown form': (_row(masks=[{
        'foo': 1
    }]), ['foo']),
    'RLE of another size': (_row(masks=[rle(box_mask((40, 60), (5, 5, 20, 20)))]), ['40', '60', '84']),
    'RLE with a broken string': (_row(masks=[{
        'size': [84, 84],
        'counts': 'not an RLE'
    }]), ['masks[0]']),
    'RLE with negative runs': (_row(masks=[{
        'size': [84, 84],
        'counts': [-5, 7061]
    }]), ['-5']),
    'RLE that is too short': (_row(masks=[{
        'size': [84, 84],
        'counts': [10, 20]
    }]), ['7056']),
    'RLE bomb': (_row(masks=[{
        'size': [10**6, 10**6],
        'counts': [10**12]
    }]), ['1000000']),
    'polygon with an odd count': (_row(masks=[[[1, 2, 3, 4, 5]]]), ['masks[0]']),
    'polygon with a NaN': (_row(masks=[[[1, 2, 30, 4, float('nan'), 60]]]), ['nan']),
    'polygon outside the image': (_row(masks=[[[900, 900, 950, 900, 950, 950]]]), ['masks[0]']),
    'mask file missing': (_row(masks=[{
        'path': 'nowhere.png'
    }]), ['nowhere.png']),
    'mask file of another size': (_row(masks=[{
        'path': 'small_mask.png'
    }]), ['40', '84']),
    'label in a colour file': (_row(masks=[{
        'path': 'colour_mask.png',
        'label': 1
    }]), ['RGB']),
    'image is null': (_row(images=[None]), ['images[0]', 'None']),
    'image is a number': (_row('A cell.', masks=None, images=[5]), ['images[0]', '5']),
    'image part is a number': ({
        'messages': [{
            'role': 'user',
            'content': [{
                'type': 'image',
                'image': 5
            }]
        }, {
            'role': 'assistant',
            'content': 'A cell.'
        }]
    }, ['images[0]', '5']),
    'image that is not base64': (_row(images=['data:image/png,x']), ['data:image/png,x']),
    'more <image> than images': (_row(question='<image><image>Segment.'), ['<image> 2 times', '1 images']),
    '<image> in the answer': (_row('<image>: [SEG].'), ['<image> 2 times', '1 images']),
    '<image> without images': (_row('A cell.', images=None, masks=None), ['<image> 1 times', '0 images']),
    '<image> in the system turn': (_row('A cell.', masks=None) | {
        'messages': [{
            'role': 'system',
            'content': '<image>'
        }, *_row('A cell.')['messages']]
    }, ['<image> 2 times', '1 images']),
    'more <video> than videos': (_row(question='<video><image>Segment.'), ['<video> 1 times', '0 videos']),
    'no messages, where other rows have them': ({
        'query': 'Hello?',
        'response': 'Hello.'
    }, ['messages', 'drop']),
    "'image', where other rows have 'images'": ({
        'messages': _row('A cell.')['messages'],
        'image': 'good.png'
    }, ["'image'", "'images'"]),
    'a part without type': (_row('A cell.', [{
        'text': 'What is it?'
    }], masks=None, images=None), ['KeyError', 'type']),
    'images in parts and in the row': (_row(question=[{
        'type': 'image',
        'image': 'good.png'
    }]), ['AssertionError', 'good.png']),
    'image missing': (_row(images=['nowhere.png']), ['nowhere.png']),
    'image truncated': (_row(images=['truncated.png']), ['truncated.png']),
    'image of zero bytes': (_row(images=['empty.png']), ['empty.png']),
    'image is a web page': (_row(images=['page.png']), ['page.png']),
    'image is a folder': (_row(images=['folder.png']), ['folder.png']),
    'image of an ordinary row missing': (_row('A cell.', masks=None, images=['nowhere.png']), ['nowhere.png']),
    'row too long': (_row('word ' * 2000 + '[SEG].'), ['512', 'max_length']),
}


def _train(path: Path, template) -> None:
    from swift_citrusv.datasets import load_jsonl
    dataset = load_jsonl(str(path), strict=True, cache_dir=str(path.parent / 'cache'))
    for row in dataset:
        template.encode({key: value for key, value in row.items() if value is not None})


@pytest.mark.parametrize('name', BAD_ROWS)
def test_bad_row(name, template, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    bad, words = BAD_ROWS[name]
    line = json.dumps(bad) if isinstance(bad, dict) else bad
    path = tmp_path / 'train.jsonl'
    path.write_bytes(b'\n'.join([json.dumps(_row()).encode(), line.encode() if isinstance(line, str) else line]))
    with pytest.raises((RowError, MaxLengthError)) as error:
        _train(path, template)
    message = str(error.value)
    assert message.startswith('train.jsonl:2: ')
    for word in words:
        assert word in message, message
    # A remedy stands at the end.
    assert message.rstrip().endswith('.') and len(message) > len('train.jsonl:2') + 30


@pytest.mark.parametrize('name', ['image missing', 'two [SEG], one mask', 'row too long'])
def test_a_bad_row_is_tried_once(name, template, files, monkeypatch):
    from swift_citrusv import template as module
    monkeypatch.chdir(files)
    checked = Mock(side_effect=module.parse_row)
    monkeypatch.setattr(module, 'parse_row', checked)
    with pytest.raises((RowError, MaxLengthError), match='train.jsonl:7: '):
        template.encode({**BAD_ROWS[name][0], ROW_COLUMN: 'train.jsonl:7'})
    assert checked.call_count == 1


def test_other_errors_are_tried_as_ms_swift_does(template, files, monkeypatch):
    monkeypatch.chdir(files)
    calls = []

    def once_down(*args, **kwargs):
        calls.append(torch.is_inference_mode_enabled())
        if len(calls) < 3:
            raise ConnectionError('once more')
        return _encode_masks(*args, **kwargs)

    _encode_masks = template._encode_masks
    monkeypatch.setattr(template, '_encode_masks', once_down)
    assert 'masks' in template.encode(_row(), return_length=True)
    assert calls == [True] * 3
    monkeypatch.setattr(template, '_encode_masks', lambda *args, **kwargs: 1 / 0)
    with pytest.raises(RowError, match='row .no number.: ZeroDivisionError') as error:
        template.encode(_row())
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_fewer_tags_than_images(template, files, monkeypatch):
    monkeypatch.chdir(files)
    with_tag = template.encode(_row())
    assert template.encode(_row(question='Segment the cell.'))['input_ids'] == with_tag['input_ids']


def test_unknown_role_in_a_preprocessor(tmp_path):
    """ms-swift's own preprocessor refuses it, for a whole batch of rows at once."""
    from swift.dataset import load_dataset

    from swift_citrusv.patches import patch_dataset_loading
    patch_dataset_loading()
    rows = [{
        'messages': [{
            'role': role,
            'content': 'x'
        }, {
            'role': 'assistant',
            'content': 'y'
        }]
    } for role in ('user', 'doctor')]
    with pytest.raises(RowError, match='train.jsonl:2'):
        load_dataset([write_jsonl(tmp_path / 'train.jsonl', rows)], strict=True, load_from_cache_file=False)


def test_seg_lost_to_truncation(template, files, tmp_path, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setattr(template, 'truncation_strategy', 'right')
    with pytest.raises(RowError, match=r'train.jsonl:7.* 0 of the 1 \[SEG\] are left after truncation') as error:
        template.encode({**_row('word ' * 2000 + '[SEG].'), ROW_COLUMN: 'train.jsonl:7'})
    assert error.value.kind == 'truncation' and '--max_length' in str(error.value)


def test_lenient_run_skips_counts_and_trains(tiny_checkpoint, tmp_path, caplog):
    maker = Maker(tmp_path / 'images')
    rows = maker.every_kind()
    bad = [_row('[SEG] and [SEG].'), _row(images=['nowhere.png']), {**_row(), 'images': [maker.image(40, 60)]}]
    dataset = write_jsonl(tmp_path / 'train.jsonl', rows[:4] + bad + rows[4:])
    arguments = ('--model', tiny_checkpoint, '--model_type', 'citrusv', '--tuner_type', 'full', '--packing', 'true',
                 '--model_kwargs', '{"pack_images": 16}', '--gradient_accumulation_steps', '1', '--num_train_epochs',
                 '1', '--max_length', '2048')
    lenient = run_sft(*arguments, '--dataset', dataset, '--strict', 'false', '--output_dir', str(tmp_path / 'out'))
    text = caplog.text
    assert '1 of 15 rows were skipped (mask-count: 1)' in text and 'train.jsonl:5' in text
    assert '2 of 14 rows were skipped (image-unreadable: 1, mask-size: 1)' in text
    clean = run_sft(*arguments, '--dataset', write_jsonl(tmp_path / 'clean.jsonl', rows), '--output_dir',
                    str(tmp_path / 'clean'))
    assert lenient.logs[0]['num_masks'] == clean.logs[0]['num_masks'] == 11
    assert lenient.logs[0]['loss'] == pytest.approx(clean.logs[0]['loss'], rel=1e-6)
    with pytest.raises(ValueError, match='train.jsonl:5'):
        run_sft(*arguments, '--dataset', dataset, '--output_dir', str(tmp_path / 'strict'))


def _sft(checkpoint: str, tmp_path: Path, *arguments: str):
    dataset = write_jsonl(tmp_path / 'train.jsonl', Maker(tmp_path / 'images').every_kind())
    return run_sft('--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
                   str(tmp_path / 'out'), '--tuner_type', 'full', '--max_steps', '1', *arguments)


# name -> (arguments, words that the message must hold)
BAD_SETTINGS = {
    'seg_lr is a word': (['--model_kwargs', '{"seg_lr": "fast"}'], ['seg_lr', 'fast']),
    'seg_lr is negative': (['--model_kwargs', '{"seg_lr": -1}'], ['seg_lr', '-1']),
    'pack_images is 0': (['--model_kwargs', '{"pack_images": 0}', '--packing', 'true'], ['pack_images', '0']),
    'seg_lr without segmentation':
    (['--model_kwargs', '{"seg_lr": 1e-4}', '--freeze_parameters', 'segmenter',
      'seg_projector'], ['seg_lr', 'segmentation']),
    'vit_lr without ViT': (['--vit_lr', '1e-5', '--freeze_vit', 'true'], ['--vit_lr', 'ViT', '--freeze_vit false']),
    'nothing is trained':
    (['--freeze_llm', 'true', '--freeze_parameters', 'segmenter', 'seg_projector', 'model', 'lm_head'], ['trainable']),
    'a row longer than a pack': (['--packing', 'true', '--packing_length', '100'], ['100', '--packing_length']),
    'sequential packing': (['--packing', 'true', '--packing_strategy', 'sequential'], ['sequential']),
    'sequence parallel': (['--sequence_parallel_size', '2'], ['--sequence_parallel_size 2', '[SEG]']),
    'DFT loss': (['--enable_dft_loss', 'true'], ['--enable_dft_loss']),
    'attention that cannot pack': (['--packing', 'true', '--attn_impl', 'flex_attention'], ['flex_attention']),
}


@pytest.mark.parametrize('name', BAD_SETTINGS)
def test_bad_setting(name, tiny_checkpoint, tmp_path):
    arguments, words = BAD_SETTINGS[name]
    with pytest.raises(ValueError) as error:
        _sft(tiny_checkpoint, tmp_path, *arguments)
    for word in words:
        assert word in str(error.value), str(error.value)


def test_plain_model_without_sam2(tiny_mllm, tmp_path, monkeypatch):
    monkeypatch.delenv('SAM2', raising=False)
    with pytest.raises(SettingError, match='plain qwen2_5_vl directory.*"sam2"'):
        _sft(tiny_mllm, tmp_path)


def test_plain_model_with_unknown_sam2(tiny_mllm, tmp_path):
    with pytest.raises(ValueError, match="No SAM2 weights at 'sam3'"):
        _sft(tiny_mllm, tmp_path, '--model_kwargs', '{"sam2": "sam3"}')
