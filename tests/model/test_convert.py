"""Published checkpoints: the numbers are kept, to the last bit in the file and to 1e-4 in what the model gives; what is
not whole is refused before anything is written.

The reference is `published_layout`, which knows nothing of this package.
"""
import json
import pickle
import pytest
import shutil
import struct
import torch
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import load_file
from support.published_checkpoint import (Published, balance, published_config, sam2_of, tiny_published,
                                          write_published, write_weights)
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLConfig

from swift_citrusv.cli.main import main
from swift_citrusv.model.config import CitrusVConfig
from swift_citrusv.model.convert import convert_checkpoint
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.model.published_layout import parameter_name
from swift_citrusv.model.segmenter import PRESETS, Segmenter

# One for each [SEG] of `_batch`.
IMAGES = torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def published(tiny_mllm, tmp_path_factory) -> Path:
    """A plain one, in one file; not to be written into."""
    return write_published(tmp_path_factory.mktemp('published') / 'plain', tiny_published(tiny_mllm, False), tiny_mllm)


@pytest.fixture(scope='module')
def converted(published, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp('converted') / 'plain'
    convert_checkpoint(str(published), str(output))
    return output


@pytest.fixture
def broken(published, tmp_path) -> Path:
    """A copy to break."""
    shutil.copytree(published, tmp_path / 'broken')
    return tmp_path / 'broken'


def _edit(folder: Path, name: str = 'config.json', **changes) -> None:
    values = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def _refused(folder: Path, tmp_path: Path, match: str, **options) -> None:
    """Nothing is written."""
    with pytest.raises((ValueError, OSError), match=match):
        convert_checkpoint(str(folder), str(tmp_path / 'out'), **options)
    assert not (tmp_path / 'out').exists()


# ---- what the model gives


def _batch(folder: str | Path) -> tuple[dict[str, torch.Tensor], list[tuple[int, int]]]:
    """Two rows, the first with two images and padding; four [SEG]."""
    processor = AutoProcessor.from_pretrained(folder)
    picture = torch.randint(0, 256, (3, 3, 84, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image = '<|vision_start|><|image_pad|><|vision_end|>'
    inputs = processor(
        text=[f'{image}{image}The cell: [SEG] [SEG].', f'{image}The bone and the soft tissue: [SEG], and [SEG]. Why?'],
        images=list(picture),
        padding=True,
        return_tensors='pt')
    seg = processor.tokenizer.convert_tokens_to_ids('[SEG]')
    places = [(int(row), int(position)) for row, position in (inputs['input_ids'] == seg).nonzero()]
    assert len(places) == 4 and (inputs['attention_mask'] == 0).any()
    return dict(inputs), places


CASES = [
    # residual, suffix, number of files, old names, tied, padding points
    pytest.param(False, '.safetensors', 1, False, False, 2, id='plain'),
    pytest.param(True, '.safetensors', 3, True, False, 2, id='residual-sharded-old'),
    pytest.param(False, '.bin', 3, True, False, 1, id='bin-sharded-old-one-point'),
    pytest.param(True, '.bin', 1, False, True, 2, id='residual-bin-tied'),
]


@pytest.mark.parametrize('residual, suffix, num_files, old, tied, num_padding', CASES)
def test_logits_and_masks_are_those_of_the_definition(residual, suffix, num_files, old, tied, num_padding, tiny_mllm,
                                                      tiny_checkpoint, tmp_path):
    reference = tiny_published(tiny_mllm, residual, tied)
    # The processor of another Citrus-V, whose [SEG] has the same id.
    balance(reference, *_batch(tiny_checkpoint), IMAGES, num_padding)
    folder = write_published(
        tmp_path / 'published', reference, tiny_mllm, residual=residual, suffix=suffix, num_files=num_files, old=old)
    conversion = convert_checkpoint(
        str(folder),
        str(tmp_path / 'out'),
        padding_points=num_padding,
        shard_bytes=2 * 2**20 if num_files > 1 else 2**30)
    assert (conversion.num_files > 1) is (num_files > 1)
    model, info = CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'out', output_loading_info=True)
    assert not info['missing_keys'] and not info['unexpected_keys'] and model.dtype == torch.float32

    inputs, places = _batch(tmp_path / 'out')
    logits, masks, ious = reference(inputs, places, IMAGES, num_padding)
    with torch.no_grad():
        drawn = model.eval()(
            **inputs,
            g_pixel_values=IMAGES.view(2, 2, 3, 256, 256),
            mask_image_index=torch.tensor([[0, 1], [0, 1]]),
            mask_token_index=torch.tensor([position for _, position in places]).view(2, 2))
    real = inputs['attention_mask'].bool()
    torch.testing.assert_close(drawn.logits[real], logits[real], rtol=1e-4, atol=1e-4)
    best = masks[torch.arange(4), ious.argmax(dim=1)]
    torch.testing.assert_close(drawn.mask_logits, best, rtol=1e-4, atol=1e-4)

    # There was something to see, in all of it.
    assert logits.std() > 0.1 and best.std() > 0.1 and len(set(ious.argmax(dim=1).tolist())) > 1
    assert (ious.topk(2).values.diff().abs() > 1e-4).all(), 'the choice would be a matter of rounding'
    other = reference(inputs, places, IMAGES, 3 - num_padding)[1]
    assert (other - masks).abs().max() > 0.01, 'the padding points do not show'


def test_numbers_are_kept_to_the_last_bit(tiny_mllm, tmp_path):
    """Types are mixed, as in a checkpoint whose segmentation parts were saved in float32."""
    reference = tiny_published(tiny_mllm, False)
    reference.mllm.bfloat16()
    folder = write_published(tmp_path / 'published', reference, tiny_mllm, num_files=2, old=True)
    convert_checkpoint(str(folder), str(tmp_path / 'out'))
    ours = load_file(tmp_path / 'out' / 'model.safetensors')
    theirs = {parameter_name(key, False): value for key, value in reference.state_dict().items()}
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype and torch.equal(value, theirs[name]), name
    assert {value.dtype for value in ours.values()} == {torch.bfloat16, torch.float32}
    model = CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'out')
    assert model.dtype == torch.bfloat16
    assert model.segmenter.dtype == model.seg_projector.fc1.weight.dtype == torch.float32
    own = model.state_dict()
    assert own.keys() == ours.keys() and all(torch.equal(own[name], ours[name]) for name in own)


def test_types_are_those_of_the_weights_not_of_config(converted):
    """Its config.json says bfloat16; Transformers would have rounded the float32 weights to that."""
    assert CitrusVConfig.from_pretrained(converted).dtype == torch.float32


def test_gradients_reach_what_is_said(converted):
    """Of the parameters that the padding point and the multimask output change."""
    segmenter = CitrusVForConditionalGeneration.from_pretrained(converted).segmenter
    segmenter(IMAGES[:2], torch.tensor([0, 1]), torch.randn(2, 1, 64)).square().sum().backward()
    names = dict(segmenter.named_parameters())
    assert names['sam_prompt_encoder.not_a_point_embed.weight'].grad.any()
    with_gradient = {name for name, p in names.items() if p.grad is not None}
    assert with_gradient == {name for name in names if segmenter.uses_parameter(name)}
    plain = Segmenter('tiny')
    assert not plain.uses_parameter('sam_prompt_encoder.not_a_point_embed.weight')


def test_residual_projector_starts_and_saves(tmp_path):
    config = CitrusVConfig.from_dict({
        'sam2_preset': 'tiny',
        'residual_projector': True,
        'text_config': {
            'hidden_size': 64,
            'num_hidden_layers': 1,
            'num_attention_heads': 4,
            'num_key_value_heads': 2,
            'intermediate_size': 64,
            'vocab_size': 128,
            'rope_parameters': {
                'rope_type': 'default',
                'rope_theta': 1e4,
                'mrope_section': [2, 3, 3]
            }
        },
        'vision_config': {
            'depth': 1,
            'hidden_size': 32,
            'num_heads': 2,
            'intermediate_size': 32,
            'out_hidden_size': 64
        }
    })
    model = CitrusVForConditionalGeneration(config)
    skip = model.seg_projector.skip
    assert skip is not None and not skip.bias.any() and skip.weight.abs().max() <= 64**-0.5
    model.save_pretrained(tmp_path)
    again = CitrusVForConditionalGeneration.from_pretrained(tmp_path)
    state = torch.randn(2, 64)
    torch.testing.assert_close(again.seg_projector(state), model.seg_projector(state))


# ---- every name


@pytest.fixture
def on_meta(monkeypatch):
    """Lets SAM2 be built on the meta device: it reads numbers while it is built."""
    linspace = torch.linspace
    monkeypatch.setattr(torch, 'linspace', lambda *args, **kwargs: linspace(*args, **{**kwargs, 'device': 'cpu'}))
    with torch.device('meta'):
        yield


@pytest.mark.parametrize('preset', [preset for preset in PRESETS if preset != 'tiny'])
def test_every_name_of_sam2_is_known(preset, on_meta):
    theirs = {parameter_name(f'grounding_encoder.sam2_model.{name}', False): tuple(value.shape)
              for name, value in sam2_of(preset).state_dict().items()}  # yapf: disable
    ours = {f'segmenter.{name}': tuple(value.shape) for name, value in Segmenter(preset).state_dict().items()}
    assert ours.items() <= theirs.items()
    video = {str(name).split('.')[1] for name in theirs.keys() - ours.keys()}
    assert video <= {'memory_attention', 'memory_encoder', 'maskmem_tpos_enc', 'no_mem_pos_enc', 'mask_downsample',
                     'obj_ptr_proj', 'obj_ptr_tpos_proj', 'no_obj_ptr', 'no_obj_embed_spatial'}  # yapf: disable


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


def test_the_plan_for_a_real_one(tmp_path, on_meta, capsys):
    """At the sizes of the published 8B, from names and shapes alone: all of it is known and nothing is missing."""
    sizes = {'hidden_size': 3584, 'intermediate_size': 18944, 'num_hidden_layers': 28, 'num_attention_heads': 28,
             'num_key_value_heads': 4, 'vocab_size': 152064, 'max_window_layers': 28, 'max_position_embeddings': 128000,
             'bos_token_id': 151643, 'eos_token_id': 151645, 'rms_norm_eps': 1e-6, 'rope_parameters': {
                 'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [16, 24, 24]}}  # yapf: disable
    vision = {'depth': 32, 'hidden_size': 1280, 'out_hidden_size': 3584, 'tokens_per_second': 2}
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


# ---- the command, and what takes its directory


def test_the_command_says_what_it_did(published, tmp_path, capsys):
    assert main(['convert', str(published), str(tmp_path / 'out')]) == 0
    said = capsys.readouterr().out
    for part in ("157 weights of SAM2's video path: ", 'memory_attention', 'loss_dice_config', 'float32', 'tiny',
                 f'from {published}'):
        assert part in said
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'out')
    assert tokenizer.convert_tokens_to_ids('[SEG]') == json.loads(
        (published / 'config.json').read_text())['seg_token_idx']
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert (config['model_type'], config['multimask_output'], config['padding_points']) == ('citrusv', True, 2)
    assert main(['convert', str(tmp_path / 'nothing'), str(tmp_path / 'out2')]) == 2
    assert 'no such directory' in capsys.readouterr().err


def test_swift_trains_and_answers_with_it(converted, tmp_path):
    from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine
    rows = [row for row in Maker(tmp_path / 'images').every_kind() if row.get('masks')][:2]
    watch = run_sft('--model', str(converted), '--model_type', 'citrusv', '--tuner_type', 'full', '--dataset',
                    write_jsonl(tmp_path / 'train.jsonl', rows), '--output_dir', str(tmp_path / 'out'),
                    '--learning_rate', '1e-3', '--save_strategy', 'steps', '--save_steps', '1', '--save_only_model',
                    'true', stop_after=1)  # yapf: disable
    name = 'segmenter.sam_prompt_encoder.not_a_point_embed.weight'
    assert not torch.equal(watch.before[name], watch.after[name]), 'the padding point is not trained'
    saved = json.loads((tmp_path / 'out' / 'checkpoint-1' / 'config.json').read_text())
    assert (saved['padding_points'], saved['multimask_output']) == (2, True)
    # Without --model_type, which config.json tells.
    engine = TransformersEngine(str(converted), torch_dtype=torch.float32, device_map='cpu')
    assert isinstance(engine.model, CitrusVForConditionalGeneration)
    request = InferRequest(messages=rows[0]['messages'][:1], images=rows[0]['images'])
    response = engine.infer([request], RequestConfig(max_tokens=3, temperature=0), use_tqdm=False)[0]
    assert isinstance(response.choices[0].message.content, str)


@pytest.mark.parametrize('model_type', [None, 'citrusv'])
def test_an_unconverted_one_names_the_command(model_type, published, tmp_path, capsys):
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


# ---- tokenizer and processor


def test_text_files_are_asked_for_when_text_is_needed(tiny_mllm, published, broken, tmp_path, capsys):
    from swift.model import get_model_processor
    for name in ('tokenizer.json', 'processor_config.json'):
        (broken / name).unlink()
    output = tmp_path / 'out'
    assert main(['convert', str(broken), str(output)]) == 0
    said = capsys.readouterr().out
    assert 'none, so no text' in said and '--tokenizer Qwen/Qwen2.5-VL' in said
    model = CitrusVForConditionalGeneration.from_pretrained(output)
    assert model.config.seg_token_id is not None
    with pytest.raises(FileNotFoundError, match='no tokenizer and no processor.*--tokenizer Qwen/Qwen2.5-VL'):
        get_model_processor(str(output), model_type='citrusv')
    # As the message says: from elsewhere, or copied by hand.
    assert main(['convert', str(broken), str(tmp_path / 'named'), '--tokenizer', tiny_mllm]) == 0
    for name in ('tokenizer.json', 'tokenizer_config.json', 'processor_config.json', 'chat_template.jinja'):
        shutil.copy(Path(tiny_mllm) / name, output)
    for folder in (tmp_path / 'named', output):
        _, processor = get_model_processor(str(folder), model_type='citrusv', load_model=False)
        assert processor.tokenizer.convert_tokens_to_ids('[SEG]') == model.config.seg_token_id


def test_another_tokenizer_is_refused(broken, tmp_path, tiny_mllm):
    _edit(broken, seg_token_idx=7)
    _refused(broken, tmp_path, r'The id of \[SEG\] in the tokenizer in .* is \d+, but the model was trained with seg_token_idx 7')
    (tmp_path / 'empty').mkdir()
    _refused(
        broken, tmp_path, '--tokenizer .*empty holds no tokenizer and no processor', tokenizer=str(tmp_path / 'empty'))
    (broken / 'tokenizer.json').write_text('{"a": ')
    _refused(broken, tmp_path, 'tokenizer.json cannot be read as JSON')
    (broken / 'tokenizer.json').write_text('{}')
    _refused(broken, tmp_path, 'cannot be read')


# ---- what is not whole


@pytest.mark.parametrize('changes, match', [
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
], ids=str)  # yapf: disable
def test_configurations_that_are_refused(changes, match, broken, tmp_path):
    _edit(broken, **changes)
    _refused(broken, tmp_path, match)


def _rewrite(folder: Path, change, **options) -> None:
    state = load_file(folder / 'model.safetensors')
    change(state)
    (folder / 'model.safetensors').unlink()
    write_weights(folder, state, **options)


def test_weights_that_are_refused(broken, tmp_path):
    """All of what is wrong is named at once."""

    def change(state):
        del state['seg_projector.2.bias']
        del state['grounding_encoder.sam2_model.no_mem_embed']
        state['seg_projector.4.weight'] = torch.zeros(3)
        state['grounding_encoder.sam2_model.new_head.weight'] = torch.zeros(3)
        state['ema.mllm.lm_head.weight'] = torch.zeros(3)
        state['mllm.visual.merger.ln_q.weight'] = state['mllm.model.visual.merger.ln_q.weight'].clone()
        state['mllm.model.language_model.norm.weight'] = torch.zeros(7)
        state['mllm.lm_head.weight'] = state['mllm.lm_head.weight'].to(torch.int8)

    _rewrite(broken, change)
    with pytest.raises(ValueError) as caught:
        convert_checkpoint(str(broken), str(tmp_path / 'out'))
    for part in ('3 unknown: ', 'seg_projector.4.weight', 'grounding_encoder.sam2_model.new_head.weight',
                 'ema.mllm.lm_head.weight', '2 missing: ', 'seg_projector.fc2.bias', 'segmenter.no_mem_embed',
                 'mllm.visual.merger.ln_q.weight', 'mllm.model.language_model.norm.weight [7] instead of [128]',
                 'mllm.lm_head.weight (I8)', 'Nothing was converted'):
        assert part in str(caught.value), part
    assert not (tmp_path / 'out').exists()


def test_a_tied_head_has_to_be_the_embedding(broken, tmp_path):
    _edit(broken, tie_word_embeddings=True)
    _refused(broken, tmp_path, 'tie_word_embeddings.*differ')

    def tie(state):
        state['mllm.lm_head.weight'] = state['mllm.model.language_model.embed_tokens.weight'].clone()

    _rewrite(broken, tie)
    conversion = convert_checkpoint(str(broken), str(tmp_path / 'out'))
    assert any('mllm.lm_head.weight' in sentence for sentence in conversion.left_out)
    model = CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'out')
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_a_projector_of_another_width(broken, tmp_path):

    def widen(state):
        state['seg_projector.0.weight'], state['seg_projector.0.bias'] = torch.randn(96, 128), torch.randn(96)
        state['seg_projector.2.weight'] = torch.randn(64, 96)

    _rewrite(broken, widen)
    convert_checkpoint(str(broken), str(tmp_path / 'out'))
    assert CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'out').seg_projector.fc1.out_features == 96


