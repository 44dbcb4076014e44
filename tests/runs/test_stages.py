"""The four stage files train the parameters of the paper's table 4 and leave all others bit for bit as they are."""
import pytest
import torch
from pathlib import Path
from support.closeness import assert_same_update
from support.rows import Maker, write_jsonl
from support.swift_run import Watch, run_sft

TEMPLATES = Path(__file__).resolve().parents[2] / 'templates'
ALIGNER, VIT, LLM = 'model.visual.merger.', 'model.visual.', ('model.language_model.', 'lm_head.')
SEGMENTATION = ('seg_projector.', 'segmenter.')
# Parts of SAM2 that a [SEG] prompt does not use: point, box and mask prompts, score heads, the three multimask heads.
UNREACHED = ('segmenter.sam_prompt_encoder.point_embeddings', 'segmenter.sam_prompt_encoder.not_a_point_embed',
             'segmenter.sam_prompt_encoder.mask_downscaling', 'segmenter.sam_mask_decoder.iou_prediction_head',
             'segmenter.sam_mask_decoder.pred_obj_score_head',
             *(f'segmenter.sam_mask_decoder.output_hypernetworks_mlps.{i}' for i in (1, 2, 3)))
# stage -> (trained parts, learning rates of the optimizer's groups)
TABLE = {
    1: ({'aligner', 'ViT'}, {
        'aligner': 1e-5,
        'ViT': 2e-6
    }),
    2: ({'aligner', 'ViT', 'LLM'}, {
        'aligner': 1e-5,
        'ViT': 2e-6,
        'LLM': 1e-5
    }),
    3: ({'aligner', 'ViT', 'LLM', 'segmentation'}, {
        'aligner': 1e-5,
        'ViT': 2e-6,
        'LLM': 1e-5,
        'segmentation': 1e-5
    }),
    4: ({'segmentation'}, {
        'segmentation': 8e-5
    }),
}


def part_of(name: str) -> str | None:
    if name.startswith(UNREACHED):
        return None
    if name.startswith(SEGMENTATION):
        return 'segmentation'
    if name.startswith(LLM):
        return 'LLM'
    return 'aligner' if name.startswith(ALIGNER) else 'ViT' if name.startswith(VIT) else 'nowhere'


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stages')
    return write_jsonl(folder / 'train.jsonl', Maker(folder / 'images').every_kind())


def run_stage(stage: int, dataset: str, checkpoint: str, output: Path, *arguments: str) -> Watch:
    return run_sft(
        str(TEMPLATES / f'stage{stage}.yaml'),
        '--model',
        checkpoint,
        '--dataset',
        dataset,
        '--output_dir',
        str(output),
        '--dataset_num_proc',
        '1',
        '--gradient_accumulation_steps',
        '2',
        *arguments,
        stop_after=1)


@pytest.mark.parametrize('stage', TABLE)
def test_exactly_the_table_moves(stage, dataset, tiny_checkpoint, tmp_path):
    watch = run_stage(stage, dataset, tiny_checkpoint, tmp_path)
    trained, rates = TABLE[stage]
    assert watch.num_steps == 1
    assert {part_of(name) for name in watch.before} == {'aligner', 'ViT', 'LLM', 'segmentation', None}
    moved = {name for name in watch.before if not torch.equal(watch.before[name], watch.after[name])}
    wanted = {name for name in watch.before if part_of(name) in trained}
    assert sorted(moved - wanted) == []
    assert sorted(wanted - moved) == []
    assert watch.learning_rates == {part: pytest.approx(rate) for part, rate in rates.items()}


def test_stage_3_lets_a_thousandth_of_the_mask_gradient_into_the_mllm(dataset, tiny_checkpoint, tmp_path):
    """Without a token loss, so that only the mask loss reaches the MLLM."""
    scaled, whole = (run_stage(3, dataset, tiny_checkpoint, tmp_path / name, '--model_kwargs', kwargs)
                     for name, kwargs in (
                         ('scaled', '{"token_weight": 0}'),
                         ('whole', '{"token_weight": 0, "mask_grad_scale": 1}'),
                     ))
    expected = {
        name: gradient if name.startswith(SEGMENTATION) else gradient * 0.001
        for name, gradient in whole.gradients.items()
    }
    assert sum(part_of(name) in ('aligner', 'ViT', 'LLM') for name in expected) > 50
    assert_same_update(scaled.gradients, expected)
