"""`citrusv segment`: text from a server or a file, masks by one pass here, equal to what one pass of all gives."""
import argparse
import base64
import json
import numpy as np
import pytest
import torch
from io import BytesIO
from pathlib import Path
from PIL import Image
from support.rows import Maker, write_jsonl
from support.serving import answering, deployed
from typing import Any

from swift_citrusv import CitrusVPipeline
from swift_citrusv.cli import segment as _cli_segment
from swift_citrusv.cli.main import main
from swift_citrusv.constants import SEG_TOKEN
from swift_citrusv.errors import RowError
from swift_citrusv.inference.teacher_forcing import SERVER, TEXT, TEXT_INSTEAD, answer_ids, chat_messages, same_prompt
from swift_citrusv.inference.text_client import data_url

MAX_TOKENS = 24


@pytest.fixture(scope='module')
def pipe(talkative_checkpoint) -> CitrusVPipeline:
    return CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32, batch_size=4)


@pytest.fixture(scope='module')
def rows(tmp_path_factory) -> str:
    """A file of rows: text alone, one and several images of several formats and sizes, several turns, labels."""
    maker = Maker(tmp_path_factory.mktemp('rows'))
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


def segment(pipe: CitrusVPipeline, data: str, output: Path, *flags: str) -> list[dict[str, Any]]:
    """Runs the command in this process; the lines of its output."""
    parser = argparse.ArgumentParser()
    _cli_segment.add_arguments(parser)
    args = ['--model', '.', '--data', data, '--output', str(output), '--batch-size', '4', *flags]
    assert _cli_segment.run(parser.parse_args(args), pipe) == 0
    return lines_of(output)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


@pytest.fixture(scope='module')
def one_pass(pipe, rows, tmp_path_factory) -> list[dict[str, Any]]:
    return segment(pipe, rows, tmp_path_factory.mktemp('out') / 'one.jsonl', '--max-tokens', str(MAX_TOKENS))


@pytest.fixture(scope='module')
def url(talkative_checkpoint):
    with deployed(talkative_checkpoint, '--max_batch_size', '4') as url:
        yield url


