"""A new segmentation head on a plain Qwen2.5-VL: its initial weights, and that the MLLM's weights are all loaded."""
import json
import logging
import pytest
import subprocess
import sys
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from sam2.build_sam import build_sam2
from shutil import copytree
from transformers import Qwen2_5_VLForConditionalGeneration

from swift_citrusv.model.build import build_checkpoint
from swift_citrusv.model.config import CitrusVConfig
from swift_citrusv.model.graft import finish_graft, holds_segmentation
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.model.sam2_weights import Sam2Source

SEGMENTATION = ('segmenter.', 'seg_projector.')


def _graft_config(tiny_mllm) -> CitrusVConfig:
    values = json.loads(Path(tiny_mllm, 'config.json').read_text(encoding='utf-8'))
    values = {key: value for key, value in values.items() if key not in {'model_type', 'architectures', 'dtype'}}
    return CitrusVConfig(**values, sam2_preset='tiny')


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_grafting_on_a_plain_directory(tiny_mllm, dtype):
    config = _graft_config(tiny_mllm)
    torch.manual_seed(0)
    model, info = CitrusVForConditionalGeneration.from_pretrained(
        tiny_mllm, config=config, dtype=dtype, output_loading_info=True)
    assert all(name.startswith(SEGMENTATION) for name in info['missing_keys']) and not info['unexpected_keys']
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_mllm, dtype=dtype).state_dict()
    own = model.state_dict()
    for name, value in plain.items():
        assert torch.equal(own[name], value), name
    # SAM2 as its package starts it, statistics of sam2's own model (the names are the same), in float32.
    torch.manual_seed(0)
    reference = build_sam2('configs/sam2.1/sam2.1_hiera_t.yaml', device='cpu').state_dict()
    segmenter = model.segmenter.state_dict()
    assert {value.dtype for value in segmenter.values()} == {torch.float32}
    for name, value in segmenter.items():
        assert value.isfinite().all(), name
        wanted = reference.get(name)
        if wanted is None:
            assert name.startswith('image_encoder.trunk.blocks.')  # other depths
        elif wanted.numel() > 1 and wanted.std() == 0:
            assert torch.equal(value, wanted.flatten()[0].expand_as(value)), f'{name} starts as a constant'
        elif value.numel() > 1000:
            # torch's layers start uniformly in +-fan_in**-0.5; embeddings and the positions with std 1.
            scale = (wanted[0].numel() / value[0].numel())**0.5 if 'embed' not in name and 'gauss' not in name else 1
            if 'patch_embed' in name:
                scale = 1
            ratio = value.std() / wanted.std() / scale
            assert 0.8 < ratio < 1.25, f'{name}: {ratio}'
    assert segmenter['sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix'].std() > 0.5
    assert segmenter['image_encoder.trunk.blocks.0.norm1.weight'].eq(1).all()
    assert not segmenter['image_encoder.trunk.pos_embed'].any()
    bound = config.text_config.hidden_size**-0.5
    weight = own['seg_projector.fc1.weight']
    assert weight.abs().max() <= bound and weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert own['seg_projector.fc1.weight'].dtype == torch.float32
    assert not own['seg_projector.fc1.bias'].any() and not own['seg_projector.fc2.bias'].any()


def test_two_grafts_differ_and_one_seed_repeats(tiny_mllm):
    config = _graft_config(tiny_mllm)

    def graft(seed):
        torch.manual_seed(seed)
        return CitrusVForConditionalGeneration.from_pretrained(tiny_mllm, config=config).segmenter.state_dict()

    one, same, other = graft(0), graft(0), graft(1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one['no_mem_embed'], other['no_mem_embed'])


def test_a_model_from_a_config_starts_like_sam2(loaded):
    model = CitrusVForConditionalGeneration(loaded.config)
    assert not model.segmenter.image_encoder.trunk.pos_embed.any()
    qkv = model.segmenter.image_encoder.trunk.blocks[7].attn.qkv.weight
    assert qkv.abs().max() <= 128**-0.5 and qkv.std().item() == pytest.approx((128 * 3)**-0.5, rel=0.05)


