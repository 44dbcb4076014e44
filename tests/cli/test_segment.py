"""`citrusv segment`: text from a server or a file plus one forward pass gives the masks of a single engine."""
import json
import pytest
from pathlib import Path
from PIL import Image
from support.row_names import bare
from support.rows import Maker, write_jsonl
from support.segment import MAX_TOKENS, assert_same_results, lines_of, segment, segment_given_texts
from support.serving import answering
from typing import Any

from swift_citrusv import CitrusVPipeline
from swift_citrusv.cli.main import main
from swift_citrusv.constants import SEG_TOKEN
from swift_citrusv.errors import RowError
from swift_citrusv.inference.teacher_forcing import SERVER, TEXT, TEXT_INSTEAD, chat_messages


@pytest.mark.parametrize('flags', [
    ['--max-tokens', '24'],
    ['--max-tokens', '2'],
    ['--max-tokens', '20', '--temperature', '1.2', '--top-p', '0.95', '--seed', '3', '--stop', '。'],
], ids=['long', 'short', 'sampled'])  # yapf: disable
def test_text_from_a_server_equals_one_pass(flags, pipe, segment_data, server_url, tmp_path, capsys):
    expected = segment(pipe, segment_data, tmp_path / 'one.jsonl', *flags)
    texts = [line['response'] for line in expected]
    if '--top-p' in flags:
        # Sampled, and stopped by the stop string.
        assert len(set(texts)) > 0.7 * len(texts) and any(text.endswith('。') for text in texts)
    # The hidden state of a final [SEG] comes from no generation step.
    assert any(text.endswith(SEG_TOKEN) for text in texts) and any(SEG_TOKEN not in text for text in texts)
    capsys.readouterr()
    assert_same_results(
        segment(pipe, segment_data, tmp_path / 'two.jsonl', '--text-from', server_url, '--concurrency', '5', *flags),
        expected)
    said = capsys.readouterr().out
    assert f'token ids of the answers: {len(texts)} {SERVER}' in said and 'all equal' in said


def test_result_lines(one_pass, segment_data):
    given = lines_of(Path(segment_data))
    assert [bare(line['citrusv_row']) for line in one_pass] == [f'rows.jsonl:{i + 1}' for i in range(len(given))]
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


