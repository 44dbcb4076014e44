"""Throughput of answers with masks: each method against its alternative, in one run.

    python tests/bench/bench_inference.py --output output/bench/inference.json
    python tests/bench/bench_inference.py --device cuda --dims 7b --output output/bench/inference_cuda.json

The first line is for a machine without a GPU: a tiny model in float32. The second needs CUDA and about 20 GiB of its
memory: the sizes of Qwen2.5-VL-7B and of SAM2.1 large, random weights made on the device in bfloat16.

Random weights answer at random, so what is answered is fixed: a quarter of the requests is text alone, the others have
an image, and their answers one, three or no `[SEG]`; lengths vary by a factor of three. The tokens are put in place of
what the language head chose, after it has run, so every way does all of its work, on the same answers. Counted are
useful tokens (no padding, no end token) and masks.

The ways, on the same requests:
- one pass: `CitrusVPipeline.batch`, batches of 8, and one request at a time;
- generate twice: the text once, then all of it generated again with every hidden state kept, for the masks;
- generate and read: the text once, then one pass over prompt and answer;
- masks alone: what is left here when another engine writes the text (`citrusv segment --text-from`);
- SAM2 on images with four masks: each image encoded once, or once for each mask.

Repeats are interleaved, and their medians compared. All ways draw the same masks; the report has how far their pixels
and scores differ by rounding.
"""
import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

if TYPE_CHECKING:
    from swift_citrusv import CitrusVPipeline
    from swift_citrusv.inference.results import MaskResult

TESTS = Path(__file__).resolve().parents[1]
BATCH = 8
SAM2_MASKS = 4
ONE_PASS, ONE_BY_ONE = f'one pass, batch {BATCH}', 'one pass, batch 1'
TWICE, READ = f'generate twice, batch {BATCH}', f'generate and read, batch {BATCH}'
MASKS_ALONE = f'masks alone, batch {BATCH}'
ENCODE_ONCE, ENCODE_EACH = 'SAM2, an image once', 'SAM2, an image for each mask'
# The method that each is compared with, by useful tokens, or by masks where no text is generated.
RATIOS = ((ONE_PASS, TWICE), (ONE_PASS, READ), (ONE_PASS, ONE_BY_ONE), (MASKS_ALONE, ONE_PASS), (ENCODE_ONCE,
                                                                                                 ENCODE_EACH))


class Request(NamedTuple):
    """A request and the ids of its answer, without the end token."""
    request: tuple[Any, str]
    answer: list[int]


def load(dims: Any, device: str, dtype: str) -> 'CitrusVPipeline':
    """A model of these sizes with random weights, which never pass through the host's memory."""
    import torch
    from bench_training import write_model

    from swift_citrusv import CitrusVPipeline
    from swift_citrusv.model.modeling import CitrusVForConditionalGeneration

    def random_weights(cls, model_dir, *args, config, dtype=None, torch_dtype=None, **kwargs):
        torch.manual_seed(0)
        with torch.device(device):
            return cls._from_config(config, dtype=dtype or torch_dtype).to(device)

    with tempfile.TemporaryDirectory() as folder:
        model_dir = write_model(Path(folder) / 'model', dims)
        with mock.patch.object(CitrusVForConditionalGeneration, 'from_pretrained', classmethod(random_weights)):
            return CitrusVPipeline(model_dir, device=device, dtype=getattr(torch, dtype), batch_size=BATCH)


