"""Text and masks of answers: one pass, any batch, everybody's own masks."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dataclasses import replace
from PIL import Image
from support.closeness import assert_same_mask
from support.requests_with_images import mixed_requests, picture
from swift.infer_engine import RequestConfig
from typing import Any

from swift_citrusv import CitrusVPipeline
from swift_citrusv.constants import SEG_TOKEN
from swift_citrusv.errors import RowError
from swift_citrusv.inference.results import MaskResult
from swift_citrusv.model.segmenter import Segmenter
from swift_citrusv.pipeline import Answer

MAX_TOKENS = 24


@pytest.fixture(scope='module')
def pipe(talkative_checkpoint) -> CitrusVPipeline:
    return CitrusVPipeline(talkative_checkpoint, device='cpu', dtype=torch.float32, batch_size=8)


@pytest.fixture(scope='module')
def single(pipe) -> list[Answer]:
    """The eight, one at a time."""
    return [pipe(*request, max_tokens=MAX_TOKENS) for request in mixed_requests()]


def assert_same(answers: list[Answer], expected: list[Answer]) -> None:
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.finish_reason == wanted.finish_reason
        for mask, other in zip(answer.masks, wanted.masks, strict=True):
            assert_same_mask(mask.to_dict(), other.to_dict())


# ---- an independent definition: the whole conversation at once, nothing of ours between the model and the mask


def drawn_in_another_way(pipe: CitrusVPipeline, request: tuple[Any, Any], ids: list[int],
                         images: list[Image.Image]) -> list[np.ndarray]:
    """The masks of an answer by a pass of Transformers' own over prompt and answer, and of sam2 mask by mask."""
    engine = pipe.engine
    model, template = engine.model, engine.template
    template.set_mode('transformers')
    inputs = template.data_collator([template.encode(pipe._request(*request))])
    prompt = inputs['input_ids'].shape[1]
    inputs['input_ids'] = torch.cat([inputs['input_ids'], torch.tensor([ids])], dim=1)
    inputs['attention_mask'] = torch.ones_like(inputs['input_ids'])
    for key in ('mm_token_type_ids', 'token_type_ids'):
        if inputs.get(key) is not None:
            inputs[key] = F.pad(inputs[key], (0, len(ids)))
    inputs.pop('position_ids', None)
    inputs.pop('labels', None)
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[-1][0, prompt:]
        masks = []
        for token, state, image in zip(ids, hidden, images):
            if token != template.seg_token_id:
                continue
            first, second = model.seg_projector.fc1, model.seg_projector.fc2
            state = second.weight @ (first.weight @ state + first.bias).clamp(min=0) + second.bias
            side = model.segmenter.image_size
            pixels = np.array(image.convert('RGB').resize((side, side), Image.Resampling.BILINEAR))
            features = model.segmenter.encode_images(torch.from_numpy(pixels).permute(2, 0, 1)[None])
            logits = model.segmenter.decode(features, torch.tensor([0]), state[None, None]).logits[None]
            large = F.interpolate(logits, (image.height, image.width), mode='bilinear', align_corners=False)
            masks.append((large[0, 0] > 0).numpy())
    return masks


def test_masks_are_those_of_a_pass_over_the_whole(pipe, single):
    count = 0
    for request, answer in zip(mixed_requests(), single):
        images = request[0] if isinstance(request[0], list) else [request[0]]
        if request[0] is None or not answer.masks:
            continue
        tokenizer = pipe.engine.tokenizer
        ids = tokenizer.encode(answer.text, add_special_tokens=False)
        assert tokenizer.decode(ids, spaces_between_special_tokens=False) == answer.text
        chosen = iter(answer.masks)
        of_token = [
            images[next(chosen).image_index if token == pipe.engine.template.seg_token_id else 0] for token in ids
        ]
        expected = drawn_in_another_way(pipe, request, ids, of_token)
        assert len(expected) == len(answer.masks)
        for mask, wanted in zip(answer.masks, expected):
            image = images[mask.image_index]
            assert mask.array.shape == (image.height, image.width) == wanted.shape
            # A pixel whose logit is 0 but for rounding may fall on either side.
            assert (mask.array != wanted).sum() <= 2
            assert mask.area == mask.array.sum() and 0.5 < mask.score < 1
            count += 1
    assert count >= 8


