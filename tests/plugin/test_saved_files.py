"""Checkpoints and adapters load in later versions: none of their files names a module of this package."""
import io
import json
import pickle
import pytest
import zipfile
from pathlib import Path
from safetensors import safe_open
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft

PACKAGE = 'swift_citrusv'
SAVE = ('--save_strategy steps --save_steps 1 --gradient_accumulation_steps 1 --per_device_train_batch_size 1 '
        '--eval_strategy no').split()


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp('saved')
    # From files whose names do not contain the package's, as args.json has them.
    return write_jsonl(folder / 'train.jsonl', Maker(folder / 'images').every_kind()[:4])


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in the files of a folder, zip members unpacked, by name."""
    found = {}
    for path in sorted(path for path in folder.rglob('*') if path.is_file()):
        data = path.read_bytes()
        found[path.name] = data
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                found |= {f'{path.name}/{name}': archive.read(name) for name in archive.namelist()}
    return found


@pytest.mark.parametrize('tuner', ['full', 'lora'])
def test_no_file_names_a_module_of_ours(tuner, dataset, tiny_checkpoint, tmp_path):
    run_sft('--model', tiny_checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
            str(tmp_path / 'out'), '--tuner_type', tuner, *SAVE, stop_after=1)  # yapf: disable
    checkpoint = tmp_path / 'out' / 'checkpoint-1'
    files = contents(checkpoint)
    expected = {'args.json', 'trainer_state.json', 'training_args.bin', 'optimizer.pt', 'scheduler.pt', 'rng_state.pth'}
    expected |= {
        'full': {'config.json', 'model.safetensors'},
        'lora': {'adapter_config.json', 'adapter_model.safetensors'}
    }[tuner]
    assert expected <= files.keys()
    assert [name for name, data in files.items() if PACKAGE.encode() in data] == []
    # Names of classes stand in some: this way the search above would find them.
    assert b'TrainingArguments' in b''.join(files.values())
    weights = next(path for path in checkpoint.glob('*.safetensors'))
    with safe_open(weights, 'pt') as file:
        assert set(file.metadata() or {}) <= {'format'}
    if tuner == 'full':
        config = json.loads(files['config.json'])
        assert (config['model_type'], config['architectures']) == ('citrusv', ['CitrusVForConditionalGeneration'])


def test_the_search_finds_a_class_of_ours(tmp_path):
    import torch

    from swift_citrusv.model.losses import LossWeights
    torch.save({'a': LossWeights()}, tmp_path / 'a.pt')
    (tmp_path / 'b.bin').write_bytes(pickle.dumps(LossWeights()))
    found = {name for name, data in contents(tmp_path).items() if PACKAGE.encode() in data}
    assert {'b.bin'} < found and any(name.startswith('a.pt/') for name in found)