def write_requests(pipe: 'CitrusVPipeline', count: int, max_tokens: int, side: int) -> list[Request]:
    """Requests in a fixed random order, with their answers."""
    import numpy as np
    from bench_training import WORDS
    from PIL import Image
    rng, pixels = random.Random(0), np.random.default_rng(0)
    tokenizer, seg = pipe.engine.tokenizer, pipe.engine.template.seg_token_id
    words = [token for word in WORDS for token in tokenizer.encode(f' {word}', add_special_tokens=False)]
    requests = []
    for i in range(count):
        answer = [rng.choice(words) for _ in range(rng.randint(max_tokens // 3, max_tokens))]
        for place in rng.sample(range(len(answer) - 1), k=(0, 1, 3, 0)[i % 4]):
            answer[place] = seg
        image = None
        if i % 4 != 3:
            small = Image.fromarray(pixels.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            image = small.resize((side, side), Image.Resampling.BICUBIC)
        question = 'Segment the ' if image is not None else 'What is the '
        requests.append(Request((image, question + ' '.join(rng.choices(WORDS, k=rng.randint(2, 30)))), answer))
    rng.shuffle(requests)
    return requests


@contextmanager
def saying(pipe: 'CitrusVPipeline', answers: list[list[int]]):
    """Makes generation return these answers, in the order of their prompts, batch by batch."""
    import torch
    from transformers import LogitsProcessor, LogitsProcessorList
    template, left = pipe.engine.template, list(answers)
    generate, end = template.generate, pipe.engine.tokenizer.eos_token_id

    class Script(LogitsProcessor):

        def __init__(self, prompts: torch.Tensor) -> None:
            self.start = prompts.shape[1]
            mine = [left.pop(0) for _ in prompts]
            tokens = torch.full((len(mine), max(map(len, mine)) + 1), end)
            for row, answer in enumerate(mine):
                tokens[row, :len(answer)] = torch.tensor(answer)
            self.tokens = tokens.to(prompts.device)

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            token = self.tokens[:, input_ids.shape[1] - self.start, None]
            return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.)

    def scripted(model, **kwargs):
        return generate(model, **kwargs, logits_processor=LogitsProcessorList([Script(kwargs['input_ids'])]))

    with mock.patch.object(template, 'generate', scripted):
        yield


# ---- the ways


def one_pass(pipe: 'CitrusVPipeline', requests: list[Request], batch: int) -> 'list[list[MaskResult]]':
    longest = max(len(request.answer) for request in requests) + 1
    found: list[list[MaskResult]] = []
    with saying(pipe, [request.answer for request in requests]):
        for start in range(0, len(requests), batch):
            part = requests[start:start + batch]
            answers = pipe.batch([request.request for request in part], max_tokens=longest)
            for request, answer in zip(part, answers, strict=True):
                assert answer.text == pipe.engine.template.decode_generate_ids(request.answer)
                found.append(list(answer.masks))
    return found


def in_two(pipe: 'CitrusVPipeline', requests: list[Request], again: bool) -> 'list[list[MaskResult]]':
    """Text first, from a generation that keeps no hidden states; then the hidden states.

    Args:
        pipe: The model.
        requests: The prompts and their answers.
        again: Whether they come from a second generation; else from one pass over prompt and answer.
    """
    import torch
    from swift.utils import to_device
    from transformers import GenerationConfig

    from swift_citrusv.inference.generation import AnswerMasks
    from swift_citrusv.model.seg_states import SegStates
    engine, template = pipe.engine, pipe.engine.template
    seg, end = template.seg_token_id, engine.tokenizer.eos_token_id
    template.set_mode('transformers')
    found: list[list[MaskResult]] = []
    for start in range(0, len(requests), BATCH):
        part = requests[start:start + BATCH]
        answers = [request.answer for request in part]
        encoded, _ = engine._batch_encode([pipe._of(request.request) for request in part], strict=True)
        template_inputs = [one.pop('template_inputs') for one in encoded]
        inputs = to_device(template.data_collator(encoded), engine.model.device)
        _, inputs = template.pre_forward_hook(engine.model, None, inputs)
        config = GenerationConfig(
            max_new_tokens=max(map(len, answers)) + 1,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=engine.tokenizer.pad_token_id,
            return_dict_in_generate=True)
        with torch.inference_mode():
            with saying(pipe, answers):
                text = template.generate(engine.model, generation_config=config, **inputs)
            states = SegStates(seg, inputs['input_ids'])
            states.sequences = text['sequences'][:, states.prompt_length:]
            if again:
                config.output_hidden_states = True
                with saying(pipe, answers):
                    output = template.generate(engine.model, generation_config=config, **inputs)
                for row, answer in enumerate(answers):
                    for place, token in enumerate(answer):
                        if token == seg:
                            # In the step after the one that chose it; the last layer.
                            states.put(row, answer[:place + 1], output['hidden_states'][place + 1][-1][row, -1])
            masks = AnswerMasks(engine.model, template, inputs, template_inputs, states)
            found += masks.draw([(row, 0) for row in range(len(part))])
    return found


def masks_alone(pipe: 'CitrusVPipeline', requests: list[Request]) -> 'list[list[MaskResult]]':
    """As `citrusv segment` does: batches of answers that have masks."""
    found: list[list[MaskResult]] = [[] for _ in requests]
    seg = pipe.engine.template.seg_token_id
    asked = [i for i, request in enumerate(requests) if seg in request.answer]
    for start in range(0, len(asked), BATCH):
        part = asked[start:start + BATCH]
        answers = pipe.masks_of([requests[i].request for i in part], [requests[i].answer for i in part])
        for i, answer in zip(part, answers, strict=True):
            found[i] = list(answer.masks)
    return found


def sam2(pipe: 'CitrusVPipeline', images: Any, prompts: Any, once: bool) -> None:
    """Draws `SAM2_MASKS` masks on each image."""
    import torch
    segmenter = pipe.engine.model.segmenter
    index = torch.arange(len(images), device=images.device).repeat_interleave(SAM2_MASKS)
    with torch.inference_mode():
        if once:
            segmenter(images, index, prompts)
        else:
            segmenter(images[index], torch.arange(len(index), device=images.device), prompts)


# ---- measuring


def measured(work: Callable[[], Any], cuda: bool) -> tuple[float, float, Any]:
    """Wall time and processor time in seconds, and the result."""
    import torch
    if cuda:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def difference(found: 'list[list[MaskResult]]', expected: 'list[list[MaskResult]]') -> dict[str, float]:
    """The share of pixels that differ, the largest difference of two scores, and the share of pixels in masks."""
    pairs = [pair for masks in zip(found, expected, strict=True) for pair in zip(*masks, strict=True)]
    total = sum(mask.array.size for mask, _ in pairs)
    return {
        'differing_pixels': sum(int((mask.array != other.array).sum()) for mask, other in pairs) / total,
        'largest_score_difference': max(abs(mask.iou_score - other.iou_score) for mask, other in pairs),
        'pixels_in_masks': sum(mask.area for mask, _ in pairs) / total,
    }


def run(pipe: 'CitrusVPipeline', requests: list[Request], repeats: int, cuda: bool) -> dict[str, Any]:
    """Measures all methods; returns the figures."""
    import torch
    from tqdm import tqdm
    seg = pipe.engine.template.seg_token_id
    model = pipe.engine.model
    num_tokens = sum(len(request.answer) for request in requests)
    num_masks = sum(request.answer.count(seg) for request in requests)
    side, num_images = pipe.engine.template.input_side, 4
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (num_images, 3, side, side), dtype=torch.uint8, generator=generator)
    prompts = torch.randn(num_images * SAM2_MASKS, 1, model.segmenter.prompt_dim, generator=generator)
    images, prompts = images.to(model.device), prompts.to(model.device)
    ways: dict[str, tuple[int, int, Callable[[], Any]]] = {
        ONE_PASS: (num_tokens, num_masks, lambda: one_pass(pipe, requests, BATCH)),
        ONE_BY_ONE: (num_tokens, num_masks, lambda: one_pass(pipe, requests, 1)),
        TWICE: (num_tokens, num_masks, lambda: in_two(pipe, requests, again=True)),
        READ: (num_tokens, num_masks, lambda: in_two(pipe, requests, again=False)),
        MASKS_ALONE: (0, num_masks, lambda: masks_alone(pipe, requests)),
        ENCODE_ONCE: (0, len(prompts), lambda: sam2(pipe, images, prompts, True)),
        ENCODE_EACH: (0, len(prompts), lambda: sam2(pipe, images, prompts, False)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    differ: dict[str, dict[str, float]] = {}
    expected: Any = None
    with tqdm(total=(repeats + 1) * len(ways), desc='Answering', unit=' runs') as bar:
        for repeat in range(repeats + 1):
            for name, (_, _, work) in ways.items():
                wall, cpu, result = measured(work, cuda)
                bar.update()
                if repeat:
                    times[name].append((wall, cpu))
                elif result is not None:
                    # The first round warms up, and checks that all methods give the same result.
                    expected = result if expected is None else expected
                    differ[name] = difference(result, expected)
    table: dict[str, Any] = {}
    for name, (tokens, masks, _) in ways.items():
        wall, cpu = (statistics.median(values) for values in zip(*times[name]))
        table[name] = {
            'seconds': wall,
            'cpu_seconds': cpu,
            'all_seconds': [wall for wall, _ in times[name]],
            'tokens_per_second': tokens / wall,
            'tokens_per_cpu_second': tokens / cpu,
            'masks_per_second': masks / wall,
            'masks_per_cpu_second': masks / cpu,
            **differ.get(name, {}),
        }
    ratios = [{
        'first': first,
        'second': second,
        'in_time': table[second]['seconds'] / table[first]['seconds'],
        'in_cpu_time': table[second]['cpu_seconds'] / table[first]['cpu_seconds']
    } for first, second in RATIOS]
    return {'requests': len(requests), 'tokens': num_tokens, 'masks': num_masks, 'ways': table, 'ratios': ratios}


def print_report(report: dict[str, Any]) -> None:
    """Prints the figures. Those of a CPU second leave out the time in which other programs had the CPU."""
    print(f'\n{report["requests"]} requests, {report["tokens"]} tokens, {report["masks"]} masks')
    heads = ('tokens/s', 'a CPU second', 'masks/s', 'a CPU second')
    print(f'{"":<30}' + ''.join(f'{head:>14}' for head in heads))
    for name, values in report['ways'].items():
        figures = (values['tokens_per_second'], values['tokens_per_cpu_second'], values['masks_per_second'],
                   values['masks_per_cpu_second'])
        print(f'{name:<30}' + ''.join(f'{figure:>14,.1f}' if figure else f'{"":>14}' for figure in figures))
    for ratio in report['ratios']:
        print(f'{ratio["first"]} / {ratio["second"]}: {ratio["in_time"]:.2f} times as fast, '
              f'{ratio["in_cpu_time"]:.2f} in CPU time')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--dims', choices=['tiny', '3b', '7b'], default='tiny', help='sizes, as in bench_training.py')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], help='default: bfloat16 on CUDA, float32 on CPU')
    parser.add_argument('--requests', type=int, default=32)
    parser.add_argument('--max-tokens', type=int, default=96, help='of the longest answer')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--output', type=Path, help='where to write the figures as JSON')
    args = parser.parse_args()
    for name in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_DATASETS_OFFLINE'):
        os.environ.setdefault(name, '1')
    os.environ.setdefault('LOG_LEVEL', 'ERROR')
    sys.path.insert(0, str(TESTS))
    import torch
    from bench_training import DIMS
    cuda = args.device == 'cuda'
    dims = DIMS[args.dims]
    dtype = args.dtype or ('bfloat16' if cuda else 'float32')
    pipe = load(dims, args.device, dtype)
    requests = write_requests(pipe, args.requests, args.max_tokens, dims.image_side)
    device = torch.cuda.get_device_name() if cuda else f'CPU, {torch.get_num_threads()} threads'
    report = {
        'device': device,
        'torch': torch.__version__,
        'dims': args.dims,
        'dtype': dtype,
        'peak_gib': None,
        **run(pipe, requests, args.repeats, cuda)
    }
    if cuda:
        report['peak_gib'] = torch.cuda.max_memory_allocated() / 2**30
    print_report(report)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
