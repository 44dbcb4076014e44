"""The same step on one, two and four ranks; random and grafted weights are the same on every rank."""
import json
import pytest
import torch
from support.distributed.comparison import assert_same_run
from support.distributed.mixtures import make_row, one_kind_each
from support.engines import CHECKPOINTING, ENGINES, TRAIN_ALL
from support.rows import Maker
from transformers import AutoTokenizer

from swift_citrusv.model.segmenter import Segmenter


@pytest.fixture(scope='module')
def four_rows(run_rows, tmp_path_factory):
    maker = Maker(tmp_path_factory.mktemp('images'))
    rows = [make_row(maker, kind, number) for kind, number in (('text', 0), ('masks', 1), ('image', 0), ('masks', 2))]
    return rows, run_rows(rows, 1, *TRAIN_ALL, step=4)


@pytest.mark.parametrize('num_ranks', [2, 4])
@pytest.mark.parametrize('engine', ['ddp', 'zero2'])
def test_same_step_on_any_number_of_ranks(engine, num_ranks, run_rows, four_rows):
    rows, reference = four_rows
    assert len(reference.steps) == 1 and reference.steps[0]['num_masks'] == 5
    assert_same_run(run_rows(rows, num_ranks, *TRAIN_ALL, *ENGINES[engine], step=4), reference)


def test_random_buffers_are_those_of_rank_0(run_rows, tiny_mllm, tmp_path):
    """A fresh SAM2 has a random positional encoding, which is not a parameter; every rank has its own seed."""
    rows = one_kind_each(Maker(tmp_path / 'images'), ('masks', 'masks'), 2)
    arguments = [*TRAIN_ALL, *CHECKPOINTING['plain'], '--model', tiny_mllm, '--model_kwargs', '{"sam2": "tiny"}']
    reference = run_rows(rows, 1, *arguments)
    for engine in ('ddp', 'zero2', 'fsdp2'):
        assert_same_run(run_rows(rows, 2, *arguments, *ENGINES[engine]), reference)


def test_graft_under_zero3(run_rows, tiny_mllm, tmp_path):
    """A fresh head is initialised while each rank holds a share of its weights."""
    torch.manual_seed(1)
    sam2 = Segmenter('tiny').state_dict()
    torch.save({'model': sam2}, tmp_path / 'sam2.pt')
    rows = one_kind_each(Maker(tmp_path / 'images'), ('silent', 'silent'), 1)
    ended = run_rows(rows, 2, *TRAIN_ALL, *CHECKPOINTING['plain'], *ENGINES['zero3'], '--weight_decay', '0', '--model',
                     tiny_mllm, '--model_kwargs',
                     json.dumps({
                         'sam2': str(tmp_path / 'sam2.pt'),
                         'sam2_preset': 'tiny',
                         'seg_lr': 0
                     }))
    assert len(set(ended.digests)) == 1
    trained = [name for name in sam2 if f'segmenter.{name}' in ended.weights]
    assert len(trained) > 200
    # No row had a mask or a target, so the step changed nothing.
    for name in trained:
        torch.testing.assert_close(ended.weights[f'segmenter.{name}'], sam2[name], rtol=0, atol=0)
    embeddings = ended.weights['model.language_model.embed_tokens.weight']
    seg_token_id = len(AutoTokenizer.from_pretrained(tiny_mllm))
    torch.testing.assert_close(embeddings[seg_token_id], embeddings[:seg_token_id].mean(dim=0))