@pytest.mark.parametrize('suffix', ['.safetensors', '.bin'])
def test_files_that_are_refused(suffix, broken, tmp_path):
    _rewrite(broken, lambda state: None, suffix=suffix, num_files=3)
    stem = 'model' if suffix == '.safetensors' else 'pytorch_model'
    index, second = broken / f'{stem}{suffix}.index.json', broken / f'{stem}-00002-of-00003{suffix}'
    content, places = second.read_bytes(), index.read_text()
    second.unlink()
    _refused(broken, tmp_path, f'lacks 1 of the 3 files .*{second.name}')
    second.write_bytes(content[:len(content) // 2])
    _refused(broken, tmp_path, f'{second.name} (cannot be read|is refused)')
    second.write_bytes(content)
    index.write_text(places.replace(second.name, f'../{second.name}'))
    _refused(broken, tmp_path, r'must name files in its own folder')
    index.write_text('[]')
    _refused(broken, tmp_path, 'cannot be read as an index')
    index.unlink()
    _refused(broken, tmp_path, 'nor an index of its files')
    # The same weights in two files.
    shutil.copy(second, broken / f'{stem}-00004-of-00004{suffix}')
    both = json.loads(places)
    both['weight_map']['again'] = f'{stem}-00004-of-00004{suffix}'
    index.write_text(json.dumps(both))
    _refused(broken, tmp_path, f'is in {second.name} and in {stem}-00004')
    for path in [*broken.glob('*.safetensors'), *broken.glob('*.bin'), index]:
        path.unlink()
    _refused(broken, tmp_path, 'holds no weights')


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
    _refused(broken, tmp_path, 'is refused')
    path.write_bytes(pickle.dumps({'a': _Evil(mark)}))
    _refused(broken, tmp_path, 'is refused')
    assert not mark.exists()
    torch.save([torch.zeros(3)], path, _use_new_zipfile_serialization=zipped)
    _refused(broken, tmp_path, 'contains no state dict')


def test_files_from_before_torch_1_6(published, broken, tmp_path):
    state = load_file(broken / 'model.safetensors')
    (broken / 'model.safetensors').unlink()
    torch.save(state, broken / 'pytorch_model.bin', _use_new_zipfile_serialization=False)
    convert_checkpoint(str(broken), str(tmp_path / 'out'))
    convert_checkpoint(str(published), str(tmp_path / 'wanted'))
    one, other = (load_file(tmp_path / name / 'model.safetensors') for name in ('out', 'wanted'))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- the new directory


def test_the_directory_has_to_be_empty(published, broken, tmp_path):
    output = tmp_path / 'out'
    output.mkdir()
    convert_checkpoint(str(published), str(output), shard_bytes=2**20)
    with pytest.raises(ValueError, match='is not empty'):
        convert_checkpoint(str(published), str(output))
    (output / 'notes.txt').write_text('mine')
    # What the first one left must not be read with the second, or instead of it.
    convert_checkpoint(str(published), str(output), overwrite=True, shard_bytes=2**30)
    assert sorted(path.name for path in output.glob('*.safetensors*')) == ['model.safetensors']
    assert (output / 'notes.txt').read_text() == 'mine'
    with pytest.raises(ValueError, match='the directory to convert'):
        convert_checkpoint(str(broken), str(broken), overwrite=True)
    with pytest.raises(ValueError, match='is a file'):
        convert_checkpoint(str(broken), str(output / 'notes.txt'))
    with pytest.raises(NotADirectoryError, match='not a directory'):
        convert_checkpoint(str(tmp_path / 'nothing'), str(tmp_path / 'new'))


def test_a_conversion_that_ends_early_leaves_no_checkpoint(published, tmp_path, monkeypatch):
    """Also over a whole one: config.json goes first and comes last."""
    output = tmp_path / 'out'
    convert_checkpoint(str(published), str(output))
    from swift_citrusv.model import convert
    write, left = convert.save_file, [2]

    def killed(*args, **kwargs):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        write(*args, **kwargs)

    monkeypatch.setattr(convert, 'save_file', killed)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(str(published), str(output), overwrite=True, shard_bytes=2**20)
    assert list(output.glob('model-00001-of-*')) and not (output / 'config.json').exists()
    with pytest.raises(OSError):
        CitrusVForConditionalGeneration.from_pretrained(output)


def test_new_files_stay_within_their_size(published, tmp_path):
    convert_checkpoint(str(published), str(tmp_path / 'out'), shard_bytes=2**20)
    index = json.loads((tmp_path / 'out' / 'model.safetensors.index.json').read_text())
    names = sorted(set(index['weight_map'].values()))
    assert len(names) > 3 and names[0] == f'model-00001-of-{len(names):05}.safetensors'
    total = 0
    for name in names:
        with safe_open(tmp_path / 'out' / name, 'pt') as file:
            sizes = [file.get_tensor(key).nbytes for key in file.keys()]
            assert all(index['weight_map'][key] == name for key in file.keys())
            assert sum(sizes) <= 2**20 and file.metadata() == {'format': 'pt'}
        total += sum(sizes)
    assert total == index['metadata']['total_size']
