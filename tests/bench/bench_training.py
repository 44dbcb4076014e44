"""Training throughput: packed, against one row at a time and padded batches of 8, through stock `swift sft`.

    python tests/bench/bench_training.py --output output/bench/training.json
    python tests/bench/bench_training.py --device cuda --dims 7b --output output/bench/training_cuda.json

The first line is for a machine without a GPU: a tiny model in float32. The second needs CUDA and about 60 GiB of its
memory: the sizes of Qwen2.5-VL-7B and of SAM2.1 large, random weights made on the device in bfloat16 (no checkpoint is
read; the tokenizer is the tiny one, so a text has more tokens than with Qwen's).

The rows: half short questions about an image, a quarter long reports without an image, a quarter segmentation, in a
fixed random order. What makes the three ways comparable: the same rows in one epoch, the same stage file, optimizer,
precision and gradient checkpointing, and, by gradient accumulation, as near as whole numbers allow the same number of
rows in an optimizer step, since a step on more rows pays for the optimizer less often. Only the batches differ, and
the attention that ms-swift and the plugin choose for them. Counted are useful tokens (no padding), from the end of the
second optimizer step, up to which a run warms up, to the end of the epoch. Each run has a process of its own; repeats
are interleaved, and their medians compared.

Packing saves padding, and it saves forward passes; how much the second is worth depends on how much of a short pass is
overhead, so the ratios differ from machine to machine.
"""
import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

TESTS = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = 2
RATES = ('useful_tokens_per_second', 'useful_tokens_per_cpu_second')


class Dims(NamedTuple):
    """Sizes of a model, and of the rows and packs that it is measured on."""
    text: dict[str, Any]
    vision: dict[str, Any]
    sam2_preset: str
    # Whether the language head has weights of its own.
    own_head: bool
    # Side in pixels of an image, words of a report (a token each), tokens of a pack.
    image_side: int
    report_words: int
    capacity: int


# config.json of Qwen/Qwen2.5-VL-7B-Instruct.
_QWEN_7B_TEXT = {
    'vocab_size': 152064,
    'hidden_size': 3584,
    'intermediate_size': 18944,
    'num_hidden_layers': 28,
    'num_attention_heads': 28,
    'num_key_value_heads': 4,
    'max_position_embeddings': 128000,
    'max_window_layers': 28,
    'rope_parameters': {
        'rope_type': 'default',
        'rope_theta': 1000000.0,
        'mrope_section': [16, 24, 24]
    },
}
_QWEN_7B_VISION = {
    'depth': 32,
    'hidden_size': 1280,
    'intermediate_size': 3420,
    'num_heads': 16,
    'out_hidden_size': 3584,
    'fullatt_block_indexes': [7, 15, 23, 31],
    'window_size': 112,
}
# config.json of Qwen/Qwen2.5-VL-3B-Instruct, where it differs.
_QWEN_3B_TEXT = {
    **_QWEN_7B_TEXT,
    'vocab_size': 151936,
    'hidden_size': 2048,
    'intermediate_size': 11008,
    'num_hidden_layers': 36,
    'num_attention_heads': 16,
    'num_key_value_heads': 2,
    'max_window_layers': 70,
}
_QWEN_3B_VISION = {**_QWEN_7B_VISION, 'out_hidden_size': 2048}
_TINY = Dims(text={}, vision={}, sam2_preset='tiny', own_head=False, image_side=168, report_words=650, capacity=2048)
_7B = Dims(
    text=_QWEN_7B_TEXT,
    vision=_QWEN_7B_VISION,
    sam2_preset='sam2.1_hiera_l',
    own_head=True,
    image_side=560,
    report_words=2600,
    capacity=8192)
_3B = _7B._replace(text=_QWEN_3B_TEXT, vision=_QWEN_3B_VISION, own_head=False)
# The rows of the tiny model have a quarter of the tokens.
DIMS = {'tiny': _TINY, '3b': _3B, '7b': _7B}


