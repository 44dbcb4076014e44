"""Everything that the plugin adds to ms-swift's registries and to Transformers' Auto classes.

`import swift_citrusv.plugin.register` registers with Transformers, `register()` with ms-swift too; the import hook
calls `on_import` for one module of ms-swift at a time instead. All of it is idempotent. Nothing heavy is imported until
a Citrus-V run asks for it: the registries get a `Deferred` that imports the real thing when it is called.
"""
import importlib
import sys
from collections.abc import Callable
from typing import Any

from ..constants import MODEL_TYPE, SEG_METRIC, TORCH_VARLEN
from . import app, arguments, deploy, distributed, infer, models, resume, sft, streaming, trainer


class Deferred:
    """A class of ours that is imported when it is first called or looked into."""

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
    """Stands in the Auto classes' tables for `CitrusVForConditionalGeneration` until one is loaded."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        return Deferred('model.modeling', 'CitrusVForConditionalGeneration').resolve().from_pretrained(*args, **kwargs)

    @classmethod
    def _from_config(cls, config: Any, **kwargs: Any) -> Any:
        return Deferred('model.modeling', 'CitrusVForConditionalGeneration').resolve()._from_config(config, **kwargs)


def register_transformers() -> None:
    """`AutoConfig`, `AutoModel` and `AutoModelForImageTextToText`."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

    from ..model.config import CitrusVConfig
    AutoConfig.register(MODEL_TYPE, CitrusVConfig, exist_ok=True)
    DeferredModel.config_class = CitrusVConfig  # type: ignore[attr-defined]
    for auto in (AutoModel, AutoModelForImageTextToText):
        auto.register(CitrusVConfig, DeferredModel, exist_ok=True)


def register_model() -> None:
    """`--model_type citrusv`, and its architecture: what --freeze_llm, --freeze_vit and --freeze_aligner mean."""
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
            requires=['transformers>=4.49', 'qwen_vl_utils>=0.0.6', 'sam2'],
            tags=['vision', 'segmentation', 'medical']),
        exist_ok=True)
    models.patch_model_info()
    register_attention()


def register_attention() -> None:
    """`--attn_impl torch_varlen`; here too, because a spawned DataLoader worker makes no Citrus-V model."""
    from transformers import AttentionInterface, AttentionMaskInterface
    AttentionInterface.register(TORCH_VARLEN, Deferred('model.attention', 'varlen_attention_forward'))
    AttentionMaskInterface.register(TORCH_VARLEN, Deferred('model.attention', 'varlen_mask'))


def register_template() -> None:
    """`--template citrusv`: the chat format of Qwen2.5-VL."""
    from swift.template.register import register_template as register
    from swift.template.templates.qwen import QwenTemplateMeta
    register(QwenTemplateMeta(MODEL_TYPE, template_cls=Deferred('encoding.template', 'CitrusVTemplate')), exist_ok=True)


def register_loss() -> None:
    """`--loss_type citrusv`."""
    from swift.loss import loss_map
    loss_map[MODEL_TYPE] = Deferred('training.loss_plugin', 'CitrusVLoss')


def register_optimizer() -> None:
    """`--optimizer citrusv`."""
    from swift.optimizers import optimizers_map
    optimizers_map[MODEL_TYPE] = Deferred('training.optimizer', 'CitrusVOptimizerCallback')


def register_callback() -> None:
    """`--callbacks citrusv`."""
    from swift.callbacks import callbacks_map
    callbacks_map[MODEL_TYPE] = Deferred('training.callbacks', 'CitrusVCallback')


def register_metric() -> None:
    """`--eval_metric citrusv`, `citrusv_seg`, and those of generated text."""
    from swift.metrics import eval_metrics_map
    for name in (MODEL_TYPE, SEG_METRIC):
        eval_metrics_map[name] = Deferred('training.eval_metrics', 'CitrusVMetrics')
    for name, function in (('qa', 'qa_metrics'), ('reports', 'report_metrics'), ('grounding', 'grounding_metrics'),
                           ('documents', 'document_metrics')):
        eval_metrics_map[f'{MODEL_TYPE}_{name}'] = Deferred('training.eval_metrics', function)


def patch_arguments(before_parsing: bool = False) -> None:
    """What `swift sft` takes, and how it reads rows.

    Args:
        before_parsing: Whether no flag has been parsed yet: the import hook comes early enough, an external plugin
            does not.
    """
    arguments.patch_arguments(before_parsing)
    streaming.patch_arguments()
    distributed.patch_distributed()
    deploy.patch_arguments()
    resume.patch_arguments()


def patch_pipeline() -> None:
    """From rows to packs, and the model's adapters."""
    sft.patch_pipeline()
    streaming.patch_pipeline()


def patch_trainer() -> None:
    """Streams first: what `patches` puts around a trainer's methods goes around theirs."""
    streaming.patch_trainer()
    trainer.patch_trainer()
    trainer.patch_nonfinite()
    resume.patch_trainer()


def patch_engine() -> None:
    """Masks in answers, and the thread that answers."""
    infer.patch_engine()
    deploy.patch_worker()


def patch_app() -> None:
    """The page of `swift app`."""
    app.patch_app(Deferred('app.server', 'serve_swift_app'))


_APP = 'swift.pipelines.app.app'
_ARGUMENTS = 'swift.arguments'
_ACTIONS: dict[str, Callable[[], None]] = {
    'swift.model': register_model,
    'swift.template': register_template,
    'swift.loss': register_loss,
    'swift.optimizers': register_optimizer,
    'swift.callbacks': register_callback,
    'swift.metrics': register_metric,
    # Not the package, which is lazy: its import ends before its classes can be imported.
    'swift.trainers.seq2seq_trainer': patch_trainer,
    _ARGUMENTS: patch_arguments,
    'swift.pipelines.train.sft': patch_pipeline,
    # The leaf, for the same reason.
    'swift.infer_engine.transformers_engine': patch_engine,
    'swift.pipelines.infer.infer': infer.patch_infer,
    'swift.pipelines.infer.deploy': deploy.patch_deploy,
    _APP: patch_app,
}


def on_import(module: str) -> None:
    """Registers what belongs to one module of ms-swift, right after it was imported (called by the hook)."""
    if module == _ARGUMENTS:
        patch_arguments(before_parsing=True)
    elif module in _ACTIONS:
        _ACTIONS[module]()


def register() -> None:
    """Imports ms-swift and registers everything; calling it again changes nothing."""
    for module, action in _ACTIONS.items():
        # It needs Gradio, which is an extra: whoever wants the page has imported it, or the hook will see it.
        if module != _APP:
            importlib.import_module(module)
        if module in sys.modules:
            action()


register_transformers()
