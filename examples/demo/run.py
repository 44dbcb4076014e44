"""The whole pipeline on a laptop: data, a tiny model, four training stages with `swift sft`, held-out scores.

    python examples/demo/run.py --output output/demo

The model is random and tiny, so its learning rates are far above the paper's; everything else is as in
`templates/stage1.yaml` to `stage4.yaml`. `citrusv try` does the same with a user's own rows, by the same code.
"""
import argparse
import json
import shutil
import time
from evaluate import by_kind, draw, scores, single_masks
from importlib.metadata import version
from make_data import make_data
from pathlib import Path
from typing import Any

from swift_citrusv.tryout.answers import drawn_masks, infer, read_jsonl, score
from swift_citrusv.tryout.processes import SwiftProcesses, cores
from swift_citrusv.tryout.stages import Stage, train, without_images, write_jsonl

PACKAGES = ('swift-citrusv', 'ms-swift', 'torch', 'transformers', 'sam2', 'peft', 'datasets', 'deepspeed',
            'pycocotools', 'scikit-image', 'pydicom', 'numpy')
# Differences from the stage files, because the model starts from noise.
STAGES: dict[int, tuple[str, str]] = {
    1: ('captions', '--num_train_epochs 2 --vit_lr 1e-3 --aligner_lr 1e-3'),
    2: ('dialogues', '--num_train_epochs 8 --packing_length 256 --learning_rate 1e-3 --vit_lr 5e-4 --aligner_lr 5e-4'),
    3: ('everything', '--num_train_epochs 2 --learning_rate 5e-4 --vit_lr 5e-4 --aligner_lr 5e-4'),
    4: ('segmentation', '--num_train_epochs 6 --learning_rate 7e-4 --warmup_ratio 0.1 --eval_strategy epoch'),
}
SEG_LR = 7e-4


def write_splits(folder: Path) -> dict[str, Path]:
    """Writes the rows of each stage to its own file.

    As in sections 4.1 and 4.2 of the paper: captions; then other dialogues and, as text, the use of `[SEG]`; then
    everything; then rows with masks.
    """
    rows = read_jsonl(folder / 'train.jsonl')
    held_out = read_jsonl(folder / 'val.jsonl')
    splits = {
        'captions': [r for r in rows if r.get('images') and not r.get('masks')],
        'dialogues': [without_images(r) if r.get('masks') else r for r in rows],
        'everything': rows,
        'segmentation': [r for r in rows if r.get('masks')],
        'validation': [r for r in held_out if r.get('masks')][::6],
    }
    return {name: write_jsonl(folder / f'{name}.jsonl', chosen) for name, chosen in splits.items()}


def stages(splits: dict[str, Path]) -> list[Stage]:
    """The four stages."""
    found = []
    for number, (dataset, text) in STAGES.items():
        arguments = text.split()
        if '--eval_strategy' in arguments:
            arguments += ['--val_dataset', str(splits['validation'])]
        # The stage files 3 and 4 set the environment; other settings stay theirs.
        settings = {'seg_lr': SEG_LR} if number > 2 else {}
        found.append(Stage(f'stage{number}', f'stage{number}', splits[dataset], tuple(arguments), settings))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, default=Path('output/demo'))
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    output = args.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    start = time.perf_counter()
    with SwiftProcesses() as processes:
        report = demo(processes, output, args.seed)
    report['seconds'] = round(time.perf_counter() - start, 1)
    (output / 'report.json').write_text(json.dumps(report, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    shown = ('held_out_dice', 'prompt_swap_dice', 'swift_infer', 'seconds')
    print(json.dumps({key: report[key] for key in shown}, indent=2))
    print(f'report: {output / "report.json"}\npictures: {output / "overlays.png"}\n'
          f'scores: {output / "eval" / "report.html"}')


def demo(processes: SwiftProcesses, output: Path, seed: int) -> dict[str, Any]:
    """Makes the data, trains, answers and scores; returns the report."""
    print('1. real images, cut into tiles', flush=True)
    data = make_data(str(output / 'data'), seed=seed)
    splits = write_splits(output / 'data')

    print('2. a tiny random Citrus-V', flush=True)
    corpus = [message['content'] for row in read_jsonl(splits['everything']) for message in row['messages']]
    processes.build(output / 'model', corpus, output / 'build.log')

    # At most two, so that the figures do not depend on the number of cores above two.
    num_ranks = min(cores(), 2)
    checkpoint, reports = str(output / 'model'), {}
    for number, stage in enumerate(stages(splits), 3):
        print(f'{number}. training {stage.name}, with `swift sft` on {num_ranks} ranks', flush=True)
        checkpoint, reports[stage.name] = train(processes, stage, checkpoint, output, num_ranks)
        trained = output / stage.name / 'trained_parameters.json'
        reports[stage.name]['trained_parameters'] = json.loads(trained.read_text(encoding='utf-8'))

    print('7. answers to held-out questions, with `swift infer`', flush=True)
    held_out = output / 'data' / 'val.jsonl'
    settings = json.dumps({'overlay_dir': str(output / 'answers')})
    answers = infer(processes, checkpoint, held_out, output, '--model_kwargs', settings)
    rows, lines = read_jsonl(held_out), read_jsonl(answers)
    single = single_masks(rows, drawn_masks(rows, lines))
    sources = {row['images'][0]: row['source'] for row in rows if row['kind'] == 'single'}
    draw(single, sources, output / 'overlays.png')

    print('8. scores of the answers, as `citrusv eval` gives them', flush=True)
    evaluation = score(held_out, answers, output / 'eval', ('source', 'kind'))
    return {
        **scores(single),
        'swift_infer': by_kind(rows, lines, evaluation),
        'citrusv_eval': {
            key: evaluation[key]
            for key in ('rows', 'cases', 'found', 'flags', 'scores', 'macro')
        },
        'ranks': num_ranks,
        'stages': reports,
        'data': {
            split: data['splits'][split]
            for split in ('train', 'val')
        },
        'checkpoint': checkpoint,
        'versions': {
            name: version(name)
            for name in PACKAGES
        },
    }


if __name__ == '__main__':
    main()
