"""The cost model against PyTorch's FLOP counter on a real model."""
import copy
import dataclasses
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typing import NamedTuple

from swift_citrusv.estimate.flops import CostModel, Workload, sam2_forward_flops
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.packing.packs import pack_arrays


class Row(NamedTuple):
    """Text tokens, and the sides in vision tokens of square images; SAM2 sees the first `num_seg` of them."""
    num_text: int
    sides: tuple[int, ...] = ()
    num_seg: int = 0

    @property
    def chunk(self) -> tuple[int, int, int, int]:
        vision = sum(side**2 for side in self.sides)
        return 0, self.num_text + vision, vision, self.num_seg


# Rows of every kind; each of the four cost terms dominates in one of the packs.
PACKS = {
    'text': [Row(700), Row(300)],
    'long': [Row(2500)],
    'pictures': [Row(10, (4, 4, 4, 4)), Row(20, (6, 6, 5, 6, 6))],
    'masks': [Row(20, (4, ), 1), Row(20, (4, 4), 2)],
    'mixed': [Row(400), Row(40, (6, 6)), Row(30, (6, ), 1)],
}
# What the stages train (table 4 of the paper), as prefixes of parameter names.
STAGES = {
    1: ('model.visual.', ),
    2: ('model.', 'lm_head.'),
    3: ('', ),
    4: ('segmenter.', 'seg_projector.'),
}


@pytest.fixture(scope='module')
def loaded(tiny_checkpoint) -> CitrusVForConditionalGeneration:
    return CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)


@pytest.fixture
def model(loaded) -> CitrusVForConditionalGeneration:
    return copy.deepcopy(loaded).train()


def train_stage(model: CitrusVForConditionalGeneration, stage: int) -> None:
    reached = [name for name, parameter in model.requires_grad_(True).named_parameters() if parameter.requires_grad]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in reached and name.startswith(STAGES[stage]))


def inputs_of(row: Row, config) -> dict[str, torch.Tensor]:
    _, length, num_vision, _ = row.chunk
    ids = torch.full((1, length), 5)
    places = torch.zeros(length, dtype=torch.bool)
    start = 1
    for side in row.sides:
        places[start:start + side**2] = True
        # Text between the images, or Qwen2.5-VL would take them for one.
        start += side**2 + 1
    ids[0, places] = config.image_token_id
    inputs = {
        'input_ids': ids,
        'attention_mask': torch.ones_like(ids),
        'mm_token_type_ids': places[None].long(),
        # One [SEG] for each image, at the end of the text.
        'mask_token_index': torch.arange(length - row.num_seg, length)[None],
        'mask_image_index': torch.arange(row.num_seg)[None],
        'g_pixel_values': torch.zeros((1, row.num_seg, 3, 256, 256), dtype=torch.uint8),
    }
    if row.sides:
        vision = config.vision_config
        merge = vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        inputs['pixel_values'] = torch.zeros((num_vision * merge**2, width))
        inputs['image_grid_thw'] = torch.tensor([(1, side * merge, side * merge) for side in row.sides])
    return inputs


def counted(model: nn.Module, rows: list[Row]) -> int:
    """FLOPs that PyTorch counts for `rows`, each in a separate forward pass, like attention in a pack."""
    inner = next(module for module in model.modules() if isinstance(module, CitrusVForConditionalGeneration))
    # ms-swift adds a black image to text-only batches, so that the vision tower always has a gradient.
    anchor = inner.model.visual.merger.mlp[0].bias
    hook = inner.get_input_embeddings().register_forward_hook(lambda *args: args[2] + anchor.sum() * 0)
    with FlopCounterMode(display=False) as counter:
        for row in rows:
            output = model(**inputs_of(row, inner.config), logits_to_keep=1, use_cache=False)
            loss = output.logits.sum() + output.mask_logits.sum()
            if loss.requires_grad:
                loss.backward()
    hook.remove()
    return counter.get_total_flops()


def predicted(model: nn.Module, rows: list[Row]) -> float:
    costs = CostModel.from_model(model)
    # PyTorch counts attention without its causal mask.
    costs = dataclasses.replace(costs, squared_length=2 * costs.squared_length)
    workload = Workload.of_chunks(np.array([row.chunk for row in rows]))
    return costs.cost(workload).sum()


@pytest.mark.parametrize('stage', STAGES)
def test_a_training_step(model, stage):
    """Within a tenth: besides the terms that `CostModel` omits, half of the blocks of the tiny vision tower have full
    attention (an eighth in the real one), and images of 6 x 6 do not fill their windows of 4 x 4."""
    train_stage(model, stage)
    ratios = {name: predicted(model, rows) / counted(model, rows) for name, rows in PACKS.items()}
    assert all(ratio == pytest.approx(1, abs=0.1) for ratio in ratios.values()), ratios
    # Balancing needs only ratios of costs.
    assert max(ratios.values()) / min(ratios.values()) < 1.1, ratios