# ---- batches


def test_a_batch_answers_as_single_requests_do(pipe, single):
    kinds = [len(answer.masks) for answer in single]
    assert 0 in kinds and 1 in kinds and max(kinds) > 4 and len({len(answer.text) for answer in single}) > 3
    assert_same(pipe.batch(mixed_requests(), max_tokens=MAX_TOKENS), single)
    backwards = pipe.batch(mixed_requests()[::-1], max_tokens=MAX_TOKENS)
    assert_same(backwards[::-1], single)


def test_the_language_model_runs_once_a_token_and_sam2_once_an_image(pipe, monkeypatch):
    num_steps, num_encoded = 0, 0
    language_model = pipe.engine.model.model.language_model
    forward, encode = language_model.forward, Segmenter.encode_images

    def counting_forward(*args, **kwargs):
        nonlocal num_steps
        num_steps += 1
        return forward(*args, **kwargs)

    def counting_encode(self, images):
        nonlocal num_encoded
        num_encoded += len(images)
        return encode(self, images)

    monkeypatch.setattr(language_model, 'forward', counting_forward)
    monkeypatch.setattr(Segmenter, 'encode_images', counting_encode)
    answers = pipe.batch(mixed_requests(), max_tokens=MAX_TOKENS)
    ends_with_seg = any(answer.text.endswith(SEG_TOKEN) for answer in answers)
    assert num_steps == MAX_TOKENS + ends_with_seg
    # No image without a mask, and none twice.
    assert num_encoded == sum(len({mask.image_index for mask in answer.masks}) for answer in answers) < 10


def test_a_last_token_that_is_seg_has_its_mask(pipe, single):
    """No step is fed with it: the one case that costs a pass of its own."""
    requests, cut = [], []
    for request, answer in zip(mixed_requests(), single):
        ids = pipe.engine.tokenizer.encode(answer.text, add_special_tokens=False)
        places = [i for i, token in enumerate(ids) if token == pipe.engine.template.seg_token_id]
        if answer.masks:
            requests.append(request)
            cut.append((places[0] + 1, answer))
    assert len(requests) >= 3
    for request, (length, answer) in zip(requests, cut):
        short = pipe(*request, max_tokens=length)
        assert short.text.endswith(SEG_TOKEN) and short.finish_reason == 'length'
        assert len(short.masks) == 1 and (short.masks[0].array != answer.masks[0].array).sum() <= 2
    length = cut[0][0]
    together = pipe.batch(requests, max_tokens=length)
    assert_same(together, [pipe(*request, max_tokens=length) for request in requests])


# ---- the caller's settings


def engine_answers(pipe: CitrusVPipeline, requests: list[Any], **settings: Any) -> list[Any]:
    return pipe.engine.infer([pipe._request(*request) for request in requests],
                             RequestConfig(**{
                                 'temperature': 0,
                                 'max_tokens': MAX_TOKENS,
                                 'return_details': True,
                                 **settings
                             }),
                             use_tqdm=False)


@pytest.mark.parametrize('settings', [
    {'num_beams': 3},
    {'num_beams': 4, 'n': 2},
    {'temperature': 1.0, 'n': 3, 'seed': 5},
], ids=['beams', 'beams, two of them', 'three samples'])  # yapf: disable
def test_every_sequence_has_its_own_masks(settings, pipe):
    """Each mask is what its own text draws, to whatever row the sequence was moved."""
    requests = [request for request in mixed_requests() if request[0] is not None]
    count, texts = 0, set()
    for request, response in zip(requests, engine_answers(pipe, requests, **settings)):
        images = request[0] if isinstance(request[0], list) else [request[0]]
        for choice in response.choices:
            text = choice.message.content
            texts.add(text)
            # The text alone could be cut into other tokens.
            ids = choice.token_ids
            chosen = iter(choice.message.masks)
            of_token = [
                images[next(chosen)['image_index'] if token == pipe.engine.template.seg_token_id else 0]
                for token in ids
            ]
            expected = drawn_in_another_way(pipe, request, ids, of_token)
            for mask, wanted in zip(choice.message.masks, expected, strict=True):
                found = MaskResult(**mask).array
                assert (found != wanted).sum() <= 2
                count += 1
    assert count >= 5 and len(texts) > 3


