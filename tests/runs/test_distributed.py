"""Runs on several ranks: whatever rows each of them has, none waits for ever, and the answer is that of one rank.

Every run is stock `swift sft` on CPUs (gloo). A step takes one row a rank, and a reference run of one rank takes the
same rows by accumulation.
"""
import functools
import json
import pytest
import torch
from support.closeness import assert_same_update, differences
from support.distributed.launcher import Ended, Launcher, RankError
from support.distributed.mixtures import KINDS, MAX_LENGTH, all_pairs, make_row, one_kind_each
from support.engines import ENGINES
from support.rows import Maker, write_jsonl
from transformers import AutoTokenizer

from swift_citrusv.model.segmenter import Segmenter

CHECKPOINTING = {
    'plain': ['--gradient_checkpointing', 'false'],
    'checkpointed': ['--gradient_checkpointing', 'true'],
}
# ms-swift's own file, which has it on.
FSDP2_CHECKPOINTED = ['--fsdp', 'fsdp2', '--gradient_checkpointing', 'false']
# For what is slow on a CPU: a step of ZeRO-3 or FSDP2 takes ten times as long as one of DDP.
FEW_KINDS = ('image', 'masks', 'silent')
ALL = '--freeze_vit false --freeze_aligner false'
TRAINED = {
    'stage 1': f'{ALL} --freeze_llm true --freeze_parameters segmenter seg_projector',
    'stage 3': ALL,
    'stage 4': '--freeze_llm true --freeze_vit true --freeze_aligner true',
    'LoRA': f'{ALL} --tuner_type lora --lora_rank 4 --lora_dropout 0',
}
LOGGED = ('loss', 'loss_token', 'loss_dice', 'loss_bce', 'num_masks', 'grad_norm')


@pytest.fixture(scope='module')
def launcher(tmp_path_factory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp('ranks'))


