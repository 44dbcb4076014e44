"""The published layout: SAM2's weights are all recognised, and other configurations are refused before conversion."""
import pytest
from support.broken_checkpoints import assert_refused, edit_json
from support.sam2_networks import sam2_on_meta, segmenter_on_meta
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.model.published_layout import parameter_name
from swift_citrusv.model.segmenter import PRESETS


@pytest.mark.parametrize('preset', [preset for preset in PRESETS if preset != 'tiny'])
def test_every_name_of_sam2_is_known(preset):
    theirs = {parameter_name(f'grounding_encoder.sam2_model.{name}', False): tuple(value.shape)
              for name, value in sam2_on_meta(preset).state_dict().items()}  # yapf: disable
    ours = {f'segmenter.{name}': tuple(value.shape) for name, value in segmenter_on_meta(preset).state_dict().items()}
    assert ours.items() <= theirs.items()
    video = {str(name).split('.')[1] for name in theirs.keys() - ours.keys()}
    assert video <= {'memory_attention', 'memory_encoder', 'maskmem_tpos_enc', 'no_mem_pos_enc', 'mask_downsample',
                     'obj_ptr_proj', 'obj_ptr_tpos_proj', 'no_obj_ptr', 'no_obj_embed_spatial'}  # yapf: disable


# Changes of config.json, and a part of the error.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({'model_type': 'qwen2_5_vl'}, 'not "citrus_v"'),
    ({'model_type': ...}, 'has "model_type": None'),
    ({'vision_config': ...}, 'no "vision_config"'),
    ({'hidden_size': ...}, 'no sizes of the language model.*hidden_size'),
    ({'hidden_size': '128'}, 'no sizes of the language model.*hidden_size'),
    ({'hidden_size': 132}, 'of another shape|no Qwen2.5-VL can be built'),
    ({'num_attention_heads': 'four'}, 'not a configuration of a Qwen2.5-VL'),
    ({'rope_scaling': None}, 'without mrope_section'),
    ({'rope_scaling': {'type': 'mrope'}}, 'without mrope_section'),
    ({'seg_token_idx': ...}, '"seg_token_idx": None'),
    ({'seg_token_idx': 10**6}, 'below the vocab_size of 512'),
    ({'grounding_encoder_config': ...}, 'does not name its SAM2'),
    ({'grounding_encoder_config': {'cfg_path': 'a/sam3.yaml'}}, "'sam3'.*Supported are: .*sam2_hiera_l"),
    ({'grounding_encoder_config': {'cfg_path': 'C:\\b\\sam2_hiera_t.yaml'}}, "SAM2 'sam2_hiera_t'.*of another shape"),
    ({'use_res_seg_projector': True}, '2 missing: seg_projector.skip.weight'),
    ({'num_hidden_layers': 3}, r'12 missing: model.language_model.layers.2.*\.\.\.'),
    ({'num_hidden_layers': 1}, '12 unknown: mllm.model.language_model.layers.1'),
    ({'quantization_config': {}}, 'quantization_config'),
    ({'auto_map': {'AutoConfig': 'evil.Evil'}}, 'no code from a checkpoint is run'),
]  # yapf: disable


def test_refused_configurations(broken, tmp_path):
    original = (broken / 'config.json').read_text()
    for changes, match in REFUSED:
        edit_json(broken, **changes)
        assert_refused(broken, tmp_path, match)
        (broken / 'config.json').write_text(original)


@pytest.mark.parametrize('model_type', [None, 'citrusv'])
def test_an_unconverted_checkpoint_is_refused_with_the_command(model_type, published, tmp_path, capsys):
    from swift.pipelines import deploy_main, infer_main, sft_main

    from swift_citrusv.plugin.register import register
    register()
    said = rf'citrusv convert {published} NEW_DIRECTORY'
    kind = [] if model_type is None else ['--model_type', model_type]
    for command in (sft_main, infer_main, deploy_main):
        with pytest.raises(ValueError, match=said):
            command(['--model', str(published), *kind, *(['--dataset', 'x.jsonl'] if command is sft_main else [])])
    with pytest.raises(ValueError, match=said):
        CitrusVForConditionalGeneration.from_pretrained(published)
    for line in (f'build --mllm {published} --sam2 tiny --output {tmp_path}/new',
                 f'estimate --model {published} --stage 4 --packing_length 64'):
        assert main(line.split()) == 2 and f'citrusv convert {published} NEW_DIRECTORY' in capsys.readouterr().err
