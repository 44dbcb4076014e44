"""A run that is killed and resumed ends where the uninterrupted run ends, to the last bit."""
import os
import pytest
import signal
import subprocess
import sys
import time
import torch
from pathlib import Path
from rows import Maker, write_jsonl
from swift_run import COMMON, run_sft

SAVE_AT, KILL_AFTER = 5, 7


def _arguments(dataset: str, checkpoint: str, output: Path) -> list[str]:
    return [
        '--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir',
        str(output), '--tuner_type', 'full', '--freeze_vit', 'false', '--freeze_aligner', 'false', '--learning_rate',
        '1e-3', '--lr_scheduler_type', 'cosine', '--packing', 'true', '--packing_length', '360', '--num_train_epochs',
        '3', '--gradient_accumulation_steps', '1', '--save_strategy', 'steps', '--save_steps',
        str(SAVE_AT), '--train_dataloader_shuffle', 'true'
    ]


def _kill_after(command: list[str], log: Path, text: str, seconds: float = 180) -> None:
    """Starts a command in a session of its own, and kills all of it once `text` stands in its log."""
    with log.open('w') as f:
        process = subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_and_resumed(tiny_checkpoint, tmp_path):
    dataset = write_jsonl(tmp_path / 'train.jsonl', Maker(tmp_path / 'images').every_kind())
    whole = run_sft(*_arguments(dataset, tiny_checkpoint, tmp_path / 'whole'))
    assert whole.num_steps > KILL_AFTER + 2

    killed = tmp_path / 'killed'
    swift = str(Path(sys.executable).parent / 'swift')
    _kill_after([swift, 'sft', *COMMON, *_arguments(dataset, tiny_checkpoint, killed)], tmp_path / 'killed.log',
                f"'global_step/max_steps': '{KILL_AFTER}/{whole.num_steps}'")
    assert not (killed / f'checkpoint-{whole.num_steps}').exists()

    resumed = run_sft(*_arguments(dataset, tiny_checkpoint, killed), '--resume_from_checkpoint',
                      str(killed / f'checkpoint-{SAVE_AT}'))
    losses = [[log['loss'] for log in watch.logs if 'loss' in log] for watch in (whole, resumed)]
    assert len(losses[1]) == whole.num_steps - SAVE_AT
    assert losses[1] == pytest.approx(losses[0][SAVE_AT:], rel=1e-6)
    rates = [[log['learning_rate'] for log in watch.logs if 'learning_rate' in log] for watch in (whole, resumed)]
    assert rates[1] == rates[0][SAVE_AT:]
    for name, parameter in whole.after.items():
        torch.testing.assert_close(resumed.after[name], parameter, rtol=1e-5, atol=1e-7, msg=name)
