"""Token ids of given answers, comparison of prompts, and messages for a server."""
import numpy as np
import pytest
import torch
from PIL import Image
from support.rows import Maker

from swift_citrusv import CitrusVPipeline
from swift_citrusv.errors import RowError
from swift_citrusv.inference.teacher_forcing import SERVER, TEXT, TEXT_INSTEAD, answer_ids, chat_messages, same_prompt
from swift_citrusv.inference.text_client import data_url


@pytest.fixture(scope='module')
def pipe(talkative_checkpoint) -> CitrusVPipeline:
    return CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32, batch_size=4)


def test_one_text_can_have_several_tokenizations(pipe):
    """The masks differ between them, so the token ids of the engine are used if it returns them."""
    template, tokenizer = pipe.engine.template, pipe.engine.tokenizer
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (84, 84, 3), dtype=np.uint8))
    request, cell = (image, 'Segment the cell.'), tokenizer.encode(' cell', add_special_tokens=False)
    letters = [token for letter in ' cell' for token in tokenizer.encode(letter, add_special_tokens=False)]
    assert len(letters) == 5 > len(cell)
    words, spelled = [*cell, template.seg_token_id], [*letters, template.seg_token_id]
    answers = pipe.masks_of([request] * 4, [' cell[SEG]', words, spelled, [*spelled, tokenizer.eos_token_id]])
    assert {answer.text for answer in answers} == {' cell[SEG]'} and answers[0].finish_reason == 'given'
    rles = [answer.masks[0].rle for answer in answers]
    assert rles[0] == rles[1] != rles[2] == rles[3]
    assert answer_ids(template, ' cell[SEG]', spelled) == (spelled, SERVER)
    # Some engines strip special tokens, spaces and the stop string from the text.
    assert answer_ids(template, 'cell', [*spelled, *cell, tokenizer.eos_token_id]) == ([*spelled, *cell], SERVER)
    assert answer_ids(template, ' cell[SEG]') == (words, TEXT)
    assert answer_ids(template, ' cell[SEG]<|im_end|>') == (words, TEXT)
    for others in ([*cell], [5, 6, 7], [10**6]):
        assert answer_ids(template, ' bone[SEG]', others)[1] == TEXT_INSTEAD
    with pytest.raises(RowError, match='r:1: .*continues after its end token.*more'):
        answer_ids(template, ' cell<|im_end|> and more', None, 'r:1')


def test_prompts_are_compared(pipe):
    template = pipe.engine.template
    image, other = template.image_token_id, 9
    assert same_prompt(template, [other, image, image, other, image], [other, image, image, other, image])
    assert same_prompt(template, [other, image, image, other, image], [other, image, other, image])
    assert not same_prompt(template, [other, image, image, other], [other, image, image, image, other])
    assert not same_prompt(template, [other, other], [other])


def test_messages_have_images_in_place_of_their_tags(pipe, tmp_path):
    maker = Maker(tmp_path)
    template, first, second = pipe.engine.template, maker.image(), maker.image()
    row = maker.row('A <image>, B <image>?', 'No [SEG].', 'And [SEG]?', images=[first, second])
    system, *turns = chat_messages(template, row, 'r')
    assert system == {'role': 'system', 'content': template.template_meta.default_system}
    assert [part.get('text') for part in turns[0]['content']] == ['A ', None, ', B ', None, '?']
    urls = [part['image_url']['url'] for part in turns[0]['content'][1::2]]
    assert urls == [data_url(first), data_url(second)]
    assert [turn['content'] for turn in turns[1:]] == ['No [SEG].', 'And [SEG]?']
    # Images without a tag come first.
    row = maker.row('A <image>?', images=[first, second])
    assert [part.get('text') for part in chat_messages(template, row, 'r')[1]['content']] == [None, 'A ', None, '?']
    parts = [{'type': 'image', 'image': first}, {'type': 'text', 'text': 'What?'}]
    assert chat_messages(template, {'messages': [{
        'role': 'user',
        'content': parts
    }]}, 'r')[1] == chat_messages(template, maker.row('<image>What?', images=[first]), 'r')[1]
    for key, value in (('videos', ['a.mp4']), ('tools', [{'type': 'function'}])):
        with pytest.raises(RowError, match=f'r: it has .{key}.'):
            chat_messages(template, {**row, key: value}, 'r')
    with pytest.raises(RowError, match="r: it has a turn with the role 'tool'"):
        chat_messages(template, {'messages': [*row['messages'], {'role': 'tool', 'content': '1'}]}, 'r')


def test_images_outside_of_data_root_are_not_sent(pipe, tmp_path, monkeypatch):
    maker = Maker(tmp_path / 'outside')
    (tmp_path / 'root').mkdir()
    monkeypatch.setenv('CITRUSV_DATA_ROOT', str(tmp_path / 'root'))
    row = maker.row('What?', images=[maker.image()])
    with pytest.raises(RowError, match=r'r: images\[0\].*outside of data_root'):
        chat_messages(pipe.engine.template, row, 'r')
