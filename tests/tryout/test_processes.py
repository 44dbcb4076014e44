"""Runs are ended with what started them, and a failure shows the end of its log."""
import multiprocessing
import os
import pytest
import time
from typing import Any

from swift_citrusv.tryout import child, processes
from swift_citrusv.tryout.processes import RunError, SwiftProcesses


def sleep_with_a_worker(environment, log, pids):
    """A run with a data worker, which outlives a parent that only dies."""
    child._prepare(environment, log)
    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60, ))
    worker.start()
    with open(pids, 'w') as file:
        file.write(f'{os.getpid()} {worker.pid}')
    time.sleep(60)


def fail(environment, log):
    child._prepare(environment, log)
    print('the reason', flush=True)
    os._exit(3)


def start(pids):
    """Runs until it is killed."""
    with SwiftProcesses() as started:
        started._run('sleep', [(sleep_with_a_worker, ({}, f'{pids}.log', pids))], pids, None)


def alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=100.):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(.05)


@pytest.fixture(autouse=True)
def light(monkeypatch):
    monkeypatch.setattr(processes, '_PRELOAD', ('swift_citrusv.tryout.child', ))


def test_ctrl_c_ends_a_run_and_its_workers(tmp_path):
    pids = tmp_path / 'pids'

    calls: list[Any] = [(sleep_with_a_worker, ({}, str(tmp_path / 'log'), str(pids)))]

    def interrupt():
        if pids.exists() and pids.read_text().count(' ') == 1:
            raise KeyboardInterrupt

    with SwiftProcesses() as started:
        with pytest.raises(KeyboardInterrupt):
            started._run('sleep', calls, tmp_path / 'log', interrupt)
    for pid in pids.read_text().split():
        wait_for(lambda: not alive(pid))


def test_a_killed_parent_takes_its_runs_along(tmp_path):
    pids = tmp_path / 'pids'
    parent = multiprocessing.get_context('spawn').Process(target=start, args=(pids, ))
    parent.start()
    wait_for(lambda: pids.exists() and pids.read_text().count(' ') == 1)
    parent.kill()
    parent.join()
    for pid in pids.read_text().split():
        wait_for(lambda: not alive(pid))


def test_a_failure_shows_the_end_of_its_log(tmp_path):
    log = tmp_path / 'log'
    with SwiftProcesses() as started:
        with pytest.raises(RunError, match=r'(?s)swift sft failed with exit code 3.*the reason'):
            started._run('swift sft', [(fail, ({}, str(log)))], log, None)
