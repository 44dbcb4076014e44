"""`swift infer`: masks, targets and pictures in its result; over a dataset, in a conversation, on several ranks."""
import datetime
import io
import json
import multiprocessing
import numpy as np
import os
import pytest
import torch
from PIL import Image
from support.infer_run import COMMON, MAX_TOKENS, swift_infer
from support.row_names import bare
from support.rows import Maker, write_jsonl
from support.serving import assert_same, build_adapter, of_stream
from swift.pipelines import infer_main
from torch.distributed import TCPStore
from typing import Any

from swift_citrusv import CitrusVPipeline
from swift_citrusv.errors import RowError
from swift_citrusv.inference.results import MaskResult
from swift_citrusv.plugin.register import register
from swift_citrusv.settings import SettingError


@pytest.fixture(scope='module')
def rows(tmp_path_factory) -> list[dict[str, Any]]:
    """Every kind of row, a question without an answer, and targets in other mask formats."""
    maker = Maker(tmp_path_factory.mktemp('infer') / 'images')
    target = maker.image()
    return [
        *maker.every_kind(),
        {'messages': [{'role': 'user', 'content': '<image>Segment it.'}], 'images': [maker.image(100, 150)]},
        maker.row('<image>Segment both.', 'One [SEG], two [SEG].', images=[maker.image()],
                  masks=[[[5, 5, 40, 5, 40, 40]], {'path': target}]),
    ]  # yapf: disable


@pytest.fixture(scope='module')
def dataset(rows, tmp_path_factory) -> str:
    return write_jsonl(tmp_path_factory.mktemp('infer') / 'rows.jsonl', rows)


