"""Registers Citrus-V with ms-swift and with Transformers' Auto classes, and applies all patches of ms-swift.

`import swift_citrusv.plugin.register` registers with Transformers, `register()` with ms-swift too; the import hook
instead calls `on_import` for each module of ms-swift after its import. All of it is idempotent. The registries get a
`Deferred`, which imports our class or function at its first use: runs of other models import nothing heavy.
"""
import importlib
import sys
from collections.abc import Callable
from typing import Any

from ..constants import MODEL_TYPE, SEG_METRIC, TORCH_VARLEN
from . import (app, arguments, dataset_names, deploy, distributed, infer, model_kwargs, models, quantization, quiet,
               resume, rlhf, sft, start, streaming, trainer, tuners)


class Deferred:
    """A class or function of ours, imported at its first call or attribute access.

    Args:
        module: Its module below `swift_citrusv`, such as 'plugin.loader'.
        name: Its name in that module.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module = module
        self._name = name

    def resolve(self) -> Any:
        return getattr(importlib.import_module(f'swift_citrusv.{self._module}'), self._name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.resolve()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.resolve(), name)

    def __deepcopy__(self, memo: dict) -> 'Deferred':
        return self

    def __repr__(self) -> str:
        return f'Deferred({self._module}.{self._name})'


class DeferredModel:
    """The Auto classes' entry, which must be a class: imports `CitrusVForConditionalGeneration` when one is loaded."""
    _model = Deferred('model.modeling', 'CitrusVForConditionalGeneration')

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._model.from_pretrained(*args, **kwargs)

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        return cls._model._from_config(config, **kwargs)


