"""The whole pipeline on a laptop: data, a tiny model, four training stages with stock `swift sft`, held-out scores.

    python examples/demo/run.py --output output/demo

The model is random and tiny, so its learning rates are far above the paper's; everything else is as in
`templates/stage1.yaml` to `stage4.yaml`. About 12 minutes on two cores.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from evaluate import answered, draw, free_running, read_rows, scores
from importlib.metadata import version
from make_data import make_data
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ('swift-citrusv', 'ms-swift', 'torch', 'transformers', 'sam2', 'peft', 'datasets', 'deepspeed',
            'pycocotools', 'scikit-image', 'pydicom', 'numpy')
# One process on the CPU, float32, packs of up to 8 segmentation images.
LAPTOP = ('--torch_dtype float32 --fp16 false --bf16 false --use_cpu true --gradient_checkpointing false '
          '--max_length 1024 --gradient_accumulation_steps 1 --dataset_num_proc 1 --dataloader_num_workers 1 '
          '--add_version false --save_strategy epoch --seed 0 --data_seed 0').split()
# Differences from the stage files, because the model starts from noise.
STAGES: dict[int, tuple[str, str]] = {
    1: ('captions', '--num_train_epochs 2 --vit_lr 1e-3 --aligner_lr 1e-3'),
    2: ('dialogues', '--num_train_epochs 8 --packing_length 256 --learning_rate 1e-3 --vit_lr 5e-4 --aligner_lr 5e-4'),
    3: ('everything', '--num_train_epochs 2 --learning_rate 5e-4 --vit_lr 5e-4 --aligner_lr 5e-4 --seg_lr 7e-4'),
    4: ('segmentation', '--num_train_epochs 6 --learning_rate 7e-4 --seg_lr 7e-4 --warmup_ratio 0.1 --val validation'),
}


def without_images(row: dict[str, Any]) -> dict[str, Any]:
    """A segmentation row as text only: `[SEG]` in the answer, no image, no mask."""
    messages = [{**message, 'content': message['content'].replace('<image>', '')} for message in row['messages']]
    return {'messages': messages}


def write_splits(folder: Path) -> dict[str, str]:
    """Writes the rows of each stage to its own file.

    As in sections 4.1 and 4.2 of the paper: captions; then other dialogues and, as text, the use of `[SEG]`; then
    everything; then rows with masks.
    """
    rows = read_rows(folder / 'train.jsonl')
    held_out = read_rows(folder / 'val.jsonl')
    splits = {
        'captions': [r for r in rows if r.get('images') and not r.get('masks')],
        'dialogues': [without_images(r) if r.get('masks') else r for r in rows],
        'everything': rows,
        'segmentation': [r for r in rows if r.get('masks')],
        'validation': [r for r in held_out if r.get('masks')][::6],
    }
    paths = {}
    for name, chosen in splits.items():
        path = folder / f'{name}.jsonl'
        path.write_text('\n'.join(json.dumps(row, ensure_ascii=False) for row in chosen) + '\n', encoding='utf-8')
        paths[name] = str(path)
    return paths


def run(command: list[str], log: Path) -> float:
    """Runs a command with its output in a log file; returns the seconds that it took.

    Raises:
        SystemExit: The command failed. The message has the end of its log.
    """
    print(f'  {" ".join(command)}\n  log: {log}', flush=True)
    start = time.perf_counter()
    # One thread: OpenMP threads spin while they wait for each other, which is slow on a busy machine.
    environment = {'OMP_NUM_THREADS': '1', **os.environ, 'HF_HUB_OFFLINE': '1', 'PYTHONUNBUFFERED': '1'}
    with log.open('w', encoding='utf-8') as f:
        status = subprocess.run(command, stdout=f, stderr=subprocess.STDOUT, env=environment, cwd=ROOT).returncode
    if status:
        tail = log.read_text(encoding='utf-8', errors='replace').splitlines()[-40:]
        sys.exit('\n'.join([*tail, f'{command[0]} failed with status {status}; the whole log: {log}']))
    return time.perf_counter() - start


def train(stage: int, model: str, splits: dict[str, str], output: Path) -> tuple[str, dict[str, Any]]:
    """Trains one stage with stock `swift sft`; returns its checkpoint and its entry for the report."""
    data, extra = STAGES[stage]
    arguments = extra.split()
    if '--seg_lr' in arguments:
        at = arguments.index('--seg_lr')
        arguments[at:at + 2] = ['--model_kwargs', json.dumps({'seg_lr': float(arguments[at + 1])})]
    if '--val' in arguments:
        at = arguments.index('--val')
        arguments[at:at + 2] = ['--val_dataset', splits[arguments[at + 1]], '--eval_strategy', 'epoch']
    folder = output / f'stage{stage}'
    seconds = run([
        str(Path(sys.executable).parent / 'swift'), 'sft', f'templates/stage{stage}.yaml', '--model', model,
        '--dataset', splits[data], '--output_dir',
        str(folder), *LAPTOP, *arguments
    ], output / f'stage{stage}.log')
    history = [json.loads(line) for line in (folder / 'logging.jsonl').read_text(encoding='utf-8').splitlines()]
    summary = history[-1]
    steps = [entry for entry in history if 'loss_token' in entry]
    log = (output / f'stage{stage}.log').read_text(encoding='utf-8', errors='replace')
    packed = re.search(r'packed (\d+) rows \(\d+ chunks\) into (\d+) packs', log)
    assert packed is not None and steps
    losses = ('loss', 'loss_token', 'loss_dice', 'loss_bce')
    report = {
        'dataset': data,
        'rows': int(packed[1]),
        'packs': int(packed[2]),
        'steps': summary['global_step'],
        'seconds': round(seconds, 1),
        'first_losses': {
            key: steps[0][key]
            for key in losses if key in steps[0]
        },
        'last_losses': {
            key: steps[-1][key]
            for key in losses if key in steps[-1]
        },
        'trained_parameters': json.loads((folder / 'trained_parameters.json').read_text(encoding='utf-8')),
    }
    print(f'  {report["steps"]} steps in {seconds:.0f} s; losses {report["first_losses"]} -> {report["last_losses"]}')
    return summary['last_model_checkpoint'], report


def infer(checkpoint: str, dataset: Path, output: Path) -> list[dict[str, Any]]:
    """Answers all questions of a file with stock `swift infer`; returns the lines of its result file."""
    result = output / 'answers.jsonl'
    run([
        str(Path(sys.executable).parent / 'swift'), 'infer', '--model', checkpoint, '--val_dataset',
        str(dataset), '--result_path',
        str(result), '--max_batch_size', '8', '--max_new_tokens', '48', '--temperature', '0', '--torch_dtype',
        'float32', '--device_map', 'cpu', '--model_kwargs',
        json.dumps({'overlay_dir': str(output / 'answers')})
    ], output / 'infer.log')
    return read_rows(result)


def evaluate(dataset: Path, output: Path) -> dict[str, Any]:
    """Scores the answers of `infer` with `citrusv eval`, by source and kind of row; returns its scores.json."""
    folder = output / 'eval'
    run([
        str(Path(sys.executable).parent / 'citrusv'), 'eval', 'segmentation', '--pred',
        str(output / 'answers.jsonl'), '--ref',
        str(dataset), '--by', 'source,kind', '--output',
        str(folder)
    ], output / 'eval.log')
    return json.loads((folder / 'scores.json').read_text(encoding='utf-8'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, default=Path('output/demo'))
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    output = args.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    start = time.perf_counter()

    print('1. real images, cut into tiles', flush=True)
    data = make_data(str(output / 'data'), seed=args.seed)
    splits = write_splits(output / 'data')

    print('2. a tiny random Citrus-V', flush=True)
    citrusv = str(Path(sys.executable).parent / 'citrusv')
    run([
        citrusv, 'build', '--mllm', 'tiny', '--sam2', 'tiny', '--corpus', splits['everything'], '--output',
        str(output / 'model')
    ], output / 'build.log')

    checkpoint, stages = str(output / 'model'), {}
    for stage in STAGES:
        print(f'{stage + 2}. training stage {stage}', flush=True)
        checkpoint, stages[f'stage{stage}'] = train(stage, checkpoint, splits, output)

    print('7. answers to held-out questions, with stock `swift infer`', flush=True)
    held_out = output / 'data' / 'val.jsonl'
    answers = infer(checkpoint, held_out, output)
    results = answered(read_rows(held_out), answers)
    single = [result for result in results if result['kind'] == 'single']
    draw(single, output / 'overlays.png')

    print('8. scores of the answers, with `citrusv eval`', flush=True)
    evaluation = evaluate(held_out, output)
    print((output / 'eval.log').read_text(encoding='utf-8'))
    report = {
        **scores(single),
        'swift_infer': free_running(results),
        'citrusv_eval': {
            key: evaluation[key]
            for key in ('rows', 'cases', 'found', 'flags', 'scores', 'macro')
        },
        'stages': stages,
        'data': {
            split: data['splits'][split]
            for split in ('train', 'val')
        },
        'checkpoint': checkpoint,
        'seconds': round(time.perf_counter() - start, 1),
        'versions': {
            name: version(name)
            for name in PACKAGES
        },
    }
    (output / 'report.json').write_text(json.dumps(report, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    print(
        json.dumps({key: report[key]
                    for key in ('held_out_dice', 'prompt_swap_dice', 'swift_infer', 'seconds')},
                   indent=2))
    print(f'report: {output / "report.json"}\npictures: {output / "overlays.png"}\n'
          f'scores: {output / "eval" / "report.html"}')


if __name__ == '__main__':
    main()
