"""SAM2's image path: the same numbers as the `sam2` package's own predictor, and no surprises in batching or gradients.

`sam2`'s predictor, models and YAML files are the reference; nothing here is computed by a second copy of our code.
"""
import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from functools import wraps
from hydra import compose
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor
from support.closeness import assert_same_update
from support.sam2_networks import sam2_on_meta, segmenter_on_meta
from support.weights import spread

from swift_citrusv.model.sam2_weights import load_sam2_weights
from swift_citrusv.model.segmenter import PRESETS, Segmenter, preset_config, preset_image_size, preset_mask_size

_OF_SAM2 = [preset for preset in PRESETS if preset != 'tiny']


def _yaml(preset: str) -> str:
    return f'configs/{preset.split("_")[0]}/{preset}.yaml'


@pytest.fixture(scope='module')
def tiny() -> Segmenter:
    torch.manual_seed(0)
    segmenter = Segmenter('tiny')
    spread(segmenter, 1)
    return segmenter


@pytest.fixture(autouse=True)
def _restored(tiny):
    """Restores the shared segmenter: tests may change its switches, dtypes and gradients."""
    state = {name: value.clone() for name, value in tiny.state_dict().items()}
    yield
    tiny.float().requires_grad_(True)
    tiny.load_state_dict(state)
    tiny.zero_grad(set_to_none=True)
    tiny.chunk, tiny.gradient_checkpointing, tiny.multimask_output = 4, False, False


def _images(num: int, side: int = 256, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def _prompts(num: int, dim: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, 1, dim, generator=torch.Generator().manual_seed(seed))


# --- the same as the sam2 package ---


@pytest.mark.parametrize('preset', ['sam2.1_hiera_t', 'sam2_hiera_t'])
def test_masks_equal_those_of_sam2(preset, tmp_path):
    torch.manual_seed(0)
    sam2 = build_sam2(_yaml(preset), device='cpu', apply_postprocessing=False)
    spread(sam2, 1)
    path = tmp_path / 'weights.pt'
    torch.save({'model': sam2.state_dict()}, path)
    picture = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    predictor = SAM2ImagePredictor(sam2)
    predictor.set_image(picture)
    points, labels = np.array([[10., 20.], [40., 8.]]), np.array([1, 0])
    single = predictor.predict(points, labels, multimask_output=False, return_logits=True)[2][0]
    several, scores, low_res = predictor.predict(points, labels, multimask_output=True, return_logits=True)
    best = low_res[scores.argmax()]

    ours = Segmenter(preset).eval()
    load_sam2_weights(ours, str(path))
    pixels = predictor._transforms(picture)[None]
    # The predictor's points are pixels of the picture; ours are pixels of SAM2's square input.
    scaled = torch.from_numpy(points).float() / torch.tensor([53., 37.]) * 1024
    with torch.no_grad():
        features = ours.encode_images(pixels)
        prompts = ours.sam_prompt_encoder((scaled[None], torch.from_numpy(labels)[None]), boxes=None, masks=None)[0]
        index = torch.zeros(1, dtype=torch.int64)
        drawn = ours.decode(features, index, prompts).logits
        ours.multimask_output = True
        drawn_best = ours.decode(features, index, prompts).logits
    for mine, wanted in ((drawn, single), (drawn_best, best)):
        # The predictor clamps what it returns; within the clamp there must be something to compare.
        assert wanted.std() > 0.5 and (np.abs(wanted) < 32).mean() > 0.5
        torch.testing.assert_close(mine.clamp(-32, 32), torch.from_numpy(wanted)[None], rtol=1e-4, atol=1e-4)
    assert not np.allclose(single, best, atol=0.1)
    assert scores.max() - np.sort(scores)[-2] > 1e-5, 'the choice of the best mask would depend on rounding'


@pytest.mark.parametrize('preset', _OF_SAM2)
def test_names_and_shapes_are_those_of_sam2(preset):
    """What sam2's own YAML builds, without memory attention, memory encoder and object pointers, is what we build."""
    sam2 = sam2_on_meta(preset)
    image_path = {
        name: value
        for name, value in sam2.state_dict().items()
        if name.startswith(('image_encoder.', 'sam_prompt_encoder.', 'sam_mask_decoder.', 'no_mem_embed'))
    }
    ours = segmenter_on_meta(preset)
    assert all(value.is_meta for value in ours.state_dict().values())
    assert {name: value.shape for name, value in ours.state_dict().items()} \
        == {name: value.shape for name, value in image_path.items()}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for name, p in sam2.named_parameters()
                                                            if name in image_path)
    decoder = sam2.sam_mask_decoder
    assert ours.sam_mask_decoder.iou_prediction_head.sigmoid_output is decoder.iou_prediction_head.sigmoid_output
    assert ours.image_encoder.scalp == sam2.image_encoder.scalp
    assert ours.image_encoder.trunk.global_att_blocks == sam2.image_encoder.trunk.global_att_blocks
    assert ours.image_encoder.trunk.window_spec == sam2.image_encoder.trunk.window_spec
    assert ours.image_encoder.neck.fpn_top_down_levels == sam2.image_encoder.neck.fpn_top_down_levels
    assert (preset_image_size(preset), preset_mask_size(preset)) == (sam2.image_size, 256)
    # What SAM2ImagePredictor does to still images, and so do we whatever the YAML says.
    assert compose(config_name=_yaml(preset)).model.directly_add_no_mem_embed is True