def test_keys_of_the_hubs_files(tiny_mllm, loaded, tmp_path):
    """Qwen2.5-VL's files on the hub have keys 'visual.*', 'model.layers.*' and 'lm_head.weight'."""
    reference = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_mllm).state_dict()
    hub = {}
    for name, value in reference.items():
        if name.startswith('model.visual.'):
            name = name.removeprefix('model.')
        elif name.startswith('model.language_model.'):
            name = 'model.' + name.removeprefix('model.language_model.')
        hub[name] = value.clone()
    assert {name.split('.')[0] for name in hub} == {'visual', 'model', 'lm_head'}
    assert {'model.layers.0.self_attn.q_proj.weight', 'model.embed_tokens.weight',
            'visual.merger.mlp.0.weight'} <= set(hub)
    folder = tmp_path / 'hub'
    copytree(tiny_mllm, folder)
    save_file(hub, folder / 'model.safetensors', metadata={'format': 'pt'})
    model, info = CitrusVForConditionalGeneration.from_pretrained(
        folder, config=_graft_config(tiny_mllm), output_loading_info=True)
    assert not info['unexpected_keys'] and all(name.startswith(SEGMENTATION) for name in info['missing_keys'])
    own = model.state_dict()
    for name, value in reference.items():
        assert torch.equal(own[name], value), name
    # And with the keys as Transformers names them now.
    save_file({
        name: value.clone()
        for name, value in reference.items()
    },
              folder / 'model.safetensors',
              metadata={'format': 'pt'})
    model = CitrusVForConditionalGeneration.from_pretrained(folder, config=_graft_config(tiny_mllm))
    own = model.state_dict()
    for name, value in reference.items():
        assert torch.equal(own[name], value), name


def test_the_language_model_is_loaded_by_modeling_alone(tiny_mllm):
    """In a process without ms-swift and `register`, where the language model once kept random weights."""
    code = """if True:
        import json, sys
        from swift_citrusv.model.modeling import CitrusVConfig, CitrusVForConditionalGeneration
        values = json.load(open(sys.argv[1] + '/config.json'))
        config = CitrusVConfig(text_config=values['text_config'], vision_config=values['vision_config'],
                               tie_word_embeddings=True, sam2_preset='tiny')
        _, info = CitrusVForConditionalGeneration.from_pretrained(sys.argv[1], config=config, output_loading_info=True)
        assert not {'swift', 'swift_citrusv.plugin.register'} & sys.modules.keys()
        assert not info['unexpected_keys']
        assert all(name.startswith(('segmenter.', 'seg_projector.')) for name in info['missing_keys'])
        """
    done = subprocess.run([sys.executable, '-c', code, tiny_mllm], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_file_without_a_part_of_the_language_model_is_refused(tiny_mllm, tmp_path):
    folder = tmp_path / 'broken'
    copytree(tiny_mllm, folder)
    state = load_file(folder / 'model.safetensors')
    name = next(name for name in state if name.endswith('layers.1.mlp.down_proj.weight'))
    del state[name]
    save_file(state, folder / 'model.safetensors', metadata={'format': 'pt'})
    with pytest.raises(ValueError, match='layers.1.mlp.down_proj.weight'):
        build_checkpoint(str(folder), 'tiny', str(tmp_path / 'built'))
    assert not (tmp_path / 'built').exists()


def test_the_report_says_where_the_weights_come_from(tiny_mllm, tmp_path, caplog):
    """Random weights are reported where they stay, not where an adapter or a checkpoint replaces them."""
    config = _graft_config(tiny_mllm)
    caplog.set_level('INFO', logger='swift.citrusv')
    logging.getLogger('swift.citrusv').addHandler(caplog.handler)
    model = CitrusVForConditionalGeneration.from_pretrained(tiny_mllm, config=config)
    own = ('base_model.model.segmenter.modules_to_save.no_mem_embed', 'base_model.model.seg_projector.fc1.weight')
    for name, names, whole in (
        ('adapter', own, True),
        ('checkpoint', ('segmenter.no_mem_embed', 'seg_projector.fc1.weight'), True),
        ('plain LoRA', ('base_model.model.model.language_model.lora_A.weight', ), False),
        ('projector alone', own[1:], False),
    ):
        folder = tmp_path / name
        folder.mkdir()
        save_file({key: torch.zeros(1) for key in names}, folder / 'adapter_model.safetensors')
        assert holds_segmentation(str(folder)) is whole, name
        caplog.clear()
        finish_graft(model, Sam2Source('tiny', None), 7, [str(folder)])
        text = caplog.messages[-1]
        assert ('random initialisation' in text) is not whole and str(folder) in text, name
        assert (f'weights come from {folder}' in text) is whole, name
    finish_graft(model, Sam2Source('tiny', None), 7)
    assert caplog.messages[-1] == ('Added a new segmentation head: SAM2 tiny from random initialisation, a new '
                                   'projector.')  # yapf: disable
    logging.getLogger('swift.citrusv').removeHandler(caplog.handler)