@pytest.mark.parametrize('stage', STAGES)
def test_exact_where_every_term_is_counted(model, stage):
    train_stage(model, stage)
    model.model.visual.fullatt_block_indexes = []
    for rows in ([Row(300)], [Row(900), Row(10, (4, 8, 4, 4))]):
        assert predicted(model, rows) == pytest.approx(counted(model, rows), rel=0.005)


@pytest.mark.parametrize('stage', STAGES)
def test_gradient_checkpointing(model, stage):
    """Recomputation counts: of SAM2 alone in stage 4, of all but SAM2 in stage 1."""
    train_stage(model, stage)
    without = predicted(model, PACKS['mixed'])
    model.gradient_checkpointing_enable({'use_reentrant': False})
    # Gradient checkpointing makes the output of the embeddings require a gradient.
    model.enable_input_require_grads()
    assert predicted(model, PACKS['mixed']) > 1.1 * without
    assert predicted(model, PACKS['mixed']) == pytest.approx(counted(model, PACKS['mixed']), rel=0.1)


def test_lora(model):
    """The base weights stay frozen, so a linear layer costs two passes, not three."""
    whole = CostModel.from_model(model)
    model.requires_grad_(False)
    config = LoraConfig(r=4, target_modules=['q_proj', 'down_proj'], modules_to_save=['segmenter', 'seg_projector'])
    wrapped = get_peft_model(model, config)
    for rows in (PACKS['long'], PACKS['masks']):
        assert predicted(wrapped, rows) == pytest.approx(counted(wrapped, rows), rel=0.1)
    lora = CostModel.from_model(wrapped)
    assert lora.token < 0.8 * whole.token
    assert lora.seg_image == whole.seg_image
    assert lora.squared_length == whole.squared_length


def test_nothing_trained_is_a_forward_pass(model):
    train_stage(model, 3)
    training = CostModel.from_model(model)
    model.requires_grad_(False)
    assert predicted(model, PACKS['mixed']) == pytest.approx(counted(model, PACKS['mixed']), rel=0.1)
    assert CostModel.from_model(model).token == pytest.approx(training.token / 3)


def test_weights_are_not_needed(loaded):
    with torch.device('meta'):
        empty = CitrusVForConditionalGeneration(loaded.config)
    assert CostModel.from_model(empty) == CostModel.from_model(copy.deepcopy(loaded).requires_grad_(True))


def test_no_citrusv_within():
    with pytest.raises(TypeError, match='Linear contains no CitrusVForConditionalGeneration'):
        CostModel.from_model(nn.Linear(2, 2))


def test_sam2_is_counted_as_it_runs(loaded):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loaded.segmenter.encode_images(torch.zeros((2, 3, 256, 256), dtype=torch.uint8))
    assert 2 * sam2_forward_flops('tiny') == counter.get_total_flops()


def test_sam2_presets():
    """At 1024 x 1024. A rough check by hand for the large one: 224 M parameters, most of them at the 64 x 64 positions
    of stride 16, are 2 * 224e6 * 4096 = 1.8e12."""
    assert sam2_forward_flops('sam2.1_hiera_t') == sam2_forward_flops('sam2_hiera_t') == pytest.approx(
        0.29e12, rel=0.02)
    assert sam2_forward_flops('sam2.1_hiera_l') == pytest.approx(1.82e12, rel=0.02)


def test_workload_of_packs():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 50, 40)
    chunks = np.stack([start, start + rng.integers(0, 90, 40), rng.integers(0, 30, 40), rng.integers(0, 3, 40)], axis=1)
    chunks = chunks.astype(np.int32)
    packs = pack_arrays(chunks[:, 1] - chunks[:, 0], 100, images=chunks[:, 3], image_capacity=4)
    workload = Workload.of_chunks(chunks).packed(packs)
    costs = CostModel(3., 0.5, 7., 11.)
    for i, cost in enumerate(costs.cost(workload)):
        items = [chunks[j].tolist() for j in packs[i]]
        lengths = [stop - start for start, stop, _, _ in items]
        assert workload.tokens[i] == sum(lengths)
        assert workload.squared_lengths[i] == sum(length**2 for length in lengths)
        expected = sum(3 * n + 0.5 * n**2 + 7 * item[2] + 11 * item[3] for n, item in zip(lengths, items))
        assert cost == pytest.approx(expected)
    # Squares beyond 32 bits.
    assert Workload.of_chunks(np.array([[0, 100_000, 0, 0]], dtype=np.int32)).squared_lengths[0] == 10**10
    assert len(costs.cost(Workload.of_chunks(np.zeros((0, 4), dtype=np.int32)))) == 0
