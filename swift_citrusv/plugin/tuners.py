"""The patches for tuners: LoRA that trains and saves the segmentation modules and the embedding of `[SEG]`.

Replaces `TunerArguments.__post_init__` in `swift.arguments.tuner_args`; `prepare_adapter` and
`TunerMixin.prepare_model` in `swift.pipelines.train.tuner`; `LoRALLMTuner.prepare_model` and
`LoRALLMTuner.save_pretrained` in `swift.tuner_plugin.lora_llm`; and `TransformersEngine._add_adapter` in
`swift.infer_engine.transformers_engine`.
"""
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING
from typing import Any

from ..constants import MODEL_TYPE, SEG_TOKEN, SEGMENTATION_MODULES
from .wrapping import wrap

# A tuner type that is in neither of these is refused.
WORKS = ('lora', 'lora_llm', 'full')
_NO_TOKEN = f'it cannot train and save the embedding of {SEG_TOKEN}'
_NO_MODULES = f'it cannot train and save projector, SAM2 and the embedding of {SEG_TOKEN}'
REFUSED = {
    'adalora': 'the penalty that keeps its ranks orthogonal is part of a loss that --loss_type citrusv replaces',
    'longlora': 'it replaces the attention of LLaMA models',
    'vera': _NO_TOKEN,
    'boft': _NO_TOKEN,
    'fourierft': _NO_TOKEN,
    'llamapro': _NO_MODULES,
    'adapter': _NO_MODULES,
    'reft': _NO_MODULES,
    'bone': _NO_MODULES,
    'ia3': _NO_MODULES,
    'dummy': 'it is --tuner_type full, and saves what no command loads',
}
# Initialisations of LoRA whose result can be loaded again.
_INIT_WEIGHTS = (True, False, 'true', 'false', 'gaussian', 'pissa', 'olora', 'orthogonal')
# What ms-swift reads with --tuner_type full only.
_FULL_ONLY = ('freeze_parameters', 'freeze_parameters_regex', 'freeze_parameters_ratio', 'trainable_parameters',
              'trainable_parameters_regex')  # yapf: disable
# What ms-swift's lora_llm does not read.
_NOT_LORA_LLM = ('target_modules', 'target_regex', 'target_parameters', 'lora_dropout', 'lora_bias', 'lora_dtype',
                 'lorap_lr_ratio', 'use_rslora', 'use_dora', 'init_weights', 'freeze_llm')  # yapf: disable
# The file in which lora_llm saves vision tower and aligner.
_LORA_LLM_FILE = 'vit.safetensors'
_EMBEDDINGS = ('embed_tokens', 'lm_head')


def patch_tuner_arguments() -> None:
    """Refuses tuners that would lose the segmentation modules, and flags without an effect."""
    from swift.arguments.tuner_args import TunerArguments

    # Why: it is the first step after the model type is known; it adds names to --freeze_parameters.
    def post_init(original):

        def patched(self):
            if getattr(self, 'model_type', None) == MODEL_TYPE:
                check_tuner(self)
            original(self)

        return patched

    wrap(TunerArguments, '__post_init__', ('self', ), post_init)


def check_tuner(args: Any) -> None:
    """Checks the tuner's flags.

    Raises:
        ValueError: A tuner type that does not train and save masks and the embedding of `[SEG]`, or a flag without an
            effect, with the remedy.
    """
    tuner = args.tuner_type
    if tuner not in WORKS:
        reason = REFUSED.get(tuner, f'whether it trains and saves projector, SAM2 and {SEG_TOKEN} is not known')
        raise ValueError(f'--tuner_type {tuner} cannot train a Citrus-V model: {reason}. Use --tuner_type lora, '
                         'lora_llm (LoRA for the LLM, full training of the vision tower) or full.')
    quantized = args.quant_method or getattr(args.model_info, 'quant_method', None)
    if tuner == 'full':
        if quantized:
            raise ValueError(f'--tuner_type full cannot train weights that are quantized ({quantized}). Use '
                             '--tuner_type lora, or leave out the quantization.')
        return
    for flag in _FULL_ONLY:
        if flag == 'freeze_parameters' and all(
                name.startswith(SEGMENTATION_MODULES) for name in args.freeze_parameters):
            continue
        _refuse_set(
            args, flag, 'choose what LoRA adapts with --target_modules, --freeze_llm, --freeze_vit and '
            '--freeze_aligner. Projector and SAM2 are trained whole, unless --freeze_parameters names them')
    if args.use_swift_lora:
        raise ValueError('--use_swift_lora true has no --modules_to_save for projector and SAM2. Leave it out.')
    if tuner == 'lora_llm':
        for flag in _NOT_LORA_LLM:
            _refuse_set(args, flag, 'use --tuner_type lora')
        if quantized not in (None, 'bnb'):
            raise ValueError(f'--tuner_type lora_llm trains the vision tower, which {quantized} quantizes. Use '
                             '--quant_method bnb, or --tuner_type lora.')
        return
    _check_lora(args)


