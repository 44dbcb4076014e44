"""The distributed engines under test."""
import json

FSDP2_CONFIG = {
    'fsdp': 'full_shard auto_wrap',
    'fsdp_config': {
        'fsdp_version': 2,
        'reshard_after_forward': True,
        'auto_wrap_policy': 'TRANSFORMER_BASED_WRAP',
        'cpu_ram_efficient_loading': True,
        'state_dict_type': 'SHARDED_STATE_DICT',
    },
}
# engine -> its arguments; for FSDP2, activation checkpointing is one of them
ENGINES = {
    'ddp': [],
    'zero2': ['--deepspeed', 'zero2'],
    'zero3': ['--deepspeed', 'zero3'],
    'fsdp2': ['--fsdp', json.dumps(FSDP2_CONFIG)],
}

CHECKPOINTING = {
    'plain': ['--gradient_checkpointing', 'false'],
    'checkpointed': ['--gradient_checkpointing', 'true'],
}
# ms-swift's own file, which has activation checkpointing on.
FSDP2_CHECKPOINTED = ['--fsdp', 'fsdp2', '--gradient_checkpointing', 'false']
TRAIN_ALL = '--freeze_vit false --freeze_aligner false'.split()
