"""The demo data: nothing of the held-out regions is trained on, and the rows keep the contract of a row."""
import json
import numpy as np
import pytest
import sys
from pathlib import Path
from PIL import Image
from pycocotools import mask as coco_mask

DEMO = Path(__file__).resolve().parents[2] / 'examples' / 'demo'
pytest.importorskip('skimage')
pytest.importorskip('pydicom')


@pytest.fixture(scope='module')
def demo():
    """The demo's modules, imported as its script imports them: from its own folder."""
    names = ('make_data', 'structures', 'tiles', 'wording')
    sys.path.insert(0, str(DEMO))
    try:
        import make_data
        import structures
        yield make_data.make_data, structures
    finally:
        sys.path.remove(str(DEMO))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope='module')
def made(demo, tmp_path_factory):
    """The folder, its summary, and its rows for each split."""
    folder = tmp_path_factory.mktemp('demo')
    summary = demo[0](folder, seed=0)
    return folder, summary, {split: _read(folder / f'{split}.jsonl') for split in ('train', 'val')}


def _read(path):
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def _decode(mask):
    return coco_mask.decode({'size': mask['size'], 'counts': mask['counts'].encode('ascii')}).astype(bool)


def _masks(rows):
    """Each mask with its structure id and the index of its image in the row."""
    for row in rows:
        indices = row.get('mask_images', [0] * len(row.get('masks', [])))
        yield from zip([row] * len(indices), indices, row['structure'], row.get('masks', []))


def test_no_held_out_pixel_is_trained_on(made):
    _, _, rows = made
    seen: dict[tuple[str, str], np.ndarray] = {}
    # Every pixel of every source, painted: an overlap of the splits of a single pixel would show.
    for split in rows:
        for row in rows[split]:
            for x0, y0, x1, y1 in row['box']:
                canvas = seen.setdefault((row['source'], split), np.zeros((1500, 1500), bool))
                assert 0 <= x0 < x1 and 0 <= y0 < y1
                canvas[y0:y1, x0:x1] = True
    sources = {source for source, _ in seen}
    assert sources == {'ihc', 'retina', 'ct', 'cell'}
    for source in sources:
        assert seen[source, 'train'].any() and seen[source, 'val'].any()
        assert not (seen[source, 'train'] & seen[source, 'val']).any(), source


def test_boxes_describe_the_stored_tiles(demo, made):
    """A held-out tile is the resized cut-out of its box, so the boxes can be trusted by the test above."""
    sources = {source.name: source for source in demo[1].load_sources()}
    checked = 0
    for row in made[2]['val']:
        for path, (x0, y0, x1, y1) in zip(row.get('images', []), row['box']):
            stored = Image.open(path)
            cut = Image.fromarray(sources[row['source']].image[y0:y1, x0:x1])
            expected = np.asarray(cut.resize(stored.size, Image.Resampling.BICUBIC), int)
            assert np.abs(np.asarray(stored, int) - expected).max() == 0
            checked += 1
    assert checked > 100


def test_masks_and_tokens_pair_up(made):
    folder, _, rows = made
    for row in rows['train'] + rows['val']:
        answers = [message['content'] for message in row['messages'] if message['role'] == 'assistant']
        questions = [message['content'] for message in row['messages'] if message['role'] == 'user']
        num_masks, images = len(row.get('masks', [])), row.get('images', [])
        assert sum(answer.count('[SEG]') for answer in answers) == num_masks == len(row['structure'])
        assert sum(question.count('<image>') for question in questions) == len(images) == len(row['box'])
        assert not any('<image>' in answer for answer in answers)
        assert all(Path(path).is_absolute() and Path(path).parent == folder / 'images' for path in images)
        # An empty list is not the same as no column: the row's contract leaves the column out.
        assert num_masks > 0 or 'masks' not in row
        if len(images) > 1:
            assert len(row['mask_images']) == num_masks
            assert all(0 <= index < len(images) for index in row['mask_images'])
        else:
            assert 'mask_images' not in row


