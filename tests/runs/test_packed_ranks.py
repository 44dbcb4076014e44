"""One step of packs on one rank and on two: the same losses and the same weights, in float64 to the last digits."""
import pytest
from support.closeness import assert_same_update
from support.distributed.precision import PRECISIONS
from support.rows import Maker, write_jsonl

COMMON = ('--tuner_type full --freeze_vit false --freeze_aligner false --packing true --optim sgd --weight_decay 0 '
          '--learning_rate 0.01 --model_kwargs {"pack_images":16,"seg_lr":0.01}').split()
# name -> (the pack of one rank, the packs of two ranks)
LAYOUTS = {
    'packs':
    ('--packing_length 2048 --gradient_accumulation_steps 1', '--packing_length 800 --gradient_accumulation_steps 2'),
    'pieces': ('--max_length 200 --truncation_strategy split --packing_length 2048 --gradient_accumulation_steps 1',
               '--max_length 200 --truncation_strategy split --packing_length 400 --gradient_accumulation_steps 4'),
}


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('rows')
    maker = Maker(folder / 'images')
    rows = [row for row in maker.every_kind() if len(row.get('videos', [[]])[0]) < 4]
    rows.append(maker.row('Tell me all.', ' '.join(['The cell has a nucleus.'] * 60)))
    return write_jsonl(folder / 'train.jsonl', rows)


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('name', LAYOUTS)
def test_one_step(name, precision, launcher, dataset, tiny_checkpoint):
    common = ['--model', tiny_checkpoint, '--dataset', dataset, *COMMON]
    sabotage, rel = PRECISIONS[precision]
    one, two = (launcher.run(world_size, common + layout.split(), sabotage=sabotage)
                for world_size, layout in zip((1, 2), LAYOUTS[name]))
    assert two.digests[0] == two.digests[1]
    expected, logged = one.logs[0][0], two.logs[0][0]
    assert expected['num_masks'] == logged['num_masks'] > 5
    for key in ('loss', 'loss_token', 'loss_dice', 'loss_bce'):
        assert logged[key] == pytest.approx(expected[key], rel=rel), key
    assert_same_update(two.weights, one.weights, one.start, rel)
