"""Each rank has rows of its own kind for a whole run, in each training stage: the result is that of one rank."""
import functools
import pytest
from support.distributed.comparison import assert_same_run
from support.distributed.launcher import Ended
from support.distributed.mixtures import one_kind_each
from support.engines import CHECKPOINTING, ENGINES, FSDP2_CHECKPOINTED, TRAIN_ALL
from support.rows import Maker

TRAINED = {
    'stage 1': [*TRAIN_ALL, *'--freeze_llm true --freeze_parameters segmenter seg_projector'.split()],
    'stage 3': TRAIN_ALL,
    'stage 4': '--freeze_llm true --freeze_vit true --freeze_aligner true'.split(),
    'LoRA': [*TRAIN_ALL, *'--tuner_type lora --lora_rank 4 --lora_dropout 0'.split()],
}


@pytest.fixture(scope='module')
def whole_runs(run_rows, tmp_path_factory):
    """kinds, trained -> rows, arguments, and the run of one rank."""

    @functools.cache
    def whole_run(kinds: tuple[str, ...], trained: str) -> tuple[list, list[str], Ended]:
        rows = one_kind_each(Maker(tmp_path_factory.mktemp('images')), kinds, 2)
        arguments = [*TRAINED[trained], *CHECKPOINTING['checkpointed']]
        return rows, arguments, run_rows(rows, 1, *arguments)

    return whole_run


WHOLE_RUNS = [
    (('text', 'masks'), 'stage 4'),
    (('video', 'text'), 'stage 1'),
    (('silent', 'masks'), 'stage 3'),
    # Not under ZeRO-3, where PEFT's trainable tokens need CUDA, nor FSDP2, where they fail with tied embeddings.
    (('masks', 'image'), 'LoRA'),
]


@pytest.mark.parametrize('engine, kinds, trained',
                         [(engine, kinds, trained) for engine in ENGINES
                          for kinds, trained in WHOLE_RUNS if trained != 'LoRA' or engine in ('ddp', 'zero2')])
def test_one_kind_for_a_whole_run(engine, kinds, trained, run_rows, whole_runs):
    rows, arguments, reference = whole_runs(kinds, trained)
    engine_arguments = FSDP2_CHECKPOINTED if engine == 'fsdp2' else ENGINES[engine]
    assert_same_run(run_rows(rows, 2, *arguments, *engine_arguments), reference)


def test_zero3_trains_sam2_alone(run_rows, tmp_path):
    """If the segmenter's input had no gradient, DeepSpeed would release its parameters before the backward pass."""
    rows = one_kind_each(Maker(tmp_path / 'images'), ('text', 'masks'), 2)
    arguments = [*TRAINED['stage 4'], '--freeze_parameters', 'seg_projector', *CHECKPOINTING['plain']]
    assert_same_run(run_rows(rows, 2, *arguments, *ENGINES['zero3']), run_rows(rows, 1, *arguments))
