"""`swift rlhf` trains text: the projector and SAM2 stay as they are, and what it would ignore is refused."""
import dataclasses
import logging
import pytest
import sys
import torch
from pathlib import Path
from safetensors.torch import load_file
from support.rows import Maker, write_jsonl
from support.swift_run import Watch, run_sft
from types import ModuleType
from typing import Any

SEGMENTATION = ('segmenter.', 'seg_projector.')
LORA = ('--tuner_type', 'lora', '--lora_rank', '4', '--save_strategy', 'steps', '--save_steps', '1')
ARGUMENTS: dict[str, tuple[str, ...]] = {
    'dpo': (),
    'orpo': (),
    'simpo': (),
    'cpo': (),
    'kto': (),
    'rm': (),
    'grpo': ('--reward_funcs', 'format', '--num_generations', '2', '--max_completion_length', '4'),
    # Without rollouts: the tiny model would write placeholders of images.
    'gkd': ('--lmbda', '0'),
}


@pytest.fixture(scope='module')
def datasets(tmp_path_factory) -> dict[str, str]:
    """For each kind of RLHF four rows, with masks where it has answers."""
    folder = tmp_path_factory.mktemp('rlhf')
    maker = Maker(folder / 'images')

    def rows(columns: Any) -> list[dict[str, Any]]:
        return [
            maker.row(
                '<image>Segment the cell.',
                f'The cell number {i}: [SEG].',
                images=[maker.image()],
                masks=[maker.mask()],
                **columns(i)) for i in range(4)
        ]

    pairs = write_jsonl(folder / 'pairs.jsonl', rows(lambda i: {'rejected_response': 'It is not there, [SEG] [SEG].'}))
    files = dict.fromkeys(('dpo', 'orpo', 'simpo', 'cpo', 'rm'), pairs)
    files['kto'] = write_jsonl(folder / 'kto.jsonl', rows(lambda i: {'label': bool(i % 2)}))
    files['gkd'] = write_jsonl(folder / 'gkd.jsonl', rows(lambda i: {}))
    prompts = [maker.row('<image>Segment the cell.', images=[maker.image()]) for _ in range(4)]
    files['grpo'] = write_jsonl(folder / 'grpo.jsonl', prompts)
    return files


@pytest.fixture
def msgspec(monkeypatch) -> None:
    """What ms-swift takes from this package, which it does not require, and uses with vLLM alone."""
    module = ModuleType('msgspec')
    module.field = dataclasses.field  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, 'msgspec', module)


def run_rlhf(kind: str, dataset: str, model: str, output: Path, *arguments: str) -> Watch:
    return run_sft('--rlhf_type', kind, '--model', model, '--model_type', 'citrusv', '--dataset', dataset,
                   '--output_dir', str(output), '--tuner_type', 'full', '--learning_rate', '1e-2', '--weight_decay',
                   '0.1', '--num_train_epochs', '1', '--per_device_train_batch_size', '2',
                   '--gradient_accumulation_steps', '1', *ARGUMENTS[kind], *arguments, rlhf=True)  # yapf: disable


@pytest.mark.parametrize('kind', ARGUMENTS)
def test_segmentation_stays(kind, datasets, tiny_checkpoint, tmp_path, msgspec, caplog):
    """Under weight decay 0.1, whatever the rows say about masks; the language model trains."""
    logging.getLogger('swift').addHandler(caplog.handler)
    try:
        watch = run_rlhf(kind, datasets[kind], tiny_checkpoint, tmp_path)
    finally:
        logging.getLogger('swift').removeHandler(caplog.handler)
    assert watch.num_steps >= 2
    segmentation = [name for name in watch.before if name.startswith(SEGMENTATION)]
    assert len(segmentation) > 100
    for name in segmentation:
        assert torch.equal(watch.before[name], watch.after[name]), name
    assert any(not torch.equal(value, watch.after[name]) for name, value in watch.before.items()
               if 'language_model' in name)
    assert len({record.message for record in caplog.records if 'masks of the rows are not used' in record.message}) == 1


def saved(output: Path) -> dict[str, torch.Tensor]:
    return load_file(max(output.glob('**/checkpoint-*/adapter_model.safetensors')))


def test_adapters(datasets, tiny_checkpoint, tiny_mllm, tmp_path):
    """A new adapter has no copy of the segmentation modules; one with a trained copy keeps it, on a plain model too."""
    run_rlhf('dpo', datasets['dpo'], tiny_checkpoint, tmp_path / 'new', *LORA)
    new = saved(tmp_path / 'new')
    assert new and not any('seg' in name for name in new), list(new)
    grafted = ('--model_kwargs', '{"sam2": "tiny"}')
    base = ('--model', tiny_mllm, '--model_type', 'citrusv', '--dataset', datasets['gkd'], '--learning_rate', '1e-2')
    run_sft(*base, '--output_dir', str(tmp_path / 'sft'), *LORA, *grafted, stop_after=1)
    trained = saved(tmp_path / 'sft')
    adapter = str(max((tmp_path / 'sft').glob('**/checkpoint-*')))
    run_rlhf('dpo', datasets['dpo'], tiny_mllm, tmp_path / 'dpo', *LORA, *grafted, '--adapters', adapter)
    after = saved(tmp_path / 'dpo')
    assert after.keys() == trained.keys()
    for name, value in trained.items():
        if 'segmenter' in name or 'seg_projector' in name:
            assert torch.equal(value, after[name]), name
    assert any('segmenter' in name for name in after)
    assert any(not torch.equal(value, after[name]) for name, value in trained.items() if 'lora' in name)


@pytest.mark.parametrize('arguments, message', [
    (('--model_kwargs', '{"seg_lr": 1e-4}'), 'seg_lr=0.0001 has no effect in `swift rlhf`'),
    (('--model_kwargs', '{"dice_weight": 3}'), 'dice_weight=3.0 has no effect'),
    (('--model_kwargs', '{"nonfinite": "skip"}'), 'nonfinite=skip has no effect'),
    (('--eval_metric', 'citrusv_seg'), '--eval_metric citrusv_seg has no effect'),
    (('--trainable_parameters', 'segmenter.sam_mask_decoder'), 'names segmenter.sam_mask_decoder'),
    (('--tuner_type', 'lora', '--modules_to_save', 'seg_projector'), '--modules_to_save names seg_projector'),
])
def test_what_would_be_ignored(arguments, message, datasets, tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_rlhf('dpo', datasets['dpo'], tiny_checkpoint, tmp_path, *arguments)


@pytest.mark.parametrize('arguments', [(), ('--tuner_type', 'lora')])
def test_random_head(arguments, datasets, tiny_mllm, tmp_path):
    with pytest.raises(ValueError, match='has no segmentation head, and `swift rlhf` cannot train one'):
        run_rlhf('dpo', datasets['dpo'], tiny_mllm, tmp_path, '--model_kwargs', '{"sam2": "tiny"}', *arguments)