def test_one_forward_pass_per_batch_with_masks(pipe, segment_data, one_pass, tmp_path, monkeypatch):
    """One forward pass of the language model per batch, one of SAM2 per image, for answers of any length."""
    num_passes, num_rows, num_encoded = 0, 0, 0
    language_model, segmenter = pipe.engine.model.model.language_model, pipe.engine.model.segmenter
    forward, encode = language_model.forward, segmenter.encode_images

    def counting_forward(*args, **kwargs):
        nonlocal num_passes, num_rows
        num_passes += 1
        num_rows += kwargs['inputs_embeds'].shape[0]
        return forward(*args, **kwargs)

    def counting_encode(images):
        nonlocal num_encoded
        num_encoded += len(images)
        return encode(images)

    monkeypatch.setattr(language_model, 'forward', counting_forward)
    monkeypatch.setattr(segmenter, 'encode_images', counting_encode)
    texts = write_jsonl(tmp_path / 'texts.jsonl', [{'response': line['response']} for line in one_pass])
    segment(pipe, segment_data, tmp_path / 'out.jsonl', '--text', texts)
    asked = sum(SEG_TOKEN in line['response'] for line in one_pass)
    assert num_rows == asked < len(one_pass) and num_passes == -(-asked // 4)
    assert num_encoded == sum(len({mask['image_index'] for mask in line['masks']}) for line in one_pass)


def test_server_without_token_ids(pipe, segment_data, one_pass, tmp_path, capsys):
    texts = {line['citrusv_row']: line['response'] for line in one_pass}
    by_question = {json.dumps(messages_of(pipe, line)): texts[line['citrusv_row']] for line in one_pass}

    def answer(body, number):
        return 200, by_question[json.dumps(body['messages'])]

    with answering(answer) as (url, seen):
        lines = segment(pipe, segment_data, tmp_path / 'two.jsonl', '--text-from', url, '--max-tokens', '7', '--stop',
                        'x')
    said = capsys.readouterr().out
    assert f'{len(lines)} {TEXT}' in said and 'prompts' not in said
    assert [line['response'] for line in lines] == [line['response'] for line in one_pass]
    assert [len(line['masks']) for line in lines] == [len(line['masks']) for line in one_pass]
    body = seen[0]
    assert (body['model'], body['max_tokens'], body['temperature'], body['stop']) == ('m', 7, 0, ['x'])
    assert 'top_p' not in body and body['return_token_ids'] and body['path'] == '/v1/chat/completions'
    assert body['authorization'] == 'Bearer EMPTY'


def messages_of(pipe: CitrusVPipeline, line: dict[str, Any]) -> list[dict[str, Any]]:
    return chat_messages(pipe.engine.template, {**line, 'messages': line['messages'][:-1]}, line['citrusv_row'])


def test_other_prompts_and_token_ids_are_reported(pipe, tmp_path, capsys):
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


def test_retries_and_unknown_fields(pipe, tmp_path):
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


def test_resume_after_a_rejected_row_and_a_lost_server(pipe, segment_data, one_pass, tmp_path, monkeypatch):
    """Results stay, in order; the same command only requests the rest."""
    output, questions = tmp_path / 'out.jsonl', [messages_of(pipe, line) for line in one_pass]
    bad = 3

    def refusing(body, number):
        if body['messages'] == questions[bad]:
            return 400, {'error': {'message': 'too long'}}
        return 200, one_pass[questions.index(body['messages'])]['response']

    flags = ['--concurrency', '3', '--retries', '0']
    with answering(refusing) as (url, seen):
        with pytest.raises(RowError, match=f'rows.jsonl:{bad + 1}: .*answers 400: .*too long'):
            segment(pipe, segment_data, output, '--text-from', url, *flags)
        assert_same_results(lines_of(output), segment_given_texts(pipe, segment_data, one_pass, tmp_path)[:bad])
    with output.open('a') as file:
        file.write('{"citrusv_row": "rows.jsonl:4", "cut of')

    def leaving(body, number):
        return (200, 'Yes.') if number < 2 else (403, {'error': {'message': 'no key'}})

    with answering(leaving) as (url, seen):
        with pytest.raises(ConnectionError, match='answers 403: .*no key.*--api-key-env'):
            segment(pipe, segment_data, output, '--text-from', url, '--strict', 'false', '--concurrency', '1',
                    '--retries', '0')
        assert [body['messages'] for body in seen[:2]] == questions[bad:bad + 2]
    with answering(refusing) as (url, seen):
        monkeypatch.setenv('KEY', 'secret')
        segment(pipe, segment_data, output, '--text-from', url, '--api-key-env', 'KEY', *flags)
        assert {body['authorization'] for body in seen} == {'Bearer secret'}
    assert len(seen) == len(one_pass) - bad - 2
    assert [line['citrusv_row'] for line in lines_of(output)] == [line['citrusv_row'] for line in one_pass]
    # Nothing is left to request.
    assert len(segment(pipe, segment_data, output, '--text-from', 'http://127.0.0.1:9')) == len(one_pass)
    with pytest.raises(ConnectionError, match='127.0.0.1:9/v1.* cannot be reached'):
        segment(pipe, segment_data, tmp_path / 'new.jsonl', '--text-from', 'http://127.0.0.1:9')


def test_bad_rows_are_skipped_and_counted(pipe, tmp_path, caplog):
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
            assert [bare(line['citrusv_row']) for line in lines] == good
            assert '4 of 6 rows were skipped' in caplog.text and 'rows.jsonl:4: it has no question' in caplog.text


def test_overlays(pipe, segment_data, one_pass, tmp_path):
    lines = segment(pipe, segment_data, tmp_path / 'o.jsonl', '--max-tokens', str(MAX_TOKENS), '--overlay-dir',
                    str(tmp_path / 'pictures'))
    assert_same_results([{key: line[key] for key in line if key != 'overlays'} for line in lines], one_pass)
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
    (['--concurrency', '4'], '--concurrency 4 is only for --text-from'),
    (['--text', 'ROWS', '--seed', '4'], '--seed 4: --text gives the text'),
    (['--text-from', 'localhost:8000'], "'localhost:8000' is not the URL of a server"),
    (['--text-from', 'http://h', '--api-key-env', 'NO_SUCH_KEY'], '--api-key-env NO_SUCH_KEY'),
])
def test_command_line_errors(flags, problem, segment_data, tmp_path, capsys):
    flags = [segment_data if flag == 'ROWS' else flag for flag in flags]
    out = str(tmp_path / 'out.jsonl')
    assert main(['segment', '--model', str(tmp_path), '--data', segment_data, '--output', out, *flags]) == 2
    assert problem in capsys.readouterr().err
