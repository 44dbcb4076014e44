"""What a process of `processes.SwiftProcesses` runs: one rank of `swift sft`, `swift infer`, or the build."""
import gc
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Mapping
from multiprocessing.connection import wait

# Starts the last line of a log.
PROCESSOR_SECONDS = 'Processor seconds:'


def run_swift(command: str, arguments: list[str], environment: Mapping[str, str], log: str) -> None:
    """Runs `swift COMMAND ARGUMENTS`, as the program `swift` does, in this process.

    Args:
        command: 'sft' or 'infer'.
        arguments: As on the command line; the first may be a YAML file.
        environment: Variables to set.
        log: The file of its output, appended to.
    """
    _prepare(environment, log)
    from swift.cli.main import parse_yaml_args
    arguments = list(arguments)
    parse_yaml_args(arguments)
    if command == 'sft':
        from swift.pipelines import sft_main
        sft_main(arguments)
    else:
        from swift.pipelines import infer_main
        infer_main(arguments)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f'{PROCESSOR_SECONDS} {sum(usage.ru_utime + usage.ru_stime for usage in used):.1f}', flush=True)


def run_build(output: str, corpus: list[str], max_pixels: int | None, environment: Mapping[str, str], log: str) -> None:
    """Builds a tiny random Citrus-V, as `citrusv build --mllm tiny --sam2 tiny` does.

    Args:
        output: The new checkpoint directory.
        corpus: Texts to train the tokenizer on.
        max_pixels: See `build_checkpoint`.
        environment: Variables to set.
        log: The file of its output, appended to.
    """
    _prepare(environment, log)
    from ..model.build import build_checkpoint
    from ..plugin.register import register_transformers
    register_transformers()
    build_checkpoint('tiny', 'tiny', output, corpus=corpus, max_pixels=max_pixels)


def _prepare(environment: Mapping[str, str], log: str) -> None:
    # A group of its own: Ctrl-C reaches the parent only, which ends the whole group, data workers included.
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel, ), daemon=True).start()
    # DataLoader workers are forked, as they are under `swift`, rather than started by another fork server.
    multiprocessing.set_start_method('fork', force=True)
    # ms-swift collects garbage often, which takes half a second with all modules imported before the fork.
    gc.freeze()
    import torch
    torch.set_num_threads(1)


def _end_with(sentinel: int) -> None:
    """Ends this process group when the parent has ended, however it did."""
    wait([sentinel])
    os.killpg(0, signal.SIGKILL)
