"""The dry run of a step against closed forms."""
import pytest
import torch
from support.training_step import scaled_config

from swift_citrusv.estimate.dry_run import DryRun, Load, Phase
from swift_citrusv.estimate.stage import freeze_as_stage
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


def phases(load: Load,
           *,
           checkpointing: bool = True,
           block_mask: bool = False,
           text: dict | None = None,
           stage: int = 2) -> dict[str, Phase]:
    with torch.device('meta'):
        model = CitrusVForConditionalGeneration(scaled_config(**(text or {})))
    freeze_as_stage(model, stage)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    run = DryRun(model, load, block_mask=block_mask, keep_gradients=False)
    return {phase.name: phase for phase in run.run()}


def test_a_checkpointed_layer_keeps_its_input():
    load = Load(512, 0, 16, 0, 0)
    four, six = (phases(load, text={'num_hidden_layers': n})['language model'] for n in (4, 6))
    assert six.kept - four.kept == 2 * 4 * 512 * 512
    # The working set is that of one layer, whatever the number of layers.
    assert six.backward - six.kept == pytest.approx(four.backward - four.kept, abs=4 * 512 * 512 * 2)


def test_all_layers_keep_their_working_set_without_checkpointing():
    load, width = Load(512, 0, 16, 0, 0), 1408
    four, five = (phases(load, checkpointing=False, text={'num_hidden_layers': n})['language model'] for n in (4, 5))
    # The MLP keeps gate, its activation, up and their product.
    assert five.kept - four.kept > 4 * 4 * 512 * width
    checkpointed = phases(load)['language model']
    assert five.kept - four.kept < checkpointed.backward


@pytest.mark.parametrize('checkpointing', [True, False])
def test_a_mask_of_all_pairs(checkpointing):
    for tokens in (512, 1024):
        load = Load(tokens, 0, 16, 0, 0)
        masked, without = (
            phases(load, checkpointing=checkpointing, block_mask=block_mask)['language model']
            for block_mask in (True, False))
        # A checkpoint keeps the boolean mask; a layer keeps it in the dtype of the queries. With a mask, sdpa also
        # repeats keys and values for each head, which is linear in the tokens.
        squares = 1 if checkpointing else 4 * 4
        repeated = 0 if checkpointing else 4 * 2 * 4 * tokens * (512 - 128)
        assert masked.kept - without.kept == pytest.approx(squares * tokens**2 + repeated, rel=0.01)


def test_logits_are_in_float32_three_times():
    vocabulary = 65536
    few, many = (
        phases(Load(2048, 0, supervised, 0, 0), text={'vocab_size': vocabulary})['head and losses']
        for supervised in (1000, 1500))
    assert many.backward - few.backward == pytest.approx(12 * 500 * vocabulary, rel=0.02)


def test_sam2_keeps_features_for_each_image_and_mask():
    """At strides 4, 8 and 16 with C/8, C/4 and C channels; C = 64 and a side of 256 pixels in the tiny preset."""
    features = 4 * (8 * 64**2 + 16 * 32**2 + 64 * 16**2)
    one, more = (phases(Load(256, 0, 16, 2, masks), stage=4)['SAM2'].kept for masks in (2, 8))
    # Each mask keeps a copy of the features, and its logits.
    assert more - one == pytest.approx(6 * (features + 4 * 64**2), rel=0.1)
    # An image itself keeps only its pixels, for the recomputation.
    full, half = (phases(Load(256, 0, 16, images, 8), stage=4)['SAM2'].kept for images in (8, 4))
    assert full - half == 4 * 3 * 256**2


def test_parameters_that_zero3_gathers():
    model = CitrusVForConditionalGeneration(scaled_config())
    sizes = [
        sum(p.numel() for module in modules for p in module.parameters())
        for modules in ((model.model.visual, ), (model.model.language_model, ), (model.segmenter, model.seg_projector),
                        (model.lm_head, ))
    ]
    # The parameters of a part stay gathered until its backward pass.
    all_parts = phases(Load(256, 64, 64, 1, 1), stage=3).values()
    assert [phase.gathered for phase in all_parts] == [sum(sizes[:end]) for end in (1, 2, 3, 4)]
    # A frozen MLLM is gathered module by module: the widest of the merger, and the embeddings.
    vision, language, sam2, head = phases(Load(256, 64, 64, 1, 1), stage=4).values()
    assert vision.gathered == 1024 * 1024 + 1024 and language.gathered == 4096 * 512
    assert sam2.gathered == sizes[2] and head.gathered == sizes[2] + sizes[3]
