"""The weights of a published checkpoint: incomplete, unknown and unsafe files are refused before the first write."""
import json
import pickle
import pytest
import shutil
import struct
import torch
from pathlib import Path
from safetensors.torch import load_file
from support.broken_checkpoints import assert_refused, edit_json, rewrite_weights
from support.published_checkpoint import Published, published_config
from support.sam2_networks import meta_device
from transformers import Qwen2_5_VLConfig

from swift_citrusv.model.convert import convert_checkpoint
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration


def test_refused_weights(broken, tmp_path):
    """The error lists all problems at once."""

    def change(state):
        del state['seg_projector.2.bias']
        del state['grounding_encoder.sam2_model.no_mem_embed']
        state['seg_projector.4.weight'] = torch.zeros(3)
        state['grounding_encoder.sam2_model.new_head.weight'] = torch.zeros(3)
        state['ema.mllm.lm_head.weight'] = torch.zeros(3)
        state['mllm.visual.merger.ln_q.weight'] = state['mllm.model.visual.merger.ln_q.weight'].clone()
        state['mllm.model.language_model.norm.weight'] = torch.zeros(7)
        state['mllm.lm_head.weight'] = state['mllm.lm_head.weight'].to(torch.int8)

    rewrite_weights(broken, change)
    with pytest.raises(ValueError) as caught:
        convert_checkpoint(str(broken), str(tmp_path / 'out'))
    for part in ('3 unknown: ', 'seg_projector.4.weight', 'grounding_encoder.sam2_model.new_head.weight',
                 'ema.mllm.lm_head.weight', '2 missing: ', 'seg_projector.fc2.bias', 'segmenter.no_mem_embed',
                 'mllm.visual.merger.ln_q.weight', 'mllm.model.language_model.norm.weight [7] instead of [128]',
                 'mllm.lm_head.weight (I8)', 'Nothing was converted'):
        assert part in str(caught.value), part
    assert not (tmp_path / 'out').exists()


def test_a_tied_head_must_equal_the_embedding(broken, tmp_path):
    edit_json(broken, tie_word_embeddings=True)
    assert_refused(broken, tmp_path, 'tie_word_embeddings.*differ')

    def tie(state):
        state['mllm.lm_head.weight'] = state['mllm.model.language_model.embed_tokens.weight'].clone()

    rewrite_weights(broken, tie)
    conversion = convert_checkpoint(str(broken), str(tmp_path / 'out'))
    assert any('mllm.lm_head.weight' in sentence for sentence in conversion.left_out)
    model = CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'out')
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_projector_of_another_width(broken, tmp_path):

    def widen(state):
        state['seg_projector.0.weight'], state['seg_projector.0.bias'] = torch.randn(96, 128), torch.randn(96)
        state['seg_projector.2.weight'] = torch.randn(64, 96)

    rewrite_weights(broken, widen)
    convert_checkpoint(str(broken), str(tmp_path / 'out'))
    assert CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'out').seg_projector.fc1.out_features == 96


@pytest.mark.parametrize('suffix', ['.safetensors', '.bin'])
def test_refused_files(suffix, broken, tmp_path):
    rewrite_weights(broken, lambda state: None, suffix=suffix, num_files=3)
    stem = 'model' if suffix == '.safetensors' else 'pytorch_model'
    index, second = broken / f'{stem}{suffix}.index.json', broken / f'{stem}-00002-of-00003{suffix}'
    content, places = second.read_bytes(), index.read_text()
    second.unlink()
    assert_refused(broken, tmp_path, f'lacks 1 of the 3 files .*{second.name}')
    second.write_bytes(content[:len(content) // 2])
    assert_refused(broken, tmp_path, f'{second.name} (cannot be read|is refused)')
    second.write_bytes(content)
    index.write_text(places.replace(second.name, f'../{second.name}'))
    assert_refused(broken, tmp_path, r'must name files in its own folder')
    index.write_text('[]')
    assert_refused(broken, tmp_path, 'cannot be read as an index')
    index.unlink()
    assert_refused(broken, tmp_path, 'nor an index of its files')
    # The same weights in two files.
    shutil.copy(second, broken / f'{stem}-00004-of-00004{suffix}')
    both = json.loads(places)
    both['weight_map']['again'] = f'{stem}-00004-of-00004{suffix}'
    index.write_text(json.dumps(both))
    assert_refused(broken, tmp_path, f'is in {second.name} and in {stem}-00004')
    for path in [*broken.glob('*.safetensors'), *broken.glob('*.bin'), index]:
        path.unlink()
    assert_refused(broken, tmp_path, 'holds no weights')


class _Evil:

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), 'w')