def test_tiny_is_tiny(tiny):
    assert 5e5 < sum(p.numel() for p in tiny.parameters()) < 1e6
    assert (preset_image_size('tiny'), preset_mask_size('tiny'), tiny.prompt_dim) == (256, 64, 64)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="'sam3'.*sam2.1_hiera_l.*tiny"):
        preset_config('sam3')


# --- input ---


def test_uint8_and_normalised_floats_agree(tiny):
    images = _images(2)
    floats = (images.double() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) \
        / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    index, prompts = torch.tensor([0, 1]), _prompts(2)
    with torch.no_grad():
        torch.testing.assert_close(tiny.normalize(images), floats.float())
        wanted = tiny(floats.float(), index, prompts)
        torch.testing.assert_close(tiny(images, index, prompts), wanted, rtol=1e-3, atol=1e-3)
    assert wanted.std() > 0.1


def test_built_in_float32_whatever_the_default_type():
    torch.set_default_dtype(torch.bfloat16)
    try:
        segmenter = Segmenter('tiny')
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in segmenter.state_dict().values()} == {torch.float32}


# --- batching ---


@pytest.mark.parametrize('chunk', [1, 2, 3])
def test_chunks_do_not_matter(tiny, chunk):
    # 7 images and 23 masks: the last chunk is short, and masks of one chunk lie on images of several.
    images, index, prompts = _images(7), torch.arange(23) * 5 % 7, _prompts(23)
    with torch.no_grad():
        tiny.chunk = 7
        wanted = tiny(images, index, prompts)
        tiny.chunk = chunk
        torch.testing.assert_close(tiny(images, index, prompts), wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.1 and wanted.shape == (23, 64, 64)


def test_masks_together_equal_masks_alone(tiny):
    images, index, prompts = _images(3), torch.tensor([2, 0, 2, 1, 0]), _prompts(5)
    with torch.no_grad():
        together = tiny(images, index, prompts)
        for k in range(5):
            alone = tiny(images[index[k]][None], torch.tensor([0]), prompts[k:k + 1])
            torch.testing.assert_close(together[k], alone[0], rtol=1e-4, atol=1e-4)
    # Neither image nor prompt is ignored.
    assert (together[0] - together[2]).abs().max() > 0.1
    with torch.no_grad():
        other = tiny(images, torch.tensor([0, 0, 2, 1, 0]), prompts)
    assert (other[0] - together[0]).abs().max() > 0.1


# --- gradients ---


def _loss_and_gradients(segmenter):
    segmenter.zero_grad(set_to_none=True)
    prompts = _prompts(5).requires_grad_(True)
    loss = segmenter(_images(3), torch.tensor([2, 0, 2, 1, 0]), prompts).sigmoid().square().sum()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in segmenter.named_parameters() if p.grad is not None}
    return loss.detach(), gradients | {'prompts': prompts.grad}


def _patch_as_ms_swift_does(monkeypatch):
    # An earlier test of this process may have run ms-swift, which patches for good.
    original = getattr(torch.utils.checkpoint, '_old_checkpoint', torch.utils.checkpoint.checkpoint)

    @wraps(original)
    def patched(*args, use_reentrant=None, **kwargs):
        return original(*args, use_reentrant=True, **kwargs)

    monkeypatch.setattr(torch.utils.checkpoint, '_old_checkpoint', original, raising=False)
    monkeypatch.setattr(torch.utils.checkpoint, 'checkpoint', patched)


