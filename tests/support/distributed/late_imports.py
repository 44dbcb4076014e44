"""Imports what a run would only import once it trains: two seconds for each rank under DeepSpeed."""
import datasets.packaged_modules.generator.generator  # noqa: F401
# Decorated with `torch.compile`, which imports torch's compiler.
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
import multiprocess.managers  # noqa: F401
import qwen_vl_utils  # noqa: F401
import scipy.io  # noqa: F401
from transformers.models.auto.video_processing_auto import video_processor_class_from_name

# Imports the video processors of every model, until it finds the name.
video_processor_class_from_name('Qwen2VLVideoProcessor')