def test_settings_are_honoured(pipe, single):
    greedy = single[0].text
    requests = mixed_requests()[:3]
    sampled = pipe.batch(requests, max_tokens=MAX_TOKENS, temperature=1.5, seed=3)
    assert sampled[0].text != greedy
    assert_same(pipe.batch(requests[::-1], max_tokens=MAX_TOKENS, temperature=1.5, seed=3)[::-1], sampled)
    assert pipe.batch(requests, max_tokens=MAX_TOKENS, temperature=1.5, seed=4)[0].text != sampled[0].text
    state = torch.random.get_rng_state()
    pipe(*requests[0], max_tokens=4, temperature=1.5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    short = pipe(*requests[0], max_tokens=3)
    assert greedy.startswith(short.text) and short.finish_reason == 'length'
    word = next(word for word in greedy.split() if len(word) > 2 and SEG_TOKEN not in word)
    stopped = pipe(*requests[0], max_tokens=MAX_TOKENS, stop=[word])
    assert stopped.text == greedy[:greedy.index(word) + len(word)] and stopped.finish_reason == 'stop'
    with pytest.raises(ValueError, match='max_new_tokens.*RequestConfig'):
        pipe(*requests[0], max_new_tokens=3)


# ---- streams


def without_blanks(answer: Answer) -> Answer:
    text = answer.text.lstrip()
    blanks = len(answer.text) - len(text)
    return replace(answer, text=text, masks=tuple(replace(mask, offset=mask.offset - blanks) for mask in answer.masks))


def test_a_stream_ends_with_the_masks(pipe, single):
    for request, expected in zip(mixed_requests(), single):
        pieces = list(pipe.stream(*request, max_tokens=MAX_TOKENS))
        text = ''.join(piece.text for piece in pieces)
        # ms-swift takes the blanks off the beginning of a stream.
        assert text == expected.text.lstrip() and [piece.masks for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
        assert_same([Answer(text, pieces[-1].masks, expected.finish_reason)], [without_blanks(expected)])
        assert all(text[mask.offset:].startswith(SEG_TOKEN) for mask in pieces[-1].masks)


def test_streams_of_a_batch_do_not_meet(pipe, single):
    requests = [pipe._request(*request) for request in mixed_requests()]
    config = RequestConfig(temperature=0, max_tokens=MAX_TOKENS, stream=True)
    texts: list[str] = [''] * 8
    masks: list[Any] = [None] * 8
    for chunks in pipe.engine._infer(requests, config):
        for i, chunk in enumerate(chunks):
            if chunk is not None:
                assert masks[i] is None
                delta = chunk.choices[0].delta
                texts[i] += delta.content
                masks[i] = getattr(delta, 'masks', None)
    found = [
        Answer(text, tuple(MaskResult(**mask) for mask in drawn), one.finish_reason)
        for text, drawn, one in zip(texts, masks, single)
    ]
    assert_same(found, [without_blanks(one) for one in single])


# ---- images


def test_images_of_every_kind(pipe, tmp_path):
    image = picture(1, 60, 50)
    path = tmp_path / 'a.png'
    image.save(path)
    answers = [pipe(one, 'Segment the cell.', max_tokens=6) for one in (image, str(path), np.array(image))]
    assert_same(answers, [answers[0]] * 3)
    # Other numbers are shown by percentiles.
    assert pipe(np.linspace(-1000, 1000, 2500).reshape(50, 50), 'Segment the cell.', max_tokens=6).text
    with pytest.raises(RowError, match='bool'):
        pipe(np.zeros((8, 8), bool), 'What?')
    with pytest.raises(RowError, match='nowhere.png'):
        pipe(str(tmp_path / 'nowhere.png'), 'What?')


def test_seg_without_an_image_is_said(pipe, caplog):
    for length in range(2, MAX_TOKENS):
        answer = pipe(None, 'What is a cell? ' * length, max_tokens=MAX_TOKENS)
        assert answer.masks == ()
        if SEG_TOKEN in answer.text:
            assert 'no image: it gets no mask' in caplog.text
            return
    pytest.fail('the model never says [SEG]')
