"""Kills runs many times, in steps and in saves, and resumes them: python tests/bench/bench_resume.py [--times 10]

Repeats what `tests/training/test_resume.py` does once, with many draws, and with ZeRO-3 and FSDP2 too. A kill in a step
and one in a save, with a resume after each, take 10 to 40 seconds on two quiet cores.
"""
import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.distributed.launcher import Launcher, RankError  # noqa: E402
from support.distributed.mixtures import make_row  # noqa: E402
from support.engines import ENGINES  # noqa: E402
from support.resumed_run import COMMON, NUM_STEPS, PACKED, SAVE_STEPS, STREAM, assert_resumed, kill_in_step  # noqa
from support.rows import Maker, write_jsonl  # noqa: E402

from swift_citrusv.model.build import build_checkpoint  # noqa: E402
from swift_citrusv.model.tiny import build_tiny_mllm  # noqa: E402
from swift_citrusv.training.checkpoint_integrity import step_of  # noqa: E402
from swift_citrusv.training.checkpoint_selection import select_checkpoint  # noqa: E402

DATA = {'packs': PACKED, 'stream of packs': f'{STREAM} {PACKED}', 'stream': STREAM}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--times', type=int, default=10)
    parser.add_argument('--engines', nargs='+', choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument('--data', nargs='+', choices=list(DATA), default=list(DATA))
    parser.add_argument('--ranks', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_tiny_mllm(str(folder / 'mllm'))
        build_checkpoint(str(folder / 'mllm'), 'tiny', str(folder / 'citrusv'))
        maker = Maker(folder / 'images')
        dataset = write_jsonl(folder / 'train.jsonl', [make_row(maker, k) for k in ('text', 'image', 'masks') * 4])
        launcher = Launcher(folder / 'runs')

        def start(num_ranks, arguments, **kwargs):
            given = ['--model', str(folder / 'citrusv'), '--dataset', dataset, '--tuner_type', 'full', *COMMON]
            return launcher.run(num_ranks, [*given, *engine, *arguments.split()], **kwargs)

        for engine_name in args.engines:
            engine = ENGINES[engine_name]
            for data in args.data:
                whole = start(args.ranks, DATA[data])
                saved = []
                for i in tqdm(range(args.times), desc=f'{engine_name}, {data}', unit=' kills'):
                    run = folder / f'{engine_name}_{data}_{i}'.replace(' ', '_')
                    arguments = f'{DATA[data]} --resume_from_checkpoint {run}'
                    step = kill_in_step(start, args.ranks, DATA[data], run, rng) + SAVE_STEPS
                    rank, number = rng.randrange(args.ranks), rng.randrange(40)
                    share = rng.choice([0, rng.random()])
                    sabotage = f'kills.die_in_save {step} {number} {share} {rank}'
                    try:
                        # The rank may have less to write than that.
                        ended = start(args.ranks, arguments, output=run, sabotage=sabotage)
                        assert_resumed(ended, whole, step - SAVE_STEPS)
                    except RankError:
                        after = step_of(select_checkpoint(str(run)).path) or 0
                        saved.append(after == step)
                        if after < NUM_STEPS:
                            assert_resumed(start(args.ranks, arguments, output=run), whole, after)
                result = {'resumed after a kill in a save': len(saved), 'of these from the new checkpoint': sum(saved)}
                tqdm.write(f'{engine_name}, {data}: {json.dumps(result)}')


if __name__ == '__main__':
    main()
