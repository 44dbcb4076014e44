"""`citrusv build`."""
import json
import pytest
import shutil
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support.command_line import run_citrusv
from transformers import AutoTokenizer

from swift_citrusv.cli import build


def test_build_prints_what_it_built(tmp_path, capsys):
    corpus = tmp_path / 'rows.jsonl'
    rows = [{
        'messages': [{
            'role': 'user',
            'content': 'zebrafish zebrafish'
        }, {
            'role': 'assistant',
            'content': 'Yes.'
        }]
    }, {
        'messages': [{
            'role': 'user',
            'content': [{
                'type': 'text',
                'text': 'zebrafish larva'
            }]
        }]
    }]
    corpus.write_text('\n\n'.join(map(json.dumps, rows)))
    assert list(build.read_corpus(str(corpus))) == ['zebrafish zebrafish', 'Yes.', 'zebrafish larva']
    output = tmp_path / 'model'
    status, out, err = run_citrusv(capsys, 'build', '--mllm', 'tiny', '--sam2', 'tiny', '--output', output, '--corpus',
                                   corpus, '--dtype', 'bfloat16', '--multimask-output', '--seed', 3)
    assert status == 0
    # Transformers' report of weights that a plain Qwen2.5-VL cannot have.
    assert 'MISSING' not in out + err
    config = json.loads((output / 'config.json').read_text())
    table = dict(line.strip().split('  ', 1) for line in out.splitlines() if '  ' in line.strip())
    table = {key: value.strip() for key, value in table.items()}
    assert table['[SEG] id'] == str(config['seg_token_id'])
    assert table['SAM2'] == 'tiny (preset tiny)' and config['sam2_preset'] == 'tiny'
    assert table['dtype of the MLLM'] == 'bfloat16'
    assert table['multimask output'] == 'yes' and config['multimask_output'] is True
    assert table['output'] == str(output)
    counts = {
        key: int(value.split()[0].replace(',', ''))
        for key, value in table.items() if value.endswith('parameters')
    }
    total = counts.pop('total')
    assert len(counts) == 7 and sum(counts.values()) == total

    with safe_open(str(output / 'model.safetensors'), 'pt') as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    buffers = sum(stored[name].numel() for name in stored if 'gaussian_matrix' in name)
    assert sum(tensor.numel() for tensor in stored.values()) - buffers == total
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert len(tokenizer.encode('zebrafish')) == 1
    assert tokenizer.encode('[SEG]') == [config['seg_token_id']]

    # A second build does not overwrite the first.
    status, out, err = run_citrusv(capsys, 'build', '--mllm', 'tiny', '--sam2', 'tiny', '--output', output)
    assert (status, out) == (2, '') and 'already contains a model' in err


def test_build_rejects_an_mllm_that_lacks_a_weight(tiny_mllm, tmp_path, capsys):
    # Missing weights of the segmentation parts are not reported. This must not hide other missing weights.
    source = tmp_path / 'mllm'
    shutil.copytree(tiny_mllm, source)
    weights = load_file(source / 'model.safetensors')
    lost = next(name for name in weights if name.endswith('merger.mlp.0.weight'))
    del weights[lost]
    save_file(weights, source / 'model.safetensors', metadata={'format': 'pt'})
    status, out, err = run_citrusv(capsys, 'build', '--mllm', source, '--sam2', 'tiny', '--output', tmp_path / 'out')
    assert (status, out) == (2, '')
    assert 'lacks 1 weights' in err.splitlines()[-1] and 'merger.mlp.0.weight' in err.splitlines()[-1]
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('options, message', [
    ({
        '--sam2': 'sam9'
    }, "No SAM2 weights at 'sam9'"),
    ({
        '--sam2-preset': 'huge'
    }, "Unknown SAM2 preset 'huge'"),
    ({
        '--sam2-preset': 'sam2_hiera_l'
    }, "'tiny' has preset 'tiny'"),
    ({
        '--mllm': '/no/such/folder'
    }, '--mllm /no/such/folder: no such directory'),
    ({
        '--mllm': '{tmp}'
    }, 'without a config.json'),
    ({
        '--corpus': '{tmp}/none.txt'
    }, '{tmp}/none.txt: No such file'),
    ({
        '--corpus': '{tmp}/empty.txt'
    }, 'empty.txt holds no text'),
    ({
        '--corpus': '{tmp}/rows.jsonl'
    }, 'rows.jsonl:2: the line is not JSON'),
    ({
        '--corpus': '{tmp}/other.jsonl'
    }, "other.jsonl:1: the line has no list of 'messages'"),
    ({
        '--corpus': '{tmp}/rows.jsonl',
        '--mllm': 'Qwen/Qwen2.5-VL-7B-Instruct'
    }, 'is for the tokenizer of --mllm tiny'),
])
def test_build_errors(options, message, tmp_path, capsys):
    (tmp_path / 'empty.txt').write_text('\n \n')
    (tmp_path / 'rows.jsonl').write_text('{"messages": []}\nnot json\n')
    (tmp_path / 'other.jsonl').write_text('{"text": "a"}\n')
    arguments = {'--mllm': 'tiny', '--sam2': 'tiny', '--output': '{tmp}/out', **options}
    flat = [word.replace('{tmp}', str(tmp_path)) for pair in arguments.items() for word in pair]
    status, out, err = run_citrusv(capsys, 'build', *flat)
    assert (status, out) == (2, '')
    last = err.splitlines()[-1]
    assert last.startswith('citrusv: error: ') and message.replace('{tmp}', str(tmp_path)) in last
    assert not (tmp_path / 'out').exists()