class Run(NamedTuple):
    """One run: how rows are batched, and how many batches make an optimizer step."""
    way: str
    batch_size: int
    packing: bool
    grad_accum: int


def write_rows(folder: Path, count: int, dims: Dims) -> str:
    """Writes the rows and their images; returns the JSONL file."""
    from support.rows import Maker, write_jsonl
    maker, rng = Maker(folder / 'images'), random.Random(0)
    side = dims.image_side
    pictures = [(maker.image(side, side), maker.mask(side, side)) for _ in range(32)]

    def words(number: int) -> str:
        # Near the wanted number, as no two answers are of one length.
        return ' '.join(rng.choice(WORDS) for _ in range(round(number * rng.uniform(0.5, 1.5))))

    rows = []
    for i in range(count):
        image, mask = pictures[i % len(pictures)]
        if i % 4 == 0:
            rows.append(
                maker.row(f'<image>Segment the {words(2)}.', f'{words(4)}: [SEG].', images=[image], masks=[mask]))
        elif i % 4 == 1:
            rows.append(maker.row(f'Write a report about {words(8)}.', words(dims.report_words)))
        else:
            rows.append(maker.row(f'<image>What is the {words(4)}?', words(40), images=[image]))
    rng.shuffle(rows)
    return write_jsonl(folder / 'train.jsonl', rows)


WORDS = 'the nuclei vessels bone soft tissue cell image slice modality sentence outline assistant tomography'.split()


def write_model(folder: Path, dims: Dims) -> str:
    """Writes a directory with tokenizer, processor and config of `dims`, and no weights."""
    from swift_citrusv.model.build import build_checkpoint
    from swift_citrusv.model.config import CitrusVConfig
    values = build_checkpoint('tiny', 'tiny', str(folder)).config.to_dict()
    for part, sizes in (('text_config', dims.text), ('vision_config', dims.vision)):
        # One entry a layer, derived again from the number of layers.
        values[part].pop('layer_types', None)
        values[part].update(sizes)
    values.update(sam2_preset=dims.sam2_preset, tie_word_embeddings=not dims.own_head)
    CitrusVConfig(**values).save_pretrained(str(folder))
    for path in folder.glob('*.safetensors*'):
        path.unlink()
    return str(folder)