def _check_lora(args: Any) -> None:
    everything = 'all-linear' in args.target_modules and not args.target_regex
    if everything and args.freeze_llm and args.freeze_vit and args.freeze_aligner:
        raise ValueError('--freeze_llm, --freeze_vit and --freeze_aligner leave nothing for LoRA to adapt. To train '
                         'projector and SAM2 alone, use --tuner_type full with these flags (stage 4).')
    if not everything:
        _refuse_set(args, 'freeze_llm', 'it restricts --target_modules all-linear only')
    if args.target_parameters:
        raise ValueError(
            f'--target_parameters {" ".join(args.target_parameters)} would also match layers of SAM2, which '
            'train whole. All layers of Qwen2.5-VL are modules: use --target_modules.')
    if args.init_weights not in _INIT_WEIGHTS:
        reason = ('its result is random and part of the frozen weights, so the saved adapter would not fit the model'
                  if str(args.init_weights).startswith('pissa_niter') else 'it needs a preparation that is not made')
        raise ValueError(f'--init_weights {args.init_weights} cannot be used with --model_type citrusv: {reason}. Use '
                         f'{", ".join(str(name) for name in _INIT_WEIGHTS[2:])}.')


def _refuse_set(args: Any, flag: str, remedy: str) -> None:
    """Refuses a flag that has no effect, if it has another value than its default."""
    field = type(args).__dataclass_fields__[flag]
    default = field.default if field.default_factory is MISSING else field.default_factory()
    value = getattr(args, flag)
    if value != default and str(value).lower() != str(default).lower():
        shown = ' '.join(map(str, value)) if isinstance(value, list) else value
        raise ValueError(f'--{flag} {shown} has no effect with --tuner_type {args.tuner_type}: {remedy}.')


def patch_tuners() -> None:
    """Lets LoRA train and save what Citrus-V adds to Qwen2.5-VL."""
    from swift.pipelines.train import tuner
    from swift.tuner_plugin import lora_llm

    # Why: ms-swift makes the LoraConfig inside this function and has no flag for `trainable_token_indices`. Without it
    # the embedding of a new [SEG] would keep its initial value.
    def prepare_adapter(original):

        def patched(args, model, **kwargs):
            if args.model_type != MODEL_TYPE or args.tuner_type != 'lora' or args.tuner_backend != 'peft':
                return original(args, model, **kwargs)
            from swift import tuners
            with _lora_config(tuners, model, ()):
                return original(args, model, **kwargs)

        return patched

    wrap(tuner, 'prepare_adapter', ('args', 'model', 'template', 'train_dataset'), prepare_adapter)

    # Why: this tuner has no --modules_to_save, so it freezes projector and SAM2 and does not save them.
    def prepare_lora_llm(original):

        def patched(args, model):
            if args.model_type != MODEL_TYPE:
                return original(args, model)
            with _lora_config(lora_llm, model, args.modules_to_save):
                return original(args, model)

        return staticmethod(patched)

    # Why: it gives PEFT the trainable parameters alone, and PEFT looks for all of what it saves of a module: buffers,
    # and the parts of SAM2 that no loss reaches.
    def save_lora_llm(original):

        def patched(model, save_directory, state_dict=None, **kwargs):
            if model.model_meta.model_type == MODEL_TYPE:
                state_dict = {**model.state_dict(), **(state_dict or {})}
            return original(model, save_directory, state_dict=state_dict, **kwargs)

        return staticmethod(patched)

    wrap(lora_llm.LoRALLMTuner, 'prepare_model', ('args', 'model'), prepare_lora_llm)
    wrap(lora_llm.LoRALLMTuner, 'save_pretrained', ('model', 'save_directory', 'state_dict'), save_lora_llm)

    # Why: PEFT makes every parameter of a module in --modules_to_save trainable, including those that no loss reaches:
    # weight decay would shrink them, and DDP would wait for their gradients. And ms-swift ignores --freeze_parameters
    # with adapters, which would leave text-only LoRA no way to keep segmentation as it is.
    def prepare_model(original):

        def patched(cls, args, model, **kwargs):
            is_new = getattr(model, 'has_new_segmentation', False)
            model = original(args, model, **kwargs)
            if args.model_type == MODEL_TYPE:
                from ..model.segmenter import freeze_unused_parameters
                freeze_unused_parameters(model)
                if args.is_adapter:
                    _freeze_segmentation(model, tuple(args.freeze_parameters))
                # RLHF trains no masks.
                if args.is_adapter and (is_new or not hasattr(args, 'rlhf_type')):
                    check_head_is_saved(args, model)
            return model

        return classmethod(patched)

    wrap(tuner.TunerMixin, 'prepare_model', ('args', 'model'), prepare_model)