def register_transformers() -> None:
    """Registers with `AutoConfig`, `AutoModel` and `AutoModelForImageTextToText`."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

    from ..model.config import CitrusVConfig
    AutoConfig.register(MODEL_TYPE, CitrusVConfig, exist_ok=True)
    DeferredModel.config_class = CitrusVConfig  # type: ignore[attr-defined]
    for auto in (AutoModel, AutoModelForImageTextToText):
        auto.register(CitrusVConfig, DeferredModel, exist_ok=True)


def register_model() -> None:
    """Registers `--model_type citrusv`, with the module groups of --freeze_llm, --freeze_vit and --freeze_aligner."""
    from swift.model import ModelGroup, ModelMeta
    from swift.model.model_arch import get_model_arch
    from swift.model.register import register_model as register
    register(
        ModelMeta(
            MODEL_TYPE, [ModelGroup([])],
            Deferred('plugin.loader', 'CitrusVLoader'),
            template=MODEL_TYPE,
            model_arch=get_model_arch('qwen2_vl').arch_name,
            architectures=['CitrusVForConditionalGeneration'],
            is_multimodal=True,
            requires=['transformers>=5.19,<5.20', 'qwen-vl-utils>=0.0.14,<0.1', 'sam2>=1.1,<1.2'],
            tags=['vision', 'segmentation', 'medical']),
        exist_ok=True)
    models.patch_model_info()
    register_deferred_attention()


def register_deferred_attention() -> None:
    """Registers `--attn_impl torch_varlen`; here too, because a spawned DataLoader worker makes no Citrus-V model."""
    from transformers import AttentionInterface, AttentionMaskInterface
    AttentionInterface.register(TORCH_VARLEN, Deferred('model.attention', 'varlen_attention_forward'))
    AttentionMaskInterface.register(TORCH_VARLEN, Deferred('model.attention', 'varlen_mask'))


def register_template() -> None:
    """Registers `--template citrusv`, with the chat format of Qwen2.5-VL."""
    from swift.template.register import register_template as register
    from swift.template.templates.qwen import QwenTemplateMeta
    register(QwenTemplateMeta(MODEL_TYPE, template_cls=Deferred('encoding.template', 'CitrusVTemplate')), exist_ok=True)


def register_loss() -> None:
    """Registers `--loss_type citrusv`."""
    from swift.loss import loss_map
    loss_map[MODEL_TYPE] = Deferred('training.loss_plugin', 'CitrusVLoss')


def register_optimizer() -> None:
    """Registers `--optimizer citrusv`."""
    from swift.optimizers import optimizers_map
    optimizers_map[MODEL_TYPE] = Deferred('training.optimizer', 'CitrusVOptimizerCallback')


def register_callback() -> None:
    """Registers `--callbacks citrusv`."""
    from swift.callbacks import callbacks_map
    callbacks_map[MODEL_TYPE] = Deferred('training.callbacks', 'CitrusVCallback')


def register_metric() -> None:
    """Registers `--eval_metric citrusv`, `citrusv_seg`, and the metrics of generated text."""
    from swift.metrics import eval_metrics_map
    for name in (MODEL_TYPE, SEG_METRIC):
        eval_metrics_map[name] = Deferred('training.eval_metrics', 'CitrusVMetrics')
    for name, function in (('qa', 'qa_metrics'), ('reports', 'report_metrics'), ('grounding', 'grounding_metrics'),
                           ('documents', 'document_metrics')):
        eval_metrics_map[f'{MODEL_TYPE}_{name}'] = Deferred('training.eval_metrics', function)


def apply_argument_patches() -> None:
    """Patches the arguments of `swift sft`, `swift rlhf`, `swift infer` and `swift deploy`."""
    model_kwargs.patch_model_kwargs()
    arguments.patch_arguments()
    streaming.patch_streaming_arguments()
    dataset_names.patch_dataset_names()
    models.patch_loading_arguments()
    distributed.patch_distributed()
    deploy.patch_infer_arguments()
    models.patch_template_default()
    quantization.patch_quantization()
    tuners.patch_tuner_arguments()
    resume.patch_resume_arguments()
    rlhf.patch_rlhf_arguments()


def apply_pipeline_patches() -> None:
    """Patches the training pipeline: packs, lengths, adapters, and its start."""
    sft.patch_sft_pipeline()
    tuners.patch_tuners()
    start.patch_start()
    quiet.patch_quiet_pipeline()
    streaming.patch_streaming_pipeline()


def apply_trainer_patches() -> None:
    """Patches the trainer. Streams first: the wrappers of `trainer` go around those of `streaming`."""
    streaming.patch_streaming_trainer()
    trainer.patch_seq2seq_trainer()
    trainer.patch_nonfinite()
    quiet.patch_frozen_checkpointing()
    resume.patch_resume_trainer()
    infer.patch_text_evaluation()


def apply_engine_patches() -> None:
    """Patches the inference engine: masks in answers, and the worker thread."""
    infer.patch_engine_masks()
    models.patch_loading_engine()
    deploy.patch_engine_worker()
    tuners.patch_engine_adapters()


def apply_app_patch() -> None:
    """Patches `swift app`."""
    app.patch_app_page(Deferred('cli.app', 'serve_swift_app'))


_APP = 'swift.pipelines.app.app'
_ACTIONS: dict[str, Callable[[], None]] = {
    'swift.model': register_model,
    'swift.template': register_template,
    'swift.loss': register_loss,
    'swift.optimizers': register_optimizer,
    'swift.callbacks': register_callback,
    'swift.metrics': register_metric,
    # Not the package, which imports lazily: its own import ends before its classes can be imported.
    'swift.trainers.seq2seq_trainer': apply_trainer_patches,
    'swift.arguments': apply_argument_patches,
    'swift.pipelines.train.sft': apply_pipeline_patches,
    'swift.pipelines.train.rlhf': rlhf.patch_rlhf_pipeline,
    # The leaf, for the same reason.
    'swift.infer_engine.transformers_engine': apply_engine_patches,
    'swift.pipelines.infer.infer': infer.patch_infer,
    'swift.pipelines.infer.deploy': deploy.patch_deploy,
    _APP: apply_app_patch,
}


def on_import(module: str) -> None:
    """Applies the registration or patches for one module of ms-swift, right after its import (called by the hook)."""
    if module in _ACTIONS:
        _ACTIONS[module]()


def register() -> None:
    """Imports ms-swift and registers everything; calling it again changes nothing."""
    for module, action in _ACTIONS.items():
        # It needs Gradio, an optional dependency: patched if it is imported already, or later by the hook.
        if module != _APP:
            importlib.import_module(module)
        if module in sys.modules:
            action()


register_transformers()
