"""The start of whole runs: the report, and runs that contradict themselves stop before the first step."""
import logging
import pytest
import re
import torch
import warnings
from support.distributed.launcher import RankError
from support.distributed.mixtures import all_pairs
from support.engines import ENGINES
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Rows without masks, and rows of which the first with a mask is the third."""
    folder = tmp_path_factory.mktemp('rows')
    maker = Maker(folder / 'images')
    text = [maker.row(f'Is bone {i} hard?', 'Yes.') for i in range(6)]
    return {
        'text': write_jsonl(folder / 'text.jsonl', text),
        'mixed': write_jsonl(folder / 'mixed.jsonl', maker.every_kind())
    }


def _run(caplog, checkpoint, dataset, output, *arguments):
    caplog.set_level(logging.INFO)
    caplog.clear()
    logger = logging.getLogger('swift')
    logger.addHandler(caplog.handler)
    try:
        return run_sft('--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
                       str(output), '--max_steps', '1', *arguments)
    finally:
        logger.removeHandler(caplog.handler)


def test_segmentation_is_trained_without_a_mask(files, tiny_checkpoint, tmp_path, caplog):
    """From a file and from a stream, for full training and LoRA."""
    for name, arguments in {
            'lazy': '--tuner_type full',
            'streamed packs': '--tuner_type full --streaming true --packing true',
            'LoRA': '--tuner_type lora --lora_rank 2',
    }.items():
        with pytest.raises(ValueError, match='Segmentation is trained .*none of the 6 rows') as error:
            _run(caplog, tiny_checkpoint, files['text'], tmp_path / name, *arguments.split())
        assert '--freeze_parameters seg_projector segmenter' in str(error.value), name
        assert not list((tmp_path / name).glob('checkpoint-*')), name


def test_the_remedy_works(files, tiny_checkpoint, tmp_path, caplog):
    """Frozen by the named flag, text trains and segmentation stays bit for bit as it is, with LoRA too."""
    for tuner, rows in (('full', 'mixed'), ('lora', 'text')):
        watch = _run(caplog, tiny_checkpoint, files[rows], tmp_path / tuner, '--tuner_type', tuner, '--learning_rate',
                     '1e-2', '--freeze_parameters', 'seg_projector', 'segmenter')
        changed = {name for name in watch.before if not torch.equal(watch.before[name], watch.after[name])}
        assert changed and not any('seg' in name.split('.modules_to_save')[0] for name in changed), tuner
        assert 'segmentation: frozen' in caplog.text, tuner


def test_the_report_of_a_stream(files, tiny_checkpoint, tmp_path, caplog):
    watch = _run(
        caplog, tiny_checkpoint, files['mixed'], tmp_path, *'--tuner_type lora --lora_rank 2 --streaming true '
        '--model_kwargs {"seg_lr":1e-3} --learning_rate 1e-4'.split())
    assert re.search(r'training set: streamed, counted as read; the first row with masks is \S*mixed\.jsonl:3',
                     caplog.text)
    assert '[SEG] embedding: trained (as one of trainable_token_indices), learning rate 0.0001' in caplog.text
    assert 'parameters), learning rate 0.001' in caplog.text and watch.num_steps == 1


def test_frozen_parts_are_not_checkpointed(files, tiny_checkpoint, tmp_path, caplog):
    """Gradient checkpointing is on, and torch has no reason to warn that gradients will be None."""
    for name, arguments in {
            'the whole MLLM is frozen': '--tuner_type full --freeze_llm true --freeze_vit true --freeze_aligner true',
            'LoRA, the vision tower is frozen': '--tuner_type lora --lora_rank 2 --packing true',
    }.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            watch = _run(caplog, tiny_checkpoint, files['mixed'], tmp_path / name, '--gradient_checkpointing', 'true',
                         *arguments.split())
        assert not [str(w.message) for w in caught if 'requires_grad' in str(w.message)], name
        moved = [name for name, value in watch.before.items() if not torch.equal(value, watch.after[name])]
        assert any('segmenter' in name for name in moved), name


def test_two_ranks(run_rows, tmp_path):
    """The optimizer's own rates under engines that hold other parameters; all ranks stop at a contradiction."""
    maker = Maker(tmp_path / 'images')
    rows = all_pairs(maker, ('text', 'masks'))
    masks = [len(row.get('masks') or ()) for row in rows]
    for engine in ('zero2', 'fsdp2'):
        ended = run_rows(rows, 2, '--model_kwargs', '{"seg_chunk": 1, "seg_lr": 0.03125}', *ENGINES[engine])
        assert ended.text.count('this run:') == 1, engine
        for wanted in (f'rows: {len(rows)}, with masks: {sum(map(bool, masks))}, masks: {sum(masks)}',
                       'segmentation: trained (756,184 of 801,409 parameters), learning rate 0.03125',
                       '[SEG] embedding: trained (with all embeddings), learning rate 0.1'):
            assert wanted in ended.text, (engine, wanted, ended.text)
    text = [maker.row(f'Is bone {i} hard?', 'Yes.') for i in range(4)]
    with pytest.raises(RankError) as error:
        run_rows(text, 2)
    assert str(error.value).count('ValueError: Segmentation is trained') == 2
    assert 'no output from any rank' not in str(error.value)