def patch_engine_adapters() -> None:
    """Loads adapters of lora_llm whole."""
    from swift.infer_engine.transformers_engine import TransformersEngine

    # Why: the engine loads an adapter with PEFT whatever tuner wrote it, and would leave out the vision tower.
    def add_adapter(original):

        def patched(self, adapter_path, adapter_name=None):
            if (self.model_meta.model_type != MODEL_TYPE
                    or not os.path.exists(os.path.join(adapter_path, _LORA_LLM_FILE))):
                return original(self, adapter_path, adapter_name)
            from peft import PeftModel
            from swift.tuner_plugin import tuners_map
            if adapter_name is not None or isinstance(self.model, PeftModel):
                raise ValueError(f'{adapter_path} is an adapter of --tuner_type lora_llm, which replaces the vision '
                                 'tower: it cannot be loaded by name or beside another. Pass it as the only one, '
                                 'without a name.')
            self.model = tuners_map['lora_llm'].from_pretrained(self.model, adapter_path).eval()

        return patched

    wrap(TransformersEngine, '_add_adapter', ('self', 'adapter_path', 'adapter_name'), add_adapter)


def check_head_is_saved(args: Any, model: Any) -> None:
    """Checks that projector and SAM2 are in the adapter.

    Raises:
        ValueError: They are not, so a new head would stay random, and be another one after loading.
    """
    base = model.get_base_model()
    missing = [name for name in SEGMENTATION_MODULES if not hasattr(base.get_submodule(name), 'modules_to_save')]
    if not missing:
        return
    source = args.resume_from_checkpoint or (args.adapters[0] if args.adapters else None)
    if source:
        raise ValueError(f'The adapter {source} has no {" and no ".join(missing)}, so masks would not train. Merge it '
                         f'first: swift export --adapters {source} --merge_lora true. Then train with the merged '
                         'model as --model.')
    raise ValueError(f'{" and ".join(missing)} are new and random, and would neither train nor be saved. Build a '
                     'Citrus-V directory first (citrusv build), train its masks, and give it as --model.')


def _freeze_segmentation(model: Any, prefixes: tuple[str, ...]) -> None:
    """Freezes the parameters of segmentation whose names start with one of `prefixes`, within an adapter too."""
    for name, parameter in model.named_parameters():
        plain = name.removeprefix('base_model.model.')
        if plain.startswith(SEGMENTATION_MODULES) and prefixes and plain.startswith(prefixes):
            parameter.requires_grad_(False)


@contextmanager
def _lora_config(module: Any, model: Any, modules_to_save: Any) -> Iterator[None]:
    """Replaces `module.LoraConfig` for a while: the configs that it makes fit Citrus-V."""
    config = module.LoraConfig
    module.LoraConfig = _configure(config, model, tuple(modules_to_save))
    try:
        yield
    finally:
        module.LoraConfig = config


def _configure(config: Callable, model: Any, more_modules: tuple[str, ...]) -> Callable:
    """A function that makes a `LoraConfig` for `model`, which also trains what it has to.

    Args:
        more_modules: Names to add to modules_to_save.
    """

    def make(*args: Any, modules_to_save: Any = None, **kwargs: Any) -> Any:
        saved = _outside(model, dict.fromkeys([*(modules_to_save or ()), *more_modules]))
        whole = [name for name in _EMBEDDINGS if any(entry.rpartition('.')[2] == name for entry in saved)]
        names = [name for name in _EMBEDDINGS if name not in whole]
        if model.config.tie_word_embeddings:
            # One weight. PEFT ties the rows of [SEG] again; whole copies train apart, and merging unties the model.
            saved += names if whole else []
            names = [] if whole else ['embed_tokens']
        if not set(SEGMENTATION_MODULES) <= set(saved):
            # RLHF. SAM2 has layers of the same names as Qwen2.5-VL, such as q_proj.
            kwargs['exclude_modules'] = rf'({"|".join(SEGMENTATION_MODULES)})\..*'
        made = config(
            *args,
            modules_to_save=saved or None,
            trainable_token_indices={name: [model.config.seg_token_id]
                                     for name in names} or None,
            **kwargs)
        _refuse_embedding_targets(made, model)
        return made

    return make


def _outside(model: Any, entries: Any) -> list[str]:
    """modules_to_save without modules within the segmentation modules, which are saved whole.

    PEFT matches the end of a name: 'norm1' is a layer of SAM2 too, and would be wrapped twice.
    """
    names = [name for name, _ in model.named_modules()]
    inside = tuple(f'{name}.' for name in SEGMENTATION_MODULES)
    saved: dict[str, None] = {}
    for entry in entries:
        matches = [name for name in names if name.endswith(entry)]
        if any(name.startswith(inside) for name in matches):
            saved.update(dict.fromkeys(name for name in matches if not name.startswith(inside)))
        else:
            saved[entry] = None
    return list(saved)


def _refuse_embedding_targets(config: Any, model: Any) -> None:
    from peft.tuners.tuners_utils import check_target_module_exists
    for name, _ in model.named_modules():
        if name.rpartition('.')[2] in _EMBEDDINGS and check_target_module_exists(config, name):
            raise ValueError(f'--target_modules matches {name}, of which the row of {SEG_TOKEN} is trained already. '
                             'Leave it out; or train all of it: --modules_to_save embed_tokens lm_head.')
