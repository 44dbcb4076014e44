"""No code in a checkpoint is run: neither Python files nor pickles."""
import ast
import json
import pickle
import pytest
import shutil
import torch
from functools import partial
from pathlib import Path
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft

from swift_citrusv.model.build import build_checkpoint
from swift_citrusv.model.safe_loading import refuse_remote_code
from swift_citrusv.training.checkpoint_integrity import SEAL

ROOT = Path(__file__).resolve().parents[2]

# ---- code


def _evil(mark: Path, number: int) -> str:
    # A different text each time, because Transformers caches imported modules.
    return (f'# {number}\nopen({str(mark)!r}, "a").close()\nfrom transformers import Qwen2_5_VLConfig as Evil\n'
            'from transformers import Qwen2_5_VLProcessor as EvilProcessor\n')


AUTO_MAPS = [('config.json', 'AutoConfig', 'evil.Evil'), ('config.json', 'AutoModel', 'evil.Evil'),
             ('tokenizer_config.json', 'AutoTokenizer', ['evil.Evil', 'evil.Evil']),
             ('preprocessor_config.json', 'AutoImageProcessor', 'evil.Evil'),
             ('processor_config.json', 'AutoProcessor', 'evil.EvilProcessor'),
             ('generation_config.json', 'x', 'evil.x'), ('custom_generate', '', '')]


@pytest.mark.parametrize('plain', [False, True], ids=['citrusv', 'plain'])
def test_no_code_from_a_checkpoint_runs(plain, tiny_mllm, tiny_checkpoint, tmp_path, monkeypatch):
    from swift.model import get_model_processor

    from swift_citrusv.plugin.register import register
    register()
    monkeypatch.setenv('CITRUSV_SAM2', 'tiny')
    loads: list = [partial(get_model_processor, model_type='citrusv')]
    if not plain:
        # Without --model_type, a plain Qwen2.5-VL is loaded by ms-swift alone.
        loads.append(partial(get_model_processor, load_model=False))
    for number, (file, key, value) in enumerate(AUTO_MAPS):
        folder, mark = tmp_path / f'model{number}', tmp_path / f'mark{number}'
        shutil.copytree(tiny_mllm if plain else tiny_checkpoint, folder)
        code = _evil(mark, hash((file, key, plain)))
        if file == 'custom_generate':
            (folder / file).mkdir()
            (folder / file / 'generate.py').write_text(code)
        else:
            (folder / 'evil.py').write_text(code)
            path = folder / file
            content = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({**content, 'auto_map': {key: value}}))
        for load in (*loads, partial(build_checkpoint, sam2='tiny', output_dir=str(tmp_path / 'built'))):
            try:
                load(str(folder))
            except ValueError as error:
                assert 'no code from a checkpoint is run' in str(error), (file, key, load)
            else:
                pytest.fail(f'{file} with {key!r} was loaded by {load}')
        assert not mark.exists(), (file, key)


def test_attention_from_a_hub_and_nested_auto_map(tmp_path, tiny_checkpoint):
    refuse_remote_code(tiny_checkpoint)
    (tmp_path / 'config.json').write_text('{"text_config": {"attn_implementation": "someone/attention"}}')
    with pytest.raises(ValueError, match='an attention from a model hub.*someone/attention'):
        refuse_remote_code(str(tmp_path))
    (tmp_path / 'config.json').write_text('{"a": [{"auto_map": {}}]}')
    with pytest.raises(ValueError, match='auto_map'):
        refuse_remote_code(str(tmp_path))
    (tmp_path / 'config.json').write_text('{')
    with pytest.raises(ValueError, match='config.json cannot be read as JSON'):
        refuse_remote_code(str(tmp_path))


def test_a_preset_is_not_a_class_path(tiny_checkpoint, tmp_path):
    from swift_citrusv.model.config import CitrusVConfig
    from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
    folder = tmp_path / 'model'
    shutil.copytree(tiny_checkpoint, folder)
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, 'sam2_preset': 'os.system'}))
    with pytest.raises((ValueError, KeyError), match='os.system'):
        CitrusVForConditionalGeneration(CitrusVConfig.from_pretrained(str(folder)))


