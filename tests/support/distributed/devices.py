"""The set-up of ranks on CUDA, and the time and memory of their steps."""
import importlib
import os
import socket
import torch
from support.step_meter import StepMeter


def name_rank(rank: int, world_size: int, port: int) -> None:
    """The environment that torchrun gives a rank, where there is a device for each.

    On fewer devices every rank is a node of its own, all with the same first device: LOCAL_RANK names the device.
    """
    shared = torch.cuda.is_available() and torch.cuda.device_count() < world_size
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK='0' if shared else str(rank),
        LOCAL_WORLD_SIZE='1' if shared else str(world_size),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port))
    if shared:
        # NCCL refuses two ranks on one device; and Transformers has DeepSpeed start NCCL on CUDA, whatever
        # --ddp_backend says, unless there is a group already.
        from deepspeed import comm
        comm.init_distributed('gloo', auto_mpi_discovery=False, verbose=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def metered(folder: str) -> None:
    """For `Launcher.run(sabotage='devices.metered FOLDER')`: each rank writes what its steps take.

    The run needs `--callbacks report meter`; `step_meter.read_steps` reads `steps_RANK.json`.
    """
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (('RANK', 0), ('WORLD_SIZE', 1)))
    # A run of one rank has none of these variables, and DeepSpeed needs them.
    name_rank(rank, world_size, int(os.environ.get('MASTER_PORT', free_port())))
    StepMeter.file = os.path.join(folder, f'steps_{rank}.json')
    importlib.import_module('swift.callbacks').callbacks_map['meter'] = StepMeter
