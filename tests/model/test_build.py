"""Checkpoint directories made by `build_checkpoint`, and the tiny Qwen2.5-VL that tests and the demo start from."""
import hashlib
import json
import pytest
import torch
from pathlib import Path
from shutil import copytree
from transformers import AutoProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from swift_citrusv.model.build import build_checkpoint
from swift_citrusv.model.graft import add_seg_token
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.model.segmenter import Segmenter
from swift_citrusv.model.tiny import SPECIAL_TOKENS, build_tiny_mllm, train_tokenizer

TEXTS = ('Segment the nuclei.', '请分割细胞核。血管：。', '龘靐齉 🩻 naïve\n\ttab  two spaces', '左心房 (LA) = 4.2 cm²')


@pytest.fixture(scope='module')
def tokenizer(tiny_checkpoint):
    return AutoProcessor.from_pretrained(tiny_checkpoint).tokenizer


def _resized(tiny_mllm: str, folder: Path, tied: bool) -> str:
    """A copy of the tiny Qwen2.5-VL with as many embeddings as tokens; with a language head of its own if not tied."""
    copytree(tiny_mllm, folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_mllm)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(tiny_mllm)))
    if not tied:
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(2 * model.lm_head.weight.detach() + 1)
    model.save_pretrained(folder)
    return str(folder)


# --- [SEG] ---


def test_seg_is_one_token_anywhere_in_a_text(tokenizer):
    seg = tokenizer.convert_tokens_to_ids('[SEG]')
    for text in ('[SEG]', 'The nuclei: [SEG].', '细胞核：[SEG]。', 'a[SEG]b', '[SEG][SEG]', '<|im_start|>[SEG]\n'):
        ids = tokenizer.encode(text)
        assert ids.count(seg) == text.count('[SEG]'), text
        before = tokenizer.encode(text.split('[SEG]')[0])
        assert ids[:len(before) + 1] == [*before, seg], text


def test_seg_survives_decoding_without_special_tokens(tokenizer):
    text = '<|im_start|>The nuclei: [SEG]. 血管：[SEG]。<|im_end|>'
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == 'The nuclei: [SEG]. 血管：[SEG]。'
    assert tokenizer.convert_tokens_to_ids('[SEG]') not in tokenizer.all_special_ids


def test_text_similar_to_seg_is_not_seg(tokenizer):
    for text in ('[seg]', '[SEG', 'SEG]', '[ SEG ]'):
        assert tokenizer.convert_tokens_to_ids('[SEG]') not in tokenizer.encode(text), text


def test_seg_is_added_once(tokenizer):
    size = len(tokenizer)
    assert add_seg_token(tokenizer) == tokenizer.convert_tokens_to_ids('[SEG]')
    assert len(tokenizer) == size


def test_the_same_ids_after_a_reload(tokenizer, tiny_checkpoint, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    config = json.loads((Path(tiny_checkpoint) / 'config.json').read_text())
    assert config['seg_token_id'] == again.convert_tokens_to_ids('[SEG]') == len(again) - 1
    for text in (*TEXTS, 'The nuclei: [SEG].'):
        assert again.encode(text) == tokenizer.encode(text)


def test_any_text_round_trips(tokenizer):
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and tokenizer.decode(ids, skip_special_tokens=True) == text, text


# --- embeddings ---


def test_room_in_the_embeddings_is_used(tiny_mllm, tiny_checkpoint):
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_mllm).get_input_embeddings().weight
    model = CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)
    weight, seg = model.get_input_embeddings().weight, model.config.seg_token_id
    assert weight.shape == plain.shape
    torch.testing.assert_close(weight[seg], plain[:seg].mean(dim=0))
    assert torch.equal(weight[:seg], plain[:seg]) and torch.equal(weight[seg + 1:], plain[seg + 1:])


@pytest.mark.parametrize('tied', [True, False])
def test_a_full_vocabulary_grows(tiny_mllm, tmp_path, tied):
    mllm = _resized(tiny_mllm, tmp_path / 'full', tied=tied)
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(mllm)
    built = build_checkpoint(mllm, 'tiny', str(tmp_path / 'built'))
    again = CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'built')
    seg = again.config.seg_token_id
    num_tokens = len(AutoTokenizer.from_pretrained(tiny_mllm))
    assert plain.get_input_embeddings().weight.shape[0] == seg == num_tokens
    for model in (built, again):
        assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
        for name in ('get_input_embeddings', 'get_output_embeddings'):
            weight, old = getattr(model, name)().weight, getattr(plain, name)().weight
            assert weight.shape[0] % 128 == 0 and seg < weight.shape[0] <= seg + 128
            assert weight.shape[0] == model.config.text_config.vocab_size
            assert torch.equal(weight[:seg], old) and weight.isfinite().all()
            torch.testing.assert_close(weight[seg], old.mean(dim=0))
    if not tied:
        assert not torch.allclose(again.lm_head.weight[seg], again.get_input_embeddings().weight[seg])
    with torch.no_grad():
        assert again(input_ids=torch.tensor([[1, seg]])).logits.shape == (1, 2, again.config.text_config.vocab_size)


# --- what is built ---