# ---- pickles


class _Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), 'w')


def test_pickled_weights_are_refused(tiny_checkpoint, tmp_path):
    from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
    from swift_citrusv.model.sam2_weights import load_sam2_weights
    from swift_citrusv.model.segmenter import Segmenter
    mark, folder = tmp_path / 'mark', tmp_path / 'model'
    shutil.copytree(tiny_checkpoint, folder)
    (folder / 'model.safetensors').unlink()
    torch.save({'a': _Evil(mark)}, folder / 'pytorch_model.bin')
    with pytest.raises((pickle.UnpicklingError, ValueError, OSError)):
        CitrusVForConditionalGeneration.from_pretrained(str(folder))
    with pytest.raises(ValueError, match='refused'):
        load_sam2_weights(Segmenter('tiny'), str(folder / 'pytorch_model.bin'))
    assert not mark.exists()
    torch.load(folder / 'pytorch_model.bin', weights_only=False)
    assert mark.exists()


def test_a_resumed_run_reads_no_pickles(tiny_checkpoint, tmp_path):
    rows = [row for row in Maker(tmp_path / 'images').every_kind() if not row.get('images')][:2]
    arguments = ('--model', tiny_checkpoint, '--model_type', 'citrusv', '--tuner_type', 'full', '--dataset',
                 write_jsonl(tmp_path / 'train.jsonl', rows), '--output_dir', str(tmp_path / 'out'),
                 '--gradient_accumulation_steps', '1', '--per_device_train_batch_size', '1', '--save_strategy', 'steps',
                 '--save_steps', '1', '--save_only_model', 'false', '--freeze_parameters', 'seg_projector', 'segmenter')
    run_sft(*arguments, stop_after=1)
    checkpoint = tmp_path / 'out' / 'checkpoint-1'
    # The seal has the size of each file; with it, the checkpoint would be refused as incomplete before loading.
    (checkpoint / SEAL).unlink()
    for name in ('optimizer.pt', 'scheduler.pt', 'rng_state.pth'):
        path, mark = checkpoint / name, tmp_path / f'mark of {name}'
        before = path.read_bytes()
        torch.save({'a': _Evil(mark)}, path)
        with pytest.raises((pickle.UnpicklingError, RuntimeError)):
            run_sft(*arguments, '--resume_from_checkpoint', str(checkpoint))
        assert not mark.exists(), name
        path.write_bytes(before)


# ---- the package's own source

_FORBIDDEN = ('eval', 'exec', 'compile', 'pickle.load', 'pickle.loads', 'marshal.loads', 'os.system', 'os.popen',
              'yaml.load', 'np.load', 'numpy.load', 'joblib.load', 'dill.load', 'dill.loads', 'shelve.open')


def _findings(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (name in _FORBIDDEN or name == 'torch.load' and given.get('weights_only') != 'True'
                or given.get('trust_remote_code', 'False') != 'False' or given.get('shell', 'False') != 'False'
                or given.get('allow_pickle', 'False') != 'False'):
            found.append(f'{node.lineno}: {ast.unparse(node)[:80]}')
    return found


def test_the_source_check_finds_each_kind():
    for line in ('eval("1")', 'pickle.load(f)', 'torch.load(f)', 'torch.load(f, weights_only=False)', 'np.load(f)',
                 'f(trust_remote_code=True)', 'f(x, shell=True)', 'np.lib.format.read_array(f, allow_pickle=True)'):
        assert len(_findings(line)) == 1, line
    assert not _findings('torch.load(f, weights_only=True)\nmodel.eval()\nre.compile("a")\nf(shell=False)')


@pytest.mark.parametrize('folder', ['swift_citrusv', 'examples'])
def test_the_source_neither_evaluates_nor_unpickles(folder):
    paths = sorted((ROOT / folder).rglob('*.py'))
    assert paths
    assert not {str(path): found for path in paths if (found := _findings(path.read_text(encoding='utf-8')))}