@pytest.mark.parametrize('zipped', [True, False])
def test_pickles_are_not_run(zipped, broken, tmp_path):
    (broken / 'model.safetensors').unlink()
    path, mark = broken / 'pytorch_model.bin', tmp_path / 'mark'
    torch.save({'a': _Evil(mark)}, path, _use_new_zipfile_serialization=zipped)
    assert_refused(broken, tmp_path, 'is refused')
    path.write_bytes(pickle.dumps({'a': _Evil(mark)}))
    assert_refused(broken, tmp_path, 'is refused')
    assert not mark.exists()
    torch.save([torch.zeros(3)], path, _use_new_zipfile_serialization=zipped)
    assert_refused(broken, tmp_path, 'contains no state dict')


def test_files_from_before_torch_1_6(published, broken, tmp_path):
    state = load_file(broken / 'model.safetensors')
    (broken / 'model.safetensors').unlink()
    torch.save(state, broken / 'pytorch_model.bin', _use_new_zipfile_serialization=False)
    convert_checkpoint(str(broken), str(tmp_path / 'out'))
    convert_checkpoint(str(published), str(tmp_path / 'wanted'))
    one, other = (load_file(tmp_path / name / 'model.safetensors') for name in ('out', 'wanted'))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _write_holes(path: Path, state: dict[str, torch.Tensor]) -> None:
    """A safetensors file in bfloat16 with these names and shapes, and nothing on the disk but its header."""
    header, end = {}, 0
    for key, value in state.items():
        start, end = end, end + 2 * value.numel()
        header[key] = {'dtype': 'BF16', 'shape': list(value.shape), 'data_offsets': [start, end]}
    text = json.dumps(header).encode()
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(text)) + text)
        file.truncate(8 + len(text) + end)


def test_the_plan_for_a_real_one(tmp_path):
    """At the sizes of the published 8B, from names and shapes alone: all of it is known and nothing is missing."""
    sizes = {'hidden_size': 3584, 'intermediate_size': 18944, 'num_hidden_layers': 28, 'num_attention_heads': 28,
             'num_key_value_heads': 4, 'vocab_size': 152064, 'max_window_layers': 28, 'max_position_embeddings': 128000,
             'bos_token_id': 151643, 'eos_token_id': 151645, 'rms_norm_eps': 1e-6, 'rope_parameters': {
                 'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [16, 24, 24]}}  # yapf: disable
    vision = {'depth': 32, 'hidden_size': 1280, 'out_hidden_size': 3584, 'tokens_per_second': 2}
    with meta_device():
        reference = Published(Qwen2_5_VLConfig(text_config=sizes, vision_config=vision), False, tiny=False)
    state = reference.state_dict()
    _write_holes(tmp_path / 'model.safetensors', state)
    path = '/mnt/code/third_parts/sam2/sam2_configs/sam2_hiera_l.yaml'
    (tmp_path / 'config.json').write_text(json.dumps(published_config(reference, 151665, False, path)))
    with pytest.raises(
            OSError, match='GB of free space, but the weights need 17.0 GB'), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10, 9, 1))
        convert_checkpoint(str(tmp_path), str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()