def assert_same(lines: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for line, wanted in zip(lines, expected, strict=True):
        for mask, other in zip(line['masks'], wanted['masks'], strict=True):
            for score in ('score', 'iou_score', 'object_score'):
                assert mask[score] == pytest.approx(other[score], abs=1e-5)
            assert drop(mask) == drop(other)
        assert {**line, 'masks': None} == {**wanted, 'masks': None}


def drop(mask: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mask.items() if 'score' not in key}


# ---- two steps against one, with ms-swift's own engine as the server


@pytest.mark.parametrize('flags', [
    ['--max-tokens', '24'],
    ['--max-tokens', '2'],
    ['--max-tokens', '20', '--temperature', '1.2', '--top-p', '0.95', '--seed', '3', '--stop', '。'],
], ids=['long', 'short', 'sampled'])  # yapf: disable
def test_two_steps_are_one(flags, pipe, rows, url, tmp_path, capsys):
    expected = segment(pipe, rows, tmp_path / 'one.jsonl', *flags)
    texts = [line['response'] for line in expected]
    if 'top' in flags:
        assert len(set(texts)) == len(texts) and any(text.endswith('。') for text in texts)
    # Of the last [SEG] no step of the generation was fed with.
    assert any(text.endswith(SEG_TOKEN) for text in texts) and any(SEG_TOKEN not in text for text in texts)
    capsys.readouterr()
    assert_same(segment(pipe, rows, tmp_path / 'two.jsonl', '--text-from', url, '--concurrency', '5', *flags), expected)
    said = capsys.readouterr().out
    assert f'token ids of the answers: {len(texts)} {SERVER}' in said and 'all as here' in said


def test_what_the_lines_say(one_pass, rows):
    given = lines_of(Path(rows))
    assert [line['citrusv_row'] for line in one_pass] == [f'rows.jsonl:{i + 1}' for i in range(len(given))]
    numbers = []
    for line, row in zip(one_pass, given):
        numbers.append(line['response'].count(SEG_TOKEN))
        assert len(line['masks']) == (numbers[-1] if row.get('images') else 0)
        label = row['messages'].pop()['content'] if row['messages'][-1]['role'] == 'assistant' else None
        assert line['labels'] == label
        assert line['messages'][-1] == {'role': 'assistant', 'content': line['response']}
        system = [{'role': 'system', 'content': row.pop('system')}] if 'system' in row else []
        assert line['messages'][:-1] == system + row.pop('messages')
        assert line.get('label_masks') == row.pop('masks', None)
        assert line.get('label_mask_images') == row.pop('mask_images', None)
        assert row.items() <= line.items()
        for mask in line['masks']:
            with Image.open(row['images'][mask['image_index']]) as image:
                assert mask['rle']['size'] == [image.height, image.width]
    assert 0 in numbers and max(numbers) > 3
    assert len({mask['rle']['counts'] for line in one_pass for mask in line['masks']}) > 10


def test_only_rows_with_masks_are_read_here(pipe, rows, one_pass, tmp_path, monkeypatch):
    """One pass of the language model a batch, SAM2 once an image, whatever the length of the answers."""
    num_passes, num_read, num_encoded = 0, 0, 0
    language_model, segmenter = pipe.engine.model.model.language_model, pipe.engine.model.segmenter
    forward, encode = language_model.forward, segmenter.encode_images

    def counting_forward(*args, **kwargs):
        nonlocal num_passes, num_read
        num_passes += 1
        num_read += kwargs['inputs_embeds'].shape[0]
        return forward(*args, **kwargs)

    def counting_encode(images):
        nonlocal num_encoded
        num_encoded += len(images)
        return encode(images)

    monkeypatch.setattr(language_model, 'forward', counting_forward)
    monkeypatch.setattr(segmenter, 'encode_images', counting_encode)
    texts = write_jsonl(tmp_path / 'texts.jsonl', [{'response': line['response']} for line in one_pass])
    segment(pipe, rows, tmp_path / 'out.jsonl', '--text', texts)
    asked = sum(SEG_TOKEN in line['response'] for line in one_pass)
    assert num_read == asked < len(one_pass) and num_passes == -(-asked // 4)
    assert num_encoded == sum(len({mask['image_index'] for mask in line['masks']}) for line in one_pass)


# ---- whose tokens


def test_a_text_may_be_cut_into_other_tokens(pipe):
    """Then the masks are other ones, unless the engine tells which tokens it chose."""
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
    # Some engines take special tokens, blanks and the stop word out of the text.
    assert answer_ids(template, 'cell', [*spelled, *cell, tokenizer.eos_token_id]) == ([*spelled, *cell], SERVER)
    assert answer_ids(template, ' cell[SEG]') == (words, TEXT)
    assert answer_ids(template, ' cell[SEG]<|im_end|>') == (words, TEXT)
    for others in ([*cell], [5, 6, 7], [10**6]):
        assert answer_ids(template, ' bone[SEG]', others)[1] == TEXT_INSTEAD
    with pytest.raises(RowError, match='r:1: .*behind its end token.*more'):
        answer_ids(template, ' cell<|im_end|> and more', None, 'r:1')


def test_prompts_are_compared(pipe):
    template = pipe.engine.template
    image, other = template.image_token_id, 9
    assert same_prompt(template, [other, image, image, other, image], [other, image, image, other, image])
    assert same_prompt(template, [other, image, image, other, image], [other, image, other, image])
    assert not same_prompt(template, [other, image, image, other], [other, image, image, image, other])
    assert not same_prompt(template, [other, other], [other])


def test_a_server_that_tells_no_ids(pipe, rows, one_pass, tmp_path, capsys):
    texts = {line['citrusv_row']: line['response'] for line in one_pass}
    by_question = {json.dumps(body_of(pipe, line)): texts[line['citrusv_row']] for line in one_pass}

    def answer(body, number):
        return 200, by_question[json.dumps(body['messages'])]

    with answering(answer) as (url, seen):
        lines = segment(pipe, rows, tmp_path / 'two.jsonl', '--text-from', url, '--max-tokens', '7', '--stop', 'x')
    said = capsys.readouterr().out
    assert f'{len(lines)} {TEXT}' in said and 'prompts' not in said
    assert [line['response'] for line in lines] == [line['response'] for line in one_pass]
    assert [len(line['masks']) for line in lines] == [len(line['masks']) for line in one_pass]
    body = seen[0]
    assert (body['model'], body['max_tokens'], body['temperature'], body['stop']) == ('m', 7, 0, ['x'])
    assert 'top_p' not in body and body['return_token_ids'] and body['path'] == '/v1/chat/completions'
    assert body['authorization'] == 'Bearer EMPTY'


def body_of(pipe: CitrusVPipeline, line: dict[str, Any]) -> list[dict[str, Any]]:
    return chat_messages(pipe.engine.template, {**line, 'messages': line['messages'][:-1]}, line['citrusv_row'])


def test_other_prompts_and_ids_are_said(pipe, tmp_path, capsys):
    data = write_jsonl(tmp_path / 'rows.jsonl', [Maker(tmp_path / 'i').row('Say it.')])
    message = {'role': 'assistant', 'content': 'The [SEG].'}

    def answer(body, number):
        choice = {'index': 0, 'message': message, 'finish_reason': 'stop', 'token_ids': [3]}
        return 200, {'choices': [choice], 'prompt_token_ids': [1, 2]}

    with answering(answer) as (url, _):
        line, = segment(pipe, data, tmp_path / 'out.jsonl', '--text-from', url)
    said = capsys.readouterr().out
    assert line['response'] == 'The [SEG].' and line['masks'] == []
    assert f'1 {TEXT_INSTEAD}' in said and 'WARNING: 1 of 1 prompts' in said and 'rows.jsonl:1: 2 tokens there' in said


# ---- what a server is shown


def test_messages_have_images_where_their_tags_stand(pipe, tmp_path):
    maker = Maker(tmp_path)
    template, first, second = pipe.engine.template, maker.image(), maker.image()
    row = maker.row('A <image>, B <image>?', 'No [SEG].', 'And [SEG]?', images=[first, second])
    system, *turns = chat_messages(template, row, 'r')
    assert system == {'role': 'system', 'content': template.template_meta.default_system}
    assert [part.get('text') for part in turns[0]['content']] == ['A ', None, ', B ', None, '?']
    urls = [part['image_url']['url'] for part in turns[0]['content'][1::2]]
    assert urls == [data_url(first), data_url(second)]
    assert [turn['content'] for turn in turns[1:]] == ['No [SEG].', 'And [SEG]?']
    # Those without a tag stand in front.
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
    with pytest.raises(RowError, match="r: it has a turn of 'tool'"):
        chat_messages(template, {'messages': [*row['messages'], {'role': 'tool', 'content': '1'}]}, 'r')


@pytest.mark.parametrize(('suffix', 'mode', 'as_it_is'), [('png', 'RGB', True), ('png', 'L', True),
                                                          ('jpg', 'RGB', True), ('png', 'P', False),
                                                          ('png', 'RGBA', False), ('png', 'I;16', False),
                                                          ('bmp', 'RGB', False), ('jpg', 'CMYK', False)])
def test_a_server_sees_the_pixels_that_are_seen_here(suffix, mode, as_it_is, tmp_path):
    from swift_citrusv.files.images import open_image, to_rgb
    path = tmp_path / f'a.{suffix}'
    array = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(array[..., 0].astype(np.uint16) * 200) if mode == 'I;16' else Image.fromarray(array)
    image = image.convert('RGBA') if mode == 'RGBA' else image if mode == 'I;16' else image.convert(mode)
    image.save(path)
    head, _, text = data_url(str(path)).partition(',')
    content = base64.b64decode(text)
    assert (content == path.read_bytes()) is as_it_is
    with Image.open(BytesIO(content)) as sent:
        assert sent.format is not None
        assert head == f'data:image/{sent.format.lower()};base64'
        assert np.array_equal(np.array(sent.convert('RGB')), np.array(to_rgb(open_image(str(path)))))


def test_files_of_rows_are_under_the_rules(pipe, tmp_path, monkeypatch):
    maker = Maker(tmp_path / 'outside')
    (tmp_path / 'root').mkdir()
    monkeypatch.setenv('DATA_ROOT', str(tmp_path / 'root'))
    row = maker.row('What?', images=[maker.image()])
    with pytest.raises(RowError, match=r'r: images\[0\].*outside of data_root'):
        chat_messages(pipe.engine.template, row, 'r')


# ---- servers that refuse, stumble and go


def test_retries_and_fields_that_a_server_does_not_know(pipe, tmp_path):
    maker = Maker(tmp_path)
    data = write_jsonl(tmp_path / 'rows.jsonl', [maker.row(f'Question {i}?') for i in range(3)])

    known = ['model', 'messages', 'max_tokens', 'temperature', 'return_details']

    def answer(body, number):
        if number < 3:
            return (503, 429, 500)[number], {'error': {'message': 'busy'}}
        unknown = [name for name in body if name not in known]
        if unknown:
            return 400, {'error': {'message': f'Unknown: {unknown[0]}. Known are {known}.'}}
        return 200, f'To {body["messages"][-1]["content"]}'

    with answering(answer, models=('a', 'b')) as (url, seen):
        with pytest.raises(ValueError, match='has the models a, b. Name one by --served-model'):
            segment(pipe, data, tmp_path / 'out.jsonl', '--text-from', url)
        flags = ['--served-model', 'b', '--concurrency', '1', '--retries', '3']
        lines = segment(pipe, data, tmp_path / 'out.jsonl', '--text-from', f'{url}/v1/', *flags)
    assert [line['response'] for line in lines] == [f'To Question {i}?' for i in range(3)]
    assert len(seen) == 3 + 3 + 3 and {body['model'] for body in seen} == {'b'}
    assert all(body['return_details'] for body in seen)


def test_a_refused_row_and_a_server_that_goes(pipe, rows, one_pass, tmp_path, monkeypatch):
    """What is answered stays, in order; the same command asks for the rest and for nothing else."""
    output, questions = tmp_path / 'out.jsonl', [body_of(pipe, line) for line in one_pass]
    bad = 3

    def refusing(body, number):
        if body['messages'] == questions[bad]:
            return 400, {'error': {'message': 'too long'}}
        return 200, one_pass[questions.index(body['messages'])]['response']

    flags = ['--concurrency', '3', '--retries', '0']
    with answering(refusing) as (url, seen):
        with pytest.raises(RowError, match=f'rows.jsonl:{bad + 1}: .*answers 400: .*too long'):
            segment(pipe, rows, output, '--text-from', url, *flags)
        assert_same(lines_of(output), lenient_lines(pipe, rows, one_pass, tmp_path)[:bad])
    with output.open('a') as file:
        file.write('{"citrusv_row": "rows.jsonl:4", "cut of')

    def leaving(body, number):
        return (200, 'Yes.') if number < 2 else (403, {'error': {'message': 'no key'}})

    with answering(leaving) as (url, seen):
        with pytest.raises(ConnectionError, match='answers 403: .*no key.*--api-key-env'):
            segment(pipe, rows, output, '--text-from', url, '--strict', 'false', '--concurrency', '1', '--retries', '0')
        assert [body['messages'] for body in seen[:2]] == questions[bad:bad + 2]
    with answering(refusing) as (url, seen):
        monkeypatch.setenv('KEY', 'secret')
        segment(pipe, rows, output, '--text-from', url, '--api-key-env', 'KEY', *flags)
        assert {body['authorization'] for body in seen} == {'Bearer secret'}
    assert len(seen) == len(one_pass) - bad - 2
    assert [line['citrusv_row'] for line in lines_of(output)] == [line['citrusv_row'] for line in one_pass]
    # Nobody is asked now.
    assert len(segment(pipe, rows, output, '--text-from', 'http://127.0.0.1:9')) == len(one_pass)
    with pytest.raises(ConnectionError, match='127.0.0.1:9/v1.* cannot be reached'):
        segment(pipe, rows, tmp_path / 'new.jsonl', '--text-from', 'http://127.0.0.1:9')


def lenient_lines(pipe: CitrusVPipeline, rows: str, lines: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """The lines of the texts of other lines."""
    texts = write_jsonl(folder / 'texts.jsonl', [{'response': line['response'], 'finish_reason': 'stop'}
                                                 for line in lines])  # yapf: disable
    return segment(pipe, rows, folder / 'lenient.jsonl', '--text', texts)


def test_bad_rows_are_counted_and_left_out(pipe, tmp_path, caplog):
    maker = Maker(tmp_path)
    broken = tmp_path / 'broken.png'
    broken.write_bytes(Path(maker.image()).read_bytes()[:200])
    rows = [
        maker.row('<image>One?', images=[maker.image()]),
        maker.row('<image>Two?', images=[str(broken)]),
        maker.row('<image><image>Three?', images=[maker.image()]),
        {
            'messages': [{
                'role': 'assistant',
                'content': 'Four.'
            }]
        },
        maker.row('<image>Five?', images=[str(tmp_path / 'nowhere.png')]),
        maker.row('<image>Six?', images=[maker.image()]),
    ]
    data = write_jsonl(tmp_path / 'rows.jsonl', rows)
    with pytest.raises(RowError, match='rows.jsonl:3: .*<image> 2 times'):
        segment(pipe, data, tmp_path / 'a.jsonl', '--max-tokens', '4')
    good = ['rows.jsonl:1', 'rows.jsonl:6']
    texts = write_jsonl(tmp_path / 't.jsonl', [{'response': 'It [SEG].', 'citrusv_row': f'rows.jsonl:{i}'}
                                               for i in (6, 2, 1, 5)])  # yapf: disable
    with answering(lambda body, number: (200, 'It [SEG].')) as (url, _):
        for i, flags in enumerate((['--max-tokens', '4'], ['--text', texts], ['--text-from', url])):
            caplog.clear()
            lines = segment(pipe, data, tmp_path / f'b{i}.jsonl', '--strict', 'false', *flags)
            assert [line['citrusv_row'] for line in lines] == good
            assert '4 of 6 rows were skipped' in caplog.text and 'rows.jsonl:4: it asks nothing' in caplog.text


# ---- answers from a file, and results from another run


def test_answers_from_a_file(pipe, rows, one_pass, tmp_path):
    expected = lenient_lines(pipe, rows, one_pass, tmp_path)
    # A result is such a file, too.
    backwards = write_jsonl(tmp_path / 'back.jsonl', expected[::-1])
    assert segment(pipe, rows, tmp_path / 'again.jsonl', '--text', backwards) == expected
    for lines, problem in ((expected[:-1], "texts.jsonl has no answer to it"),
                           (expected + expected[:1], "citrusv_row.*rows.jsonl:1', which another line has"), ([{
                               **expected[0], 'citrusv_row':
                               'x:1'
                           }], "'x:1', which no row"), ([{
                               'response': None
                           }], "t.jsonl:1: 'response' is 'None'"), ([{
                               'response': 'a',
                               'token_ids': [-1]
                           }], "'token_ids' is"), ([{
                               'response': 'a'
                           }] * 3, f'3 answers without .* for {len(expected)} rows')):
        texts = write_jsonl(tmp_path / ('texts.jsonl' if 'texts' in problem else 't.jsonl'), lines)
        with pytest.raises(ValueError, match=problem):
            segment(pipe, rows, tmp_path / 'no.jsonl', '--text', texts)


def test_results_of_other_data_are_not_added_to(pipe, tmp_path):
    maker = Maker(tmp_path)
    data, output = tmp_path / 'rows.jsonl', tmp_path / 'out.jsonl'
    flags = ['--max-tokens', '2']
    segment(pipe, write_jsonl(data, [maker.row('One?'), maker.row('Two?')]), output, *flags)
    for rows, problem in (([maker.row('One?'), maker.row('Three?')], 'rows.jsonl:2: .*answer to another question'),
                          ([maker.row('One?')], 'rows.jsonl:2: .*no such row')):
        with pytest.raises(RowError, match=problem):
            segment(pipe, write_jsonl(data, rows), output, *flags)
    assert len(lines_of(output)) == 2
    with pytest.raises(RowError, match='out.jsonl:1: .*no result'):
        output.write_text('{}\n')
        segment(pipe, str(data), output, *flags)


def test_overlays(pipe, rows, one_pass, tmp_path):
    lines = segment(pipe, rows, tmp_path / 'o.jsonl', '--max-tokens', str(MAX_TOKENS), '--overlay-dir',
                    str(tmp_path / 'pictures'))
    assert_same([{key: line[key] for key in line if key != 'overlays'} for line in lines], one_pass)
    for line in lines:
        indices = {mask['image_index'] for mask in line['masks']}
        assert [overlay['image_index'] for overlay in line['overlays']] == sorted(indices)
        for overlay in line['overlays']:
            with Image.open(overlay['path']) as picture, Image.open(line['images'][overlay['image_index']]) as image:
                assert picture.width >= image.width and picture.height > image.height
    assert len(list((tmp_path / 'pictures').iterdir())) == sum(len(line['overlays']) for line in lines) > 5


@pytest.mark.parametrize(('flags', 'problem'), [
    (['--data', 'nowhere.jsonl'], '--data nowhere.jsonl: no such file'),
    (['--model', './nowhere'], '--model ./nowhere: no such directory'),
    (['--concurrency', '4'], '--concurrency 4 is for --text-from alone'),
    (['--text', 'ROWS', '--seed', '4'], '--seed 4: the text of --text is written'),
    (['--text-from', 'localhost:8000'], "'localhost:8000' is no URL"),
    (['--text-from', 'http://h', '--api-key-env', 'NO_SUCH_KEY'], '--api-key-env NO_SUCH_KEY'),
])
def test_mistakes_on_the_command_line(flags, problem, rows, tmp_path, capsys):
    flags = [rows if flag == 'ROWS' else flag for flag in flags]
    out = str(tmp_path / 'out.jsonl')
    assert main(['segment', '--model', str(tmp_path), '--data', rows, '--output', out, *flags]) == 2
    assert problem in capsys.readouterr().err