def test_the_name_of_its_structure_follows_each_token(demo, made):
    """What makes a tiny language model put the structure into the hidden state at [SEG]."""
    structures = demo[1].STRUCTURES
    checked = 0
    for row in made[2]['train'] + made[2]['val']:
        text = ''.join(message['content'] for message in row['messages'] if message['role'] == 'assistant')
        for after, name in zip(text.split('[SEG]')[1:], row['structure']):
            label = ' ' + structures[name].english if row['language'] == 'en' else structures[name].chinese
            assert after.startswith(label)
            checked += 1
    assert checked > 1000


def test_masks_have_the_size_of_their_tile_and_a_fair_share_of_it(made):
    _, _, rows = made
    sizes: dict[str, tuple[int, int]] = {}
    for row, index, _, mask in _masks(rows['train'] + rows['val']):
        path = row['images'][index]
        width, height = sizes.setdefault(path, Image.open(path).size)
        assert mask['size'] == [height, width]
        assert isinstance(mask['counts'], str)
        assert 0.03 <= _decode(mask).mean() <= 0.85
    assert len(set(sizes.values())) > 2, 'tiles of one size alone would hide a swap of width and height'


def test_structures_of_a_tile_are_disjoint(made):
    _, _, rows = made
    by_tile: dict[str, dict[str, np.ndarray]] = {}
    for row, index, name, mask in _masks(rows['val']):
        by_tile.setdefault(row['images'][index], {})[name] = _decode(mask)
    assert all(len(masks) > 1 for masks in by_tile.values())
    assert all(np.sum(list(masks.values()), axis=0).max() == 1 for masks in by_tile.values())


def test_every_structure_kind_and_language_is_in_both_splits(demo, made):
    _, summary, rows = made
    kinds = {
        'single', 'pair', 'multi_turn', 'second_image', 'both_images', 'seg_in_question', 'modality', 'description',
        'presence', 'text'
    }
    for split in rows:
        counts = summary['splits'][split]
        assert set(counts['masks_by_structure']) == set(demo[1].STRUCTURES)
        assert {row['kind'] for row in rows[split]} == set(counts['rows_by_kind']) == kinds
        assert 0.2 < counts['rows_by_language']['zh'] / counts['num_rows'] < 0.45
        assert counts['num_rows'] == len(rows[split])
        assert counts['num_masks'] == sum(len(row.get('masks', [])) for row in rows[split])
        assert {tuple(row['mask_images']) for row in rows[split] if 'mask_images' in row} == {(1, ), (0, 1)}
        multi_turn = [row for row in rows[split] if row['kind'] == 'multi_turn']
        assert all(len(row['messages']) > 2 for row in multi_turn)
        assert all('[SEG]' in row['messages'][0]['content'] for row in rows[split] if row['kind'] == 'seg_in_question')
    assert 350 <= sum(summary['splits']['train']['tiles'].values()) <= 500
    assert 60 <= sum(summary['splits']['val']['tiles'].values()) <= 90
    assert 900 <= len(rows['train']) <= 1300


def test_each_structure_of_a_held_out_tile_has_one_scored_row(made):
    asked = [(row['images'][0], row['structure'][0]) for row in made[2]['val'] if row['kind'] == 'single']
    present = {(row['images'][index], name) for row, index, name, _ in _masks(made[2]['val'])}
    assert len(asked) == len(set(asked))
    assert set(asked) == present


@pytest.mark.slow
def test_a_seed_fixes_rows_and_pixels(demo, made, tmp_path):
    folder, _, _ = made
    demo[0](tmp_path, seed=0)
    for split in ('train', 'val'):
        again = (tmp_path / f'{split}.jsonl').read_text(encoding='utf-8').replace(str(tmp_path), str(folder))
        assert again == (folder / f'{split}.jsonl').read_text(encoding='utf-8')
    for path in sorted((folder / 'images').iterdir())[::40]:
        assert path.read_bytes() == (tmp_path / 'images' / path.name).read_bytes()
    demo[0](tmp_path, seed=1)
    assert [row['box'] for row in _read(tmp_path / 'train.jsonl')] != [row['box'] for row in made[2]['train']]


def test_it_needs_no_network(demo, monkeypatch, tmp_path):
    """Only images that ship inside the packages: a fetch through pooch or a socket fails the run."""
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError('the demo data reached for the network')

    monkeypatch.setattr(socket, 'socket', refuse)
    monkeypatch.setattr(socket, 'create_connection', refuse)
    assert len(demo[1].load_sources()) == 4
