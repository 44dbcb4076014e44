"""Conversion of published checkpoints: weights are identical, and logits and masks equal to 1e-4.

The reference is `support.published_checkpoint`, which does not use this package.
"""
import json
import pytest
import shutil
import torch
from pathlib import Path
from safetensors import safe_open
from safetensors.torch import load_file
from support.broken_checkpoints import assert_refused, edit_json
from support.published_checkpoint import balance, tiny_published, write_published
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from transformers import AutoProcessor, AutoTokenizer

from swift_citrusv.cli.main import main
from swift_citrusv.model.config import CitrusVConfig
from swift_citrusv.model.convert import convert_checkpoint
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.model.published_layout import parameter_name
from swift_citrusv.model.segmenter import Segmenter

# One for each [SEG] of `_batch`.
IMAGES = torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


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
def test_logits_and_masks_equal_those_of_the_reference(residual, suffix, num_files, old, tied, num_padding, tiny_mllm,
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

    # The comparison is not vacuous.
    assert logits.std() > 0.1 and best.std() > 0.1 and len(set(ious.argmax(dim=1).tolist())) > 1
    assert (ious.topk(2).values.diff().abs() > 1e-4).all(), 'the choice would depend on rounding'
    other = reference(inputs, places, IMAGES, 3 - num_padding)[1]
    assert (other - masks).abs().max() > 0.01, 'the padding points have no effect'


def test_weights_are_identical_to_the_last_bit(tiny_mllm, tmp_path):
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


def test_padding_point_and_multimask_heads_get_gradients(converted):
    """Exactly the parameters that `uses_parameter` names, which depend on both settings."""
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


def test_the_command_prints_a_summary(published, tmp_path, capsys):
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


def test_missing_text_files_are_an_error_only_where_text_is_needed(tiny_mllm, published, broken, tmp_path, capsys):
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
    # Both remedies in the message: --tokenizer, or copied files.
    assert main(['convert', str(broken), str(tmp_path / 'named'), '--tokenizer', tiny_mllm]) == 0
    for name in ('tokenizer.json', 'tokenizer_config.json', 'processor_config.json', 'chat_template.jinja'):
        shutil.copy(Path(tiny_mllm) / name, output)
    for folder in (tmp_path / 'named', output):
        _, processor = get_model_processor(str(folder), model_type='citrusv', load_model=False)
        assert processor.tokenizer.convert_tokens_to_ids('[SEG]') == model.config.seg_token_id


def test_another_tokenizer_is_refused(broken, tmp_path, tiny_mllm):
    edit_json(broken, seg_token_idx=7)
    assert_refused(broken, tmp_path,
                   r'The id of \[SEG\] in the tokenizer in .* is \d+, but the model was trained with seg_token_idx 7')
    (tmp_path / 'empty').mkdir()
    assert_refused(
        broken, tmp_path, '--tokenizer .*empty holds no tokenizer and no processor', tokenizer=str(tmp_path / 'empty'))
    (broken / 'tokenizer.json').write_text('{"a": ')
    assert_refused(broken, tmp_path, 'tokenizer.json cannot be read as JSON')
    (broken / 'tokenizer.json').write_text('{}')
    assert_refused(broken, tmp_path, 'cannot be read')


def test_the_output_directory_must_be_empty(published, broken, tmp_path):
    output = tmp_path / 'out'
    output.mkdir()
    convert_checkpoint(str(published), str(output), shard_bytes=2**20)
    with pytest.raises(ValueError, match='is not empty'):
        convert_checkpoint(str(published), str(output))
    (output / 'notes.txt').write_text('mine')
    # Files of the first conversion must not be read instead of those of the second.
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