def test_the_parts_are_there(tiny_mllm, tiny_checkpoint):
    config = json.loads((Path(tiny_checkpoint) / 'config.json').read_text())
    assert config['model_type'] == 'citrusv' and config['architectures'] == ['CitrusVForConditionalGeneration']
    assert (config['sam2_preset'], config['multimask_output']) == ('tiny', False)
    plain = json.loads((Path(tiny_mllm) / 'config.json').read_text())
    for key in ('image_token_id', 'video_token_id', 'vision_start_token_id', 'tie_word_embeddings'):
        assert config[key] == plain[key]
    for key in ('text_config', 'vision_config'):
        assert plain[key].items() <= (config[key] | {'dtype': plain[key].get('dtype')}).items()
    processor, before = AutoProcessor.from_pretrained(tiny_checkpoint), AutoProcessor.from_pretrained(tiny_mllm)
    assert processor.chat_template == before.chat_template
    assert processor.image_processor.to_dict() == before.image_processor.to_dict()


def test_sam2_from_a_file(tiny_mllm, tmp_path):
    torch.manual_seed(5)
    sam2 = Segmenter('tiny')
    torch.save({'model': sam2.state_dict()}, tmp_path / 'medsam2.pt')
    model = build_checkpoint(
        tiny_mllm,
        str(tmp_path / 'medsam2.pt'),
        str(tmp_path / 'built'),
        sam2_preset='tiny',
        multimask_output=True,
        dtype=torch.bfloat16)
    again = CitrusVForConditionalGeneration.from_pretrained(tmp_path / 'built', dtype='auto')
    for built in (model, again):
        assert built.lm_head.weight.dtype == torch.bfloat16
        assert built.config.multimask_output and built.segmenter.multimask_output
        for name, value in built.segmenter.state_dict().items():
            # To the bit: nothing passes through bfloat16.
            assert value.dtype == torch.float32 and torch.equal(value, sam2.state_dict()[name]), name


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()


def test_the_seed_determines_the_weights(tmp_path):
    state = torch.get_rng_state()
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        build_checkpoint('tiny', 'tiny', str(tmp_path / name), seed=seed)
    assert torch.equal(torch.get_rng_state(), state), 'the random state of the caller has changed'
    assert _digest(tmp_path / 'a') == _digest(tmp_path / 'b') != _digest(tmp_path / 'c')


def test_the_corpus_of_the_tokenizer(tmp_path):
    build_checkpoint('tiny', 'tiny', str(tmp_path / 'built'), corpus=['glomerulus ' * 20])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / 'built')
    assert len(tokenizer.encode('glomerulus')) == 1
    assert tokenizer.decode(tokenizer.encode(TEXTS[1])) == TEXTS[1]


# --- what is refused ---


def test_an_output_that_holds_a_model(tiny_mllm, tmp_path):
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(ValueError, match=f'{tmp_path} already contains a model'):
        build_checkpoint(tiny_mllm, 'tiny', str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_an_empty_output_is_fine(tiny_mllm, tmp_path):
    build_checkpoint(tiny_mllm, 'tiny', str(tmp_path))
    assert (tmp_path / 'config.json').exists()


def test_an_unknown_sam2(tiny_mllm, tmp_path):
    with pytest.raises(ValueError, match='No SAM2 weights'):
        build_checkpoint(tiny_mllm, 'sam3', str(tmp_path / 'built'))
    assert not (tmp_path / 'built').exists()


def test_another_kind_of_model(tiny_mllm, tmp_path):
    folder = tmp_path / 'other'
    copytree(tiny_mllm, folder)
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(config | {'model_type': 'qwen2_vl'}))
    with pytest.raises(ValueError, match='contains a qwen2_vl.*qwen2_5_vl'):
        build_checkpoint(str(folder), 'tiny', str(tmp_path / 'built'))
    assert not (tmp_path / 'built').exists()


def test_a_sam2_file_of_another_preset(tiny_mllm, tmp_path):
    torch.save({'model': {'no_mem_embed': torch.zeros(1, 1, 256)}}, tmp_path / 'x.pt')
    with pytest.raises(ValueError, match="not a checkpoint of SAM2 preset 'tiny'"):
        build_checkpoint(tiny_mllm, str(tmp_path / 'x.pt'), str(tmp_path / 'built'), sam2_preset='tiny')
    assert not (tmp_path / 'built').exists()


# --- the tiny Qwen2.5-VL ---


def test_the_tiny_tokenizer_has_qwens_special_tokens():
    tokenizer = train_tokenizer()
    for token in SPECIAL_TOKENS:
        assert tokenizer.encode(f'a{token}b')[1] == tokenizer.convert_tokens_to_ids(token)
    assert tokenizer.eos_token == '<|im_end|>' and tokenizer.pad_token == '<|endoftext|>'
    assert tokenizer.decode(tokenizer.encode('<|im_start|>a<|im_end|>'), skip_special_tokens=True) == 'a'
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize('hidden_size', [64, 96, 128, 256])
def test_a_tiny_mllm_of_any_width_runs(hidden_size, tmp_path):
    build_tiny_mllm(str(tmp_path), hidden_size=hidden_size)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    text = processor.apply_chat_template([{
        'role': 'user',
        'content': [{
            'type': 'image'
        }, {
            'type': 'text',
            'text': '?'
        }]
    }])
    image = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8).permute(1, 2, 0).numpy()
    inputs = processor(text=[text], images=[image], return_tensors='pt')
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.isfinite().all() and logits.shape[-1] == model.config.text_config.vocab_size
    assert model.config.text_config.vocab_size > len(processor.tokenizer), 'room for [SEG]'
