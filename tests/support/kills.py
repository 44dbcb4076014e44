"""Kills runs of `citrusv data`, and compares what is left at the end."""
import contextlib
import numpy as np
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from swift_citrusv.curation.verify import problems


def content(folder: Path) -> dict[str, bytes]:
    """All files of an output."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


def kill_runs(arguments: Sequence[str], out: Path, kills: int, seed: int) -> None:
    """Runs a command, kills it `kills` times at random points, and compares what is left with the unbroken run.

    Args:
        arguments: Of `citrusv`, without the output.
        out: The output.
        kills: How often.
        seed: Of the points.
    """
    rng, hits = np.random.default_rng(seed), 0
    command = [*arguments, '--output', str(out), '--workers', '2']
    code = f'import sys; from swift_citrusv.cli.main import main; sys.exit(main({command!r}))'
    # The whole run once, for the points at which it is killed.
    start = time.monotonic()
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
    length = time.monotonic() - start
    expected = content(out)
    assert len(expected) > 3
    shutil.rmtree(out)
    while hits < kills:
        process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)  # yapf: disable
        try:
            # What is left of a run takes less time than the whole.
            process.wait(rng.uniform(.1, .9) * length)
        except subprocess.TimeoutExpired:
            hits += 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (out / 'summary.json').exists() and not (out / 'work').exists():
            assert content(out) == expected
            shutil.rmtree(out)
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
    assert content(out) == expected
    assert problems(str(out), quiet=True) == []