@pytest.fixture(scope='module')
def run(launcher, tiny_checkpoint, tmp_path_factory):
    """Runs rows on so many ranks, one optimizer step for as many rows as `step`; SAM2 sees one image at a time."""
    files: dict[str, str] = {}

    def run(rows, num_ranks: int, *arguments: str, step: int = 2, **kwargs) -> Ended:
        key = json.dumps(rows)
        if key not in files:
            files[key] = write_jsonl(tmp_path_factory.mktemp('rows') / 'train.jsonl', rows)
        return launcher.run(num_ranks, [
            '--model', tiny_checkpoint, '--dataset', files[key], '--tuner_type', 'full',
            '--gradient_accumulation_steps',
            str(step // num_ranks), '--model_kwargs', '{"seg_chunk": 1}', '--max_length',
            str(MAX_LENGTH), '--truncation_strategy', 'right', '--optim', 'sgd', '--learning_rate', '0.1', *arguments
        ], **kwargs)

    return run


def assert_same(ended: Ended, reference: Ended, tolerance: float = 1e-5) -> None:
    """The same logs, relative to their size; and the same weights, relative to the largest change of their part."""
    assert len(set(ended.digests)) == 1, 'the ranks end with different weights'
    assert len(ended.steps) == len(reference.steps) > 0
    for step, (log, expected) in enumerate(zip(ended.steps, reference.steps)):
        assert log.keys() == expected.keys()
        for key in LOGGED:
            # A step without masks has no mask loss.
            if key in expected:
                assert log[key] == pytest.approx(expected[key], rel=tolerance), f'{key} of step {step}'
    assert all(one.scale > 1e-4 for one in differences(ended.weights, reference.weights, reference.start))
    assert_same_update(ended.weights, reference.weights, reference.start, tolerance)


# ---- never hangs


@pytest.fixture(scope='module')
def references(run, tmp_path_factory):
    """kinds -> rows with all their pairs, and what one rank makes of them."""

    @functools.cache
    def reference(kinds: tuple[str, ...]) -> tuple[list, Ended]:
        rows = all_pairs(Maker(tmp_path_factory.mktemp('images')), kinds)
        return rows, run(rows, 1, *ALL.split(), *CHECKPOINTING['plain'])

    return reference


@pytest.mark.parametrize('checkpointing', CHECKPOINTING)
@pytest.mark.parametrize('engine', ENGINES)
def test_every_kind_of_row_beside_every_other(engine, checkpointing, run, references):
    arguments = [*ENGINES[engine], *CHECKPOINTING[checkpointing]]
    if engine == 'fsdp2' and checkpointing == 'checkpointed':
        arguments = FSDP2_CHECKPOINTED
    kinds = KINDS if engine in ('ddp', 'zero2') and checkpointing == 'plain' else FEW_KINDS
    rows, reference = references(kinds)
    assert len(reference.steps) == len(kinds)**2
    # Nothing is supervised at the last step, on any rank.
    assert reference.steps[-1]['loss'] == 0
    assert_same(run(rows, 2, *ALL.split(), *arguments), reference)


@pytest.fixture(scope='module')
def whole_runs(run, tmp_path_factory):
    """kinds, trained -> rows, arguments, and what one rank makes of them."""

    @functools.cache
    def whole_run(kinds: tuple[str, ...], trained: str) -> tuple[list, list[str], Ended]:
        rows = one_kind_each(Maker(tmp_path_factory.mktemp('images')), kinds, 2)
        arguments = [*TRAINED[trained].split(), *CHECKPOINTING['checkpointed']]
        return rows, arguments, run(rows, 1, *arguments)

    return whole_run


WHOLE_RUNS = [
    (('text', 'masks'), 'stage 4'),
    (('video', 'text'), 'stage 1'),
    (('silent', 'masks'), 'stage 3'),
    # Not under ZeRO-3, where PEFT's trainable tokens ask for CUDA, nor FSDP2, where they fail with tied embeddings.
    (('masks', 'image'), 'LoRA'),
]


@pytest.mark.parametrize('engine, kinds, trained',
                         [(engine, kinds, trained) for engine in ENGINES
                          for kinds, trained in WHOLE_RUNS if trained != 'LoRA' or engine in ('ddp', 'zero2')])
def test_one_kind_for_a_whole_run(engine, kinds, trained, run, whole_runs):
    rows, arguments, reference = whole_runs(kinds, trained)
    engine_arguments = FSDP2_CHECKPOINTED if engine == 'fsdp2' else ENGINES[engine]
    assert_same(run(rows, 2, *arguments, *engine_arguments), reference)


def test_zero3_trains_sam2_alone(run, tmp_path):
    """Without a gradient at its input, DeepSpeed would count the segmenter as done before it has begun."""
    rows = one_kind_each(Maker(tmp_path / 'images'), ('text', 'masks'), 2)
    arguments = [*TRAINED['stage 4'].split(), '--freeze_parameters', 'seg_projector', *CHECKPOINTING['plain']]
    assert_same(run(rows, 2, *arguments, *ENGINES['zero3']), run(rows, 1, *arguments))


def test_random_buffers_are_those_of_rank_0(run, tiny_mllm, tmp_path):
    """A fresh SAM2 has a random positional encoding, which is no parameter; every rank has a seed of its own."""
    rows = one_kind_each(Maker(tmp_path / 'images'), ('masks', 'masks'), 2)
    arguments = [*ALL.split(), *CHECKPOINTING['plain'], '--model', tiny_mllm, '--model_kwargs', '{"sam2": "tiny"}']
    reference = run(rows, 1, *arguments)
    for engine in ('ddp', 'zero2', 'fsdp2'):
        assert_same(run(rows, 2, *arguments, *ENGINES[engine]), reference)


def test_graft_under_zero3(run, tiny_mllm, tmp_path):
    """The weights that a fresh head needs are written while each rank has a share of them."""
    torch.manual_seed(1)
    sam2 = Segmenter('tiny').state_dict()
    torch.save({'model': sam2}, tmp_path / 'sam2.pt')
    rows = one_kind_each(Maker(tmp_path / 'images'), ('silent', 'silent'), 1)
    ended = run(rows, 2, *ALL.split(), *CHECKPOINTING['plain'], *ENGINES['zero3'], '--weight_decay', '0', '--model',
                tiny_mllm, '--model_kwargs', json.dumps({
                    'sam2': str(tmp_path / 'sam2.pt'),
                    'sam2_preset': 'tiny'
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


# ---- the watchdog, and what it is there for


@pytest.fixture(scope='module')
def unequal(tmp_path_factory):
    return one_kind_each(Maker(tmp_path_factory.mktemp('images')), ('text', 'masks'), 2)


def test_hang_shows_every_stack(run, unequal):
    with pytest.raises(RankError) as error:
        run(unequal, 2, *ALL.split(), sabotage='endless_rank', silence=15)
    first, second = str(error.value).split('---- rank 1 ----')
    assert 'no word from any rank for 15 s, and 2 of 2 hang' in first
    assert '_draw_for_ever' in first and 'backward' in second


@pytest.mark.parametrize('engine', ['ddp', 'zero3'])
def test_missing_zero_masks_are_seen(engine, run, unequal):
    with pytest.raises(RankError) as error:
        run(unequal, 2, *ALL.split(), *ENGINES[engine], sabotage='no_zero_masks', silence=15)
    assert str(error.value).count('File ') > 10


def test_zero2_needs_more_than_zero_gradients(run, unequal):
    """It adds up what comes first on each rank, whatever it is of; so an order of its own is a wrong gradient."""
    reference = run(unequal, 1, *ALL.split())
    ended = run(unequal, 2, *ALL.split(), *ENGINES['zero2'], sabotage='zero_gradients_alone')
    with pytest.raises(AssertionError, match='grad_norm of step 0'):
        assert_same(ended, reference)


# ---- the same answer on 1, 2 and 4 ranks


@pytest.fixture(scope='module')
def four_rows(run, tmp_path_factory):
    maker = Maker(tmp_path_factory.mktemp('images'))
    rows = [make_row(maker, kind, number) for kind, number in (('text', 0), ('masks', 1), ('image', 0), ('masks', 2))]
    return rows, run(rows, 1, *ALL.split(), step=4)


@pytest.mark.parametrize('num_ranks', [2, 4])
@pytest.mark.parametrize('engine', ['ddp', 'zero2'])
def test_same_step_on_any_number_of_ranks(engine, num_ranks, run, four_rows):
    rows, reference = four_rows
    assert len(reference.steps) == 1 and reference.steps[0]['num_masks'] == 5
    assert_same(run(rows, num_ranks, *ALL.split(), *ENGINES[engine], step=4), reference)