def run_sft(model_dir: str, dataset: str, stage: int, run: Run, capacity: int, device: str, dtype: str,
            output_dir: str) -> dict[str, Any]:
    """Trains one epoch in this process, and returns what was measured from the end of the warm-up on."""
    sys.path.insert(0, str(TESTS))
    import torch
    from swift.callbacks import callbacks_map
    from swift.cli.main import parse_yaml_args
    from swift.pipelines import sft_main
    from transformers import TrainerCallback

    from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
    from swift_citrusv.plugin.register import register
    cuda = device == 'cuda'

    class Recorder(TrainerCallback):
        """Counts rows and tokens of each forward pass, and takes the time at each optimizer step."""
        seen = {'rows': 0, 'useful_tokens': 0, 'computed_tokens': 0, 'forward_passes': 0, 'steps': 0}
        marks: list[dict[str, float]] = []
        attention = ''

        def __init__(self, args: Any, trainer: Any) -> None:
            self.trainer = trainer

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            Recorder.attention = model.config._attn_implementation
            original = self.trainer.training_step

            def training_step(model, inputs, *others):
                mask, shape = inputs.get('attention_mask'), inputs['input_ids'].shape
                # In a pack the text positions restart at each row.
                rows = shape[0] if mask is not None else int((inputs['position_ids'][0] == 0).sum())
                useful = shape[1] if mask is None else int(mask.sum())
                for key, value in (('rows', rows), ('useful_tokens', useful), ('computed_tokens', shape[0] * shape[1]),
                                   ('forward_passes', 1)):
                    Recorder.seen[key] += value
                return original(model, inputs, *others)

            self.trainer.training_step = training_step

        def on_step_end(self, args, state, control, **kwargs):
            if cuda:
                torch.cuda.synchronize()
            Recorder.seen['steps'] += 1
            now = {'seconds': time.perf_counter(), 'cpu_seconds': time.process_time()}
            Recorder.marks.append({**Recorder.seen, **now})

    def random_weights(cls, model_dir, *args, config, dtype=None, torch_dtype=None, **kwargs):
        # Made where they are used: the weights of 7 B never pass through the host's memory. The init functions run on
        # the device, and keep apart what must stay float32.
        torch.manual_seed(0)
        with torch.device(device):
            return cls._from_config(config, dtype=dtype or torch_dtype).to(device)

    register()
    callbacks_map['recorder'] = Recorder
    precision = '--torch_dtype bfloat16' if dtype == 'bfloat16' else '--torch_dtype float32 --fp16 false --bf16 false'
    flags = f'''{precision} --use_cpu {str(not cuda).lower()} --gradient_checkpointing {str(cuda).lower()}
        --dataloader_num_workers {8 if cuda else 0} --check_model false --add_version false --report_to none
        --save_strategy no --eval_strategy no --logging_steps 1000 --num_train_epochs 1 --dataset_num_proc 1
        --dataset_shuffle false --train_dataloader_shuffle false --max_length {capacity} --callbacks recorder
        --packing {str(run.packing).lower()} --per_device_train_batch_size {run.batch_size}
        --gradient_accumulation_steps {run.grad_accum} --lazy_tokenize {str(not run.packing).lower()}'''.split()
    from swift_citrusv.package_files import templates_dir

    # What `swift` itself does with a stage file before it starts the training process: flags in place of its name.
    stage_flags = [str(templates_dir() / f'stage{stage}.yaml')]
    parse_yaml_args(stage_flags)
    with mock.patch.object(CitrusVForConditionalGeneration, 'from_pretrained', classmethod(random_weights)):
        sft_main([*stage_flags, *flags, '--model', model_dir, '--dataset', dataset, '--output_dir', output_dir])
    first, last = Recorder.marks[WARM_UP_STEPS - 1], Recorder.marks[-1]
    measured = {key: last[key] - first[key] for key in last}
    seconds = measured['seconds']
    return {
        **measured,
        'rows_in_epoch': last['rows'],
        'useful_tokens_per_second': measured['useful_tokens'] / seconds,
        'useful_tokens_per_cpu_second': measured['useful_tokens'] / measured['cpu_seconds'],
        'rows_per_second': measured['rows'] / seconds,
        'padding': 1 - measured['useful_tokens'] / measured['computed_tokens'],
        'rows_per_step': measured['rows'] / measured['steps'],
        'attention': Recorder.attention,
        'peak_gib': torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }


def rows_per_pack(model_dir: str, dataset: str, capacity: int) -> float:
    """Rows of the mean pack, by `citrusv pack-report`."""
    from swift_citrusv.cli.main import main as citrusv
    with tempfile.TemporaryDirectory() as folder:
        if citrusv(['pack-report', dataset, '--model', model_dir, '--capacity', str(capacity), '--output', folder]):
            raise SystemExit('pack-report failed, see above.')
        report = json.loads((Path(folder) / 'pack_report.json').read_text(encoding='utf-8'))
    plan = next(plan for plan in report['plans'] if plan['capacity'] == capacity)
    return plan['pieces'] / plan['packs']


def plan_runs(rows_in_pack: float, grad_accum: int) -> list[Run]:
    """The three ways, with nearly the same number of rows an optimizer step."""
    rows = rows_in_pack * grad_accum
    return [
        Run('packed', 1, True, grad_accum),
        Run('unpacked, batch 1', 1, False, max(1, round(rows))),
        Run('padded, batch 8', 8, False, max(1, round(rows / 8))),
    ]