@pytest.mark.parametrize('patched', [False, True])
def test_gradient_checkpointing_changes_nothing(tiny, patched, monkeypatch):
    loss, gradients = _loss_and_gradients(tiny)
    if patched:
        _patch_as_ms_swift_does(monkeypatch)
    num_encoded = []
    encode = tiny._encode_chunk

    def spy(images):
        num_encoded.append(len(images))
        return encode(images)

    monkeypatch.setattr(tiny, '_encode_chunk', spy)
    tiny.gradient_checkpointing, tiny.chunk = True, 2
    loss_again, gradients_again = _loss_and_gradients(tiny)
    assert num_encoded == [2, 1, 1, 2], 'two chunks forward, and both again in the backward pass'
    torch.testing.assert_close(loss_again, loss)
    assert_same_update(gradients_again, gradients)


@pytest.mark.parametrize('multimask', [False, True])
def test_exactly_the_used_parameters_get_a_gradient(multimask):
    torch.manual_seed(0)
    segmenter = Segmenter('tiny', multimask_output=multimask)
    spread(segmenter, 1)
    # With everything trainable, torch finds the used ones.
    torch.nn.Module.requires_grad_(segmenter, True)
    _, gradients = _loss_and_gradients(segmenter)
    with_gradient = {
        name
        for name, parameter in segmenter.named_parameters() if name in gradients and (gradients[name] != 0).any()
    }
    used = {name for name, _ in segmenter.named_parameters() if segmenter.uses_parameter(name)}
    if multimask:
        # The masks that were not the best this time may be the next.
        chosen = {name for name in with_gradient if 'output_hypernetworks_mlps' in name}
        used = {name for name in used if 'output_hypernetworks_mlps' not in name} | chosen
        assert chosen and all(name.split('output_hypernetworks_mlps.')[1][0] in '123' for name in chosen)
        assert all(segmenter.uses_parameter(name) for name in chosen)
    assert with_gradient == used
    assert 0 < len(used) < len(list(segmenter.parameters()))

    segmenter.requires_grad_(True)
    segmenter.zero_grad(set_to_none=True)
    _loss_and_gradients(segmenter)
    for name, parameter in segmenter.named_parameters():
        assert parameter.requires_grad is segmenter.uses_parameter(name)
        assert (parameter.grad is not None) is segmenter.uses_parameter(name), name


def test_requires_grad_keeps_unused_parameters_frozen(tiny):
    assert any(p.requires_grad for p in Segmenter('tiny').parameters())
    assert tiny.requires_grad_(False) is tiny
    assert not any(p.requires_grad for p in tiny.parameters())
    tiny.requires_grad_()
    assert {name for name, p in tiny.named_parameters() if p.requires_grad} \
        == {name for name, _ in tiny.named_parameters() if tiny.uses_parameter(name)}


def test_frozen_segmenter_still_passes_the_gradient_on(tiny):
    tiny.requires_grad_(False)
    tiny.gradient_checkpointing = True
    _, gradients = _loss_and_gradients(tiny)
    assert gradients.keys() == {'prompts'} and gradients['prompts'].abs().max() > 0


# --- types ---


def test_bfloat16_is_close_to_float32(tiny):
    images, index, prompts = _images(2), torch.tensor([1, 0, 1]), _prompts(3)
    # float32 arithmetic on the weights as bfloat16 holds them: what is left is the arithmetic.
    tiny.bfloat16().float()
    with torch.no_grad():
        wanted = tiny(images, index, prompts)
        in_bfloat16 = tiny.bfloat16()(images, index, prompts)
        with torch.autocast('cpu', torch.bfloat16):
            in_autocast = tiny.float()(images, index, prompts)
    for drawn in (in_bfloat16, in_autocast):
        assert drawn.dtype == torch.float32 and not torch.equal(drawn, wanted)
        assert (drawn - wanted).abs().mean() < 0.1 * wanted.std()


def test_bfloat16_trains(tiny):
    tiny.bfloat16()
    tiny.gradient_checkpointing = True
    _, gradients = _loss_and_gradients(tiny)
    assert len(gradients) > 100 and all(gradient.isfinite().all() for gradient in gradients.values())


def test_the_dense_position_is_sam2s(tiny):
    """Its own method is the reference in float32; in bfloat16 that one raises."""
    wanted = tiny.sam_prompt_encoder.get_dense_pe()
    torch.testing.assert_close(tiny._dense_position(torch.float32), wanted, rtol=1e-4, atol=1e-4)
    with torch.autocast('cpu', torch.bfloat16):
        torch.testing.assert_close(tiny._dense_position(torch.float32), wanted, rtol=1e-4, atol=1e-4)
