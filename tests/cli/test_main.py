"""`citrusv`, `citrusv build` and `citrusv templates`."""
import json
import pytest
import shutil
import subprocess
import sys
import yaml
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from swift_citrusv import __version__, package_files
from swift_citrusv.cli import build, templates
from swift_citrusv.cli.main import main

STAGES = {'stage1', 'stage2', 'stage3', 'stage4'}


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of `citrusv`."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ---- the program


@pytest.mark.parametrize(
    'arguments',
    [['--help'], ['--version'], ['build', '--help'], ['check-data', '--help'], ['templates'], ['templates', 'stage4']])
def test_light_commands_import_nothing_heavy(arguments):
    code = f'''
import sys
from swift_citrusv.cli.main import main
try:
    status = main({arguments!r})
except SystemExit as leave:
    status = leave.code
heavy = [name for name in ('torch', 'transformers', 'swift', 'numpy', 'PIL') if name in sys.modules]
assert not status and not heavy, (status, heavy)
'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as leave:
        main(['--version'])
    assert leave.value.code == 0
    assert capsys.readouterr().out == f'citrusv {__version__}\n'


@pytest.mark.parametrize(
    'arguments', [[], ['no-such-command'], ['build', '--mllm', 'tiny'],
                  ['build', '--mllm', 'tiny', '--sam2', 'tiny', '--output', 'x', '--dtype', 'int8'], ['check-data'],
                  ['check-data', 'x.jsonl', '--num-proc', '0'], ['check-data', 'x.jsonl', '--limit', 'many']])
def test_bad_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as leave:
        main(arguments)
    assert leave.value.code == 2
    assert 'usage: citrusv' in capsys.readouterr().err


def test_expected_errors_are_one_line(capsys):
    status, out, err = run(capsys, 'templates', 'stage9')
    assert (status, out) == (2, '')
    assert err.startswith("citrusv: error: There is no template 'stage9'.") and err.count('\n') == 1


def test_traceback_shows_expected_errors():
    with pytest.raises(ValueError, match='stage9'):
        main(['templates', 'stage9', '--traceback'])


@pytest.mark.parametrize('fault', [KeyError('a fault'), ZeroDivisionError('a fault'), RuntimeError('a fault')])
def test_faults_of_ours_are_not_hidden(fault, monkeypatch):

    def broken(*_):
        raise fault

    monkeypatch.setattr(templates, 'run', broken)
    with pytest.raises(type(fault), match='a fault'):
        main(['templates'])


def test_value_error_of_a_library_is_not_taken_for_a_user_error(monkeypatch):
    monkeypatch.setattr(templates, 'run', lambda args: json.loads('{'))
    with pytest.raises(json.JSONDecodeError):
        main(['templates'])


def test_closed_pipe_ends_in_silence():
    code = 'import sys; from swift_citrusv.cli.main import main; sys.exit(main(["templates"]))'
    process = subprocess.Popen([sys.executable, '-c', code],
                               stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE,
                               cwd=Path(__file__).parents[2])
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b''
    process.stderr.close()
    assert process.wait() == 1


# ---- templates


def test_templates_are_listed(capsys):
    status, out, _ = run(capsys, 'templates')
    assert status == 0
    assert STAGES < {line.split()[0] for line in out.splitlines() if line.strip()}


@pytest.mark.parametrize('name', sorted(STAGES) + ['stage1.yaml'])
def test_template_path_is_all_that_is_printed(name, capsys):
    status, out, err = run(capsys, 'templates', name)
    path = Path(out.removesuffix('\n'))
    assert (status, err) == (0, '')
    assert path.stem == name.removesuffix('.yaml')
    assert yaml.safe_load(path.read_text(encoding='utf-8'))['model_type'] == 'citrusv'


def test_templates_are_copied_and_never_overwritten(tmp_path, capsys):
    target = tmp_path / 'new' / 'folder'
    assert run(capsys, 'templates', 'stage4', '--copy', target)[0] == 0
    assert [path.name for path in target.iterdir()] == ['stage4.yaml']
    (target / 'stage4.yaml').write_text('mine')
    status, _, err = run(capsys, 'templates', '--copy', target)
    assert status == 2 and 'stage4.yaml would be overwritten' in err
    # None is copied, rather than some.
    assert [path.name for path in target.iterdir()] == ['stage4.yaml']
    assert (target / 'stage4.yaml').read_text() == 'mine'
    assert run(capsys, 'templates', '--copy', tmp_path / 'all')[0] == 0
    source = package_files.templates_dir()
    assert {
        path.name: path.read_bytes()
        for path in (tmp_path / 'all').iterdir()
    } == {
        path.name: path.read_bytes()
        for path in source.iterdir() if path.is_file()
    }


def test_templates_dir_inside_and_beside_the_package(tmp_path, monkeypatch):
    package = tmp_path / 'swift_citrusv'
    package.mkdir()
    monkeypatch.setattr(package_files.resources, 'files', lambda name: package)
    with pytest.raises(FileNotFoundError, match='Reinstall swift-citrusv'):
        package_files.templates_dir()
    for folder in (tmp_path / 'templates', package / 'templates'):
        folder.mkdir()
        (folder / 'stage1.yaml').write_text('')
        assert package_files.templates_dir() == folder


# ---- build


def test_build_says_what_it_built(tmp_path, capsys):
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
    status, out, err = run(capsys, 'build', '--mllm', 'tiny', '--sam2', 'tiny', '--output', output, '--corpus', corpus,
                           '--dtype', 'bfloat16', '--multimask-output', '--seed', 3)
    assert status == 0
    # Transformers' report of the weights that a plain Qwen2.5-VL cannot have.
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

    # A second build must not touch the first.
    status, out, err = run(capsys, 'build', '--mllm', 'tiny', '--sam2', 'tiny', '--output', output)
    assert (status, out) == (2, '') and 'already contains a model' in err


def test_build_refuses_an_mllm_that_lacks_a_weight(tiny_mllm, tmp_path, capsys):
    # The weights of the segmentation parts are always missing, and not reported; that must hide no other.
    source = tmp_path / 'mllm'
    shutil.copytree(tiny_mllm, source)
    weights = load_file(source / 'model.safetensors')
    lost = next(name for name in weights if name.endswith('merger.mlp.0.weight'))
    del weights[lost]
    save_file(weights, source / 'model.safetensors', metadata={'format': 'pt'})
    status, out, err = run(capsys, 'build', '--mllm', source, '--sam2', 'tiny', '--output', tmp_path / 'out')
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
    }, "'tiny' is of preset 'tiny'"),
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
    status, out, err = run(capsys, 'build', *flat)
    assert (status, out) == (2, '')
    last = err.splitlines()[-1]
    assert last.startswith('citrusv: error: ') and message.replace('{tmp}', str(tmp_path)) in last
    assert not (tmp_path / 'out').exists()