def summary(stage: int, runs: list[Run], results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the repeats, and the packed way's as multiples of the others'."""
    ways = {}
    for run in runs:
        repeats = results[run.way]
        rates = [repeat['useful_tokens_per_second'] for repeat in repeats]
        ways[run.way] = {
            **{
                key: statistics.median(repeat[key] for repeat in repeats)
                for key in (*RATES, 'rows_per_second')
            },
            'lowest': min(rates),
            'highest': max(rates),
            'grad_accum': run.grad_accum,
            **{
                key: repeats[0][key]
                for key in ('rows_per_step', 'padding', 'forward_passes', 'attention', 'peak_gib')
            },
        }
    packed = ways['packed']
    ratios = {way: {key: packed[key] / values[key] for key in RATES} for way, values in ways.items() if way != 'packed'}
    return {'stage': stage, 'ways': ways, 'packed_as_multiple_of': ratios}


def print_summary(table: dict[str, Any]) -> None:
    """Prints the figures of a stage. The second rate leaves out the time in which other programs had the CPU."""
    lines = [(f'Stage {table["stage"]}', 'tokens/s', 'lowest - highest', 'per CPU second', 'rows/s', 'padding',
              'rows a step', 'attention')]
    for way, v in table['ways'].items():
        lines.append(
            (way, f'{v[RATES[0]]:,.0f}', f'{v["lowest"]:,.0f} - {v["highest"]:,.0f}', f'{v[RATES[1]]:,.0f}',
             f'{v["rows_per_second"]:.1f}', f'{v["padding"]:.1%}', f'{v["rows_per_step"]:.1f}', v['attention']))
    print()
    for first, *others in lines:
        print(f'{first:<18}' + ''.join(f'{text:>17}' for text in others))
    for way, ratios in table['packed_as_multiple_of'].items():
        print(f'packed / {way}: {ratios[RATES[0]]:.2f} in time, {ratios[RATES[1]]:.2f} in CPU time')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--dims', choices=list(DIMS), default='tiny')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], help='default: bfloat16 on CUDA, float32 on CPU')
    parser.add_argument('--stages', type=int, nargs='+', choices=[1, 2, 3, 4], default=[1, 4])
    parser.add_argument('--rows', type=int, default=256)
    parser.add_argument('--capacity', type=int, help='tokens of a pack (default: 2048 for tiny, 8192 for 7b)')
    parser.add_argument('--grad-accum', type=int, default=2, help='packs of an optimizer step')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--output', type=Path, help='where to write the figures as JSON')
    args = parser.parse_args()
    for name in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'HF_DATASETS_OFFLINE'):
        os.environ.setdefault(name, '1')
    os.environ.setdefault('LOG_LEVEL', 'ERROR')
    sys.path.insert(0, str(TESTS))
    import multiprocessing
    import torch
    from concurrent.futures import ProcessPoolExecutor
    from tqdm import tqdm
    dims = DIMS[args.dims]
    capacity = args.capacity or dims.capacity
    dtype = args.dtype or ('bfloat16' if args.device == 'cuda' else 'float32')
    spawn = multiprocessing.get_context('spawn')
    tables = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset, model_dir = write_rows(folder, args.rows, dims), write_model(folder / 'model', dims)
        runs = plan_runs(rows_per_pack(model_dir, dataset, capacity), args.grad_accum)
        progress = tqdm(total=len(args.stages) * args.repeats * len(runs), desc='Training', unit=' runs')
        for stage in args.stages:
            results: dict[str, list[dict[str, Any]]] = {run.way: [] for run in runs}
            for _ in range(args.repeats):
                for run in runs:
                    # A process for each run: nothing of one, not even fragmented memory, is left to the next.
                    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                        results[run.way].append(
                            pool.submit(run_sft, model_dir, dataset, stage, run, capacity, args.device, dtype,
                                        str(folder / 'output')).result())
                    progress.update()
            tables.append({**summary(stage, runs, results), 'repeats': results})
        progress.close()
    for table in tables:
        print_summary(table)
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        device = torch.cuda.get_device_name() if args.device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
        report = {
            'device': device,
            'torch': torch.__version__,
            'dims': args.dims,
            'dtype': dtype,
            'rows': args.rows,
            'capacity': capacity,
            'stages': tables
        }
        args.output.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
