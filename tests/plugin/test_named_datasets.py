"""Misspelled names of datasets end a run when its arguments are read, in each flag, and never at a hub."""
import json
import pytest
from support.rows import Maker, write_jsonl
from types import SimpleNamespace

from swift_citrusv.plugin.dataset_names import check_names
from swift_citrusv.plugin.register import register


@pytest.fixture
def folder(tmp_path, monkeypatch):
    register()
    write_jsonl(tmp_path / 'train.jsonl', [Maker(tmp_path / 'images').row('Hi.', 'Hello.')])
    (tmp_path / 'cached').mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_flag(folder):
    for flag, good, bad in (
        ('dataset', 'train.jsonl#5', 'trainn.jsonl#5'),
        ('val_dataset', 'train.jsonl', 'train.jsonll'),
        ('dataset', 'ms::swift/some-dataset', 'some/where/train.jsonl'),
        ('dataset', 'hf::owner/train:subset#100', 'train:subset#100'),
            # Registered by ms-swift, by name and by the name on its hub.
        ('dataset', 'swift/self-cognition#500', 'rows:a.jsonl'),
        ('dataset', 'AI-ModelScope/alpaca-gpt4-data-zh#10', 'train.jsonl#many'),
        ('cached_dataset', 'cached', 'owner/cached'),
        ('cached_val_dataset', 'cached#3', 'catched'),
    ):
        check_names(SimpleNamespace(**{flag: [good]}))
        with pytest.raises(FileNotFoundError, match=f'^--{flag} ') as error:
            check_names(SimpleNamespace(**{flag: [good, bad]}))
        assert bad.partition('#')[0].partition(':')[0] in str(error.value), bad
    with pytest.raises(FileNotFoundError) as error:
        check_names(SimpleNamespace(dataset=['trainn.jsonl', 'train.jsonl'], val_dataset='vla.jsonl'))
    assert str(error.value).count('there is no such file') == 2


def test_the_arguments_of_a_run(folder, tiny_checkpoint):
    """Also the file of a dataset that --custom_dataset_info registers."""
    from swift.arguments import SftArguments
    common = {'model': tiny_checkpoint, 'model_type': 'citrusv', 'check_model': False, 'use_cpu': True,
              'output_dir': str(folder / 'out'), 'add_version': False}  # yapf: disable
    with pytest.raises(FileNotFoundError, match='--dataset trainn.jsonl: .*Did you mean train.jsonl'):
        SftArguments(dataset=['trainn.jsonl'], **common)
    assert not (folder / 'out').exists()
    for name in ('train.jsonl', 'nowhere.jsonl'):
        info = folder / f'info_{name}.json'
        info.write_text(json.dumps([{'dataset_name': f'mine-{name}', 'dataset_path': name}]))
        if name == 'train.jsonl':
            SftArguments(dataset=[f'mine-{name}'], custom_dataset_info=[str(info)], **common)
        else:
            with pytest.raises(FileNotFoundError, match='--dataset mine-nowhere.jsonl.*dataset_path .*/nowhere.jsonl'):
                SftArguments(dataset=[f'mine-{name}'], custom_dataset_info=[str(info)], **common)