def answered(pipe: CitrusVPipeline, row: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request alone, without the targets of the row."""
    messages = row['messages']
    if messages[-1]['role'] == 'assistant':
        messages = messages[:-1]
    request = {'messages': messages, 'images': row.get('images', []), 'videos': row.get('videos', [])}
    from swift.infer_engine import InferRequest, RequestConfig
    (response, ) = pipe.engine.infer([InferRequest(**request)], RequestConfig(temperature=0, max_tokens=MAX_TOKENS))
    message = response.choices[0].message
    return {'text': message.content, 'masks': message.masks, 'end': None}


@pytest.fixture(scope='module')
def expected(talkative_checkpoint, rows) -> list[dict[str, Any]]:
    pipe = CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32)
    return [answered(pipe, row) for row in rows]


def assert_lines(lines: list[dict[str, Any]], rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(lines) == len(rows)
    for number, (line, row, answer) in enumerate(zip(lines, rows, expected), 1):
        assert_same({'text': line['response'], 'masks': line['masks'], 'end': None}, answer)
        labels = [message['content'] for message in row['messages'][-1:] if message['role'] == 'assistant']
        assert line['labels'] == (labels[0] if labels else None)
        assert line['label_masks'] == row.get('masks') and line['label_mask_images'] == row.get('mask_images')
        # Each mask with the number of its answer; targets of earlier answers too.
        answers = [message['content'].count('[SEG]') for message in row['messages'] if message['role'] == 'assistant']
        earlier = answers[:-1] if labels else answers
        assert line['mask_turns'] == [len(earlier)] * len(line['masks'])
        if row.get('masks') is not None:
            of_earlier = [turn for turn, count in enumerate(earlier) for _ in range(count)]
            rest = len(row['masks']) - len(of_earlier)
            assert line['label_turns'] == of_earlier + [len(earlier)] * rest and rest >= 0
        assert bare(line['citrusv_row']) == f'rows.jsonl:{number}' and 'mask_images' not in line
        assert line['messages'][-1]['content'] == line['response']


def assert_overlays(line: dict[str, Any], row: dict[str, Any]) -> None:
    assert [overlay['image_index'] for overlay in line['overlays']] == sorted({m['image_index'] for m in line['masks']})
    for overlay in line['overlays']:
        image = np.asarray(Image.open(row['images'][overlay['image_index']]).convert('RGB'))
        picture = np.asarray(Image.open(overlay['path']))[:image.shape[0], :image.shape[1]]
        inside = np.zeros(image.shape[:2], bool)
        for mask in line['masks']:
            if mask['image_index'] == overlay['image_index']:
                inside |= MaskResult(**mask).array > 0
        np.testing.assert_array_equal(picture[~inside], image[~inside])
        assert (picture[inside] != image[inside]).any(1).mean() > 0.95


def test_a_dataset(talkative_checkpoint, dataset, rows, expected, tmp_path):
    folder = tmp_path / 'overlays'
    lines = swift_infer(talkative_checkpoint, tmp_path / 'out.jsonl', '--val_dataset', dataset, '--max_batch_size', '4',
                        '--write_batch_size', '5', '--model_kwargs', json.dumps({'overlay_dir': str(folder)}))
    assert_lines(lines, rows, expected)
    assert sum(len(line['masks']) for line in lines) > 10 and any(not line['masks'] for line in lines)
    for line, row in zip(lines, rows):
        assert_overlays(line, row)
        for overlay in line['overlays']:
            number = line['citrusv_row'].partition(':')[2]
            assert os.path.basename(overlay['path']).partition('-rows.jsonl-')[2].startswith(f'{number}_image')
    written = [overlay['path'] for line in lines for overlay in line['overlays']]
    assert len(set(written)) == len(written) == len(list(folder.iterdir())) > 3


def test_a_stream_of_answers(talkative_checkpoint, dataset, rows, expected, tmp_path, capsys):
    lines = swift_infer(talkative_checkpoint, tmp_path / 'out.jsonl', '--val_dataset', dataset, '--stream', 'true')
    assert_lines(lines, rows, [of_stream(answer) for answer in expected])
    assert all('overlays' not in line for line in lines)
    printed = capsys.readouterr().out
    for line in lines:
        assert line['response'].rstrip() in printed
    assert printed.count('[MASK 1]') == sum(bool(line['masks']) for line in lines)
    assert printed.count('[MASK ') == sum(len(line['masks']) for line in lines)


@pytest.mark.parametrize('stream', ['false', 'true'])
def test_rows_that_cannot_be_answered(stream, talkative_checkpoint, rows, expected, tmp_path):
    """By default the first of them stops the run; with --strict false each has its error in the result."""
    missing = {**rows[2], 'images': [str(tmp_path / 'nowhere.png')]}
    tags = {**rows[1], 'messages': [{'role': 'user', 'content': '<image><image>Compare.'}]}
    dataset = write_jsonl(tmp_path / 'rows.jsonl', [rows[1], missing, rows[2], tags])
    arguments = ['--val_dataset', dataset, '--max_batch_size', '4', '--stream', stream]
    with pytest.raises(RowError, match=r'rows.jsonl:2.*nowhere.png'):
        swift_infer(talkative_checkpoint, tmp_path / 'strict.jsonl', *arguments)
    lines = swift_infer(talkative_checkpoint, tmp_path / 'out.jsonl', *arguments, '--strict', 'false')
    assert ['error' in line for line in lines] == [False, True, False, True]
    assert 'rows.jsonl:2' in lines[1]['error'] and 'nowhere.png' in lines[1]['error'] and lines[1]['masks'] == []
    assert '<image> 2 times' in lines[3]['error'] and lines[3]['response'] == ''
    assert lines[1]['label_masks'] == missing['masks']
    wanted = of_stream(expected[2]) if stream == 'true' else expected[2]
    assert_same({'text': lines[2]['response'], 'masks': lines[2]['masks'], 'end': None}, wanted)


def test_a_conversation(talkative_checkpoint, rows, tmp_path, monkeypatch, capsys):
    """From a script that ends without a command to quit, and has a mistyped file name."""
    image = rows[12]['images'][0]
    script = f'What is a cell?\n<image>Segment it.\n{tmp_path}/nowhere.png\n{image}\nAnd the nucleus?\n'
    monkeypatch.setattr('sys.stdin', io.StringIO(script))
    lines = swift_infer(talkative_checkpoint, tmp_path / 'out.jsonl', '--model_kwargs',
                        json.dumps({'overlay_dir': str(tmp_path / 'overlays')}))
    printed = capsys.readouterr().out
    assert [len(line['messages']) for line in lines] == [2, 4, 6]
    assert 'no such file' in printed and printed.count('Input an image path or URL') == 2
    assert lines[0]['masks'] == [] and lines[0]['overlays'] == [] and lines[1]['masks'] and lines[2]['masks']
    pipe = CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32)
    for line in lines:
        answer = answered(pipe, {'messages': line['messages'], 'images': line['images']})
        assert_same({'text': line['response'], 'masks': line['masks'], 'end': None}, of_stream(answer))
        assert line['response'].rstrip() in printed
        assert_overlays(line, {'images': [image]})
        for number, mask in enumerate(line['masks'], 1):
            assert (f'[MASK {number}] {mask["phrase"] or "(no phrase)"}: image 1 ({os.path.basename(image)}), '
                    f'{mask["area"]:,} px, score {mask["score"]:.2f} -> {line["overlays"][0]["path"]}') in printed


def test_an_adapter(talkative_checkpoint, dataset, rows, expected, tmp_path):
    adapter = build_adapter(talkative_checkpoint, str(tmp_path / 'adapter'), seed=3)
    lines = swift_infer(talkative_checkpoint, tmp_path / 'out.jsonl', '--adapters', adapter, '--val_dataset', dataset,
                        '--max_batch_size', '8')
    pipe = CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32, adapters=[adapter])
    adapted = [answered(pipe, row) for row in rows]
    assert adapted != expected and sum(len(answer['masks']) for answer in adapted) > 5
    assert_lines(lines, rows, adapted)


# ---- several ranks


def infer_on_rank(rank: int, world_size: int, port: int, log: str, arguments: list[str]) -> None:
    """A rank as torchrun would start it."""
    file = os.open(f'{log}.{rank}', os.O_WRONLY | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE='True')
    torch.set_num_threads(1)
    register()
    infer_main(arguments)


def test_two_ranks(talkative_checkpoint, dataset, rows, expected, tmp_path):
    """Each answers its share; the result is in the order of the rows, and no picture is overwritten."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(
        ['swift.pipelines.infer.infer', 'swift_citrusv.encoding.template', 'swift_citrusv.plugin.loader'])
    store = TCPStore('127.0.0.1', 0, 2, True, timeout=datetime.timedelta(minutes=3), wait_for_workers=False)
    result, folder = tmp_path / 'out.jsonl', tmp_path / 'overlays'
    arguments = ['--model', talkative_checkpoint, *COMMON, '--ddp_backend', 'gloo', '--val_dataset', dataset,
                 '--max_batch_size', '4', '--write_batch_size', '5', '--result_path', str(result),
                 '--model_kwargs', json.dumps({'overlay_dir': str(folder)})]  # yapf: disable
    processes = [
        context.Process(target=infer_on_rank, args=(rank, 2, store.port, str(tmp_path / 'log'), arguments))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for rank, process in enumerate(processes):
        process.join(timeout=180)
        assert process.exitcode == 0, (tmp_path / f'log.{rank}').read_text(errors='replace')[-4000:]
    lines = [json.loads(line) for line in result.read_text(encoding='utf-8').splitlines()]
    assert_lines(lines, rows, expected)
    for line, row in zip(lines, rows):
        assert_overlays(line, row)
    written = {overlay['path'] for line in lines for overlay in line['overlays']}
    assert len(written) == len(list(folder.iterdir()))


# ---- refused before anything is loaded


def test_what_is_refused_at_once(talkative_checkpoint, dataset, tmp_path):
    (tmp_path / 'file').write_text('')
    arguments = ['--val_dataset', dataset]
    with pytest.raises(
            ValueError, match='--infer_backend vllm generates text and no masks.*citrusv segment --text-from'):
        swift_infer(talkative_checkpoint, tmp_path / 'out.jsonl', *arguments, '--infer_backend', 'vllm')
    with pytest.raises(SettingError, match='overlay_dir'):
        swift_infer(talkative_checkpoint, tmp_path / 'out.jsonl', *arguments, '--model_kwargs',
                    json.dumps({'overlay_dir': str(tmp_path / 'file' / 'a')}))
