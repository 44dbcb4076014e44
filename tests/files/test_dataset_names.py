"""A misspelled file of --dataset is found at once, with the file that was meant; names of hubs are left alone."""
import pytest

from swift_citrusv.files.dataset_names import missing_dataset, near_names


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory: files of rows, some in a folder."""
    for name in ('train.jsonl', 'Val.jsonl', 'data/liver.jsonl', 'data/kidney.parquet', 'cached/train/data.arrow',
                 'swift/setup.py', 'squad.py', '大脑.jsonl', 'my rows.csv'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_misspelled_files(folder):
    for name, meant in (
        ('trainn.jsonl', 'train.jsonl'),
        ('train.jsnl', 'train.jsonl'),
        ('train', 'train.jsonl'),
        ('train.json', 'train.jsonl'),
        ('val.jsonl', 'Val.jsonl'),
        ('data/livr.jsonl', 'data/liver.jsonl'),
        ('dta/liver.jsonl', 'data/liver.jsonl'),
        ('data/kidney.csv', 'data/kidney.parquet'),
        ('data/liver', 'data/liver.jsonl'),
        ('dat', 'data'),
        ('./trains.jsonl', './train.jsonl'),
        (f'{folder}/train.jsonll', f'{folder}/train.jsonl'),
        ('大恼.jsonl', '大脑.jsonl'),
        ('my_rows.csv', 'my rows.csv'),
    ):
        problem = missing_dataset(name, '--dataset')
        assert problem is not None, name
        assert problem.startswith(
            f'--dataset {name}: there is no such file') and f'Did you mean {meant}?' in problem, name
        assert str(folder) in problem, name


def test_paths_without_a_neighbour():
    for name in ('nothing_like_it.jsonl', '/nowhere/rows.parquet', '../a/b', '~/x.json', 'a/b/c', 'some/',
                 'far\\away.jsonl'):
        problem = missing_dataset(name, '--val_dataset')
        assert problem is not None and problem.startswith(f'--val_dataset {name}:') and 'Did you' not in problem, name
    assert 'no URLs' in (missing_dataset('https://example.com/rows.jsonl', '--dataset') or '')


def test_home_is_found(folder, monkeypatch):
    """The shell leaves the ~ of `--dataset=~/train.jsonl`, and ms-swift does too."""
    monkeypatch.setenv('HOME', str(folder))
    assert f'Did you mean {folder}/train.jsonl?' in (missing_dataset('~/train.jsonl', '--dataset') or '')


def test_names_of_hubs_and_existing_files():
    for name in ('train.jsonl', 'data', 'data/liver.jsonl', 'AI-ModelScope/alpaca-gpt4-data-zh', 'squad',
                 'swift/sharegpt', 'owner/kidney', 'imdb'):
        assert missing_dataset(name, '--dataset') is None, name
    # A cached dataset is always a folder.
    assert 'Did you mean cached/train?' in (missing_dataset('cached/trainn', '--cached_dataset', may_be_on_hub=False)
                                            or '')
    assert missing_dataset('owner/name', '--cached_dataset', may_be_on_hub=False) is not None


def test_a_near_file_can_be_told_from_a_hub():
    assert 'hf::NAME or ms::NAME' in (missing_dataset('train', '--dataset') or '')
    assert 'hf::' not in (missing_dataset('trainn.jsonl', '--dataset') or '')
    assert near_names('train.jsnl')[0] == 'train.jsonl' and near_names('zzz') == []
