"""Runs one training step without weights or data, part by part, and counts the memory that it would take.

The step runs through the real modules on PyTorch's `meta` device (`memory_tracker` replaces some kernels). Operations
that depend on the contents of tensors (the positions of image tokens and of supervised tokens) use an index of the
right length.

Not counted: the workspaces of kernels (cuDNN, oneDNN), fragmentation, the CUDA context.

Legend for shapes: T tokens, V vision tokens, n supervised tokens, N images, M masks.
"""
import torch
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward

from ..model.losses import LossWeights, combine, mask_losses, token_loss
from ..model.modeling import CitrusVForConditionalGeneration
from ..model.segmenter import Segmenter
from .memory_tracker import MemoryTracker, SimulatedKernels

_META = torch.device('meta')


@dataclass(frozen=True)
class Load:
    """The sizes of one forward pass.

    Attributes:
        tokens: T, tokens of the whole pass: a pack, or rows times length.
        vision_tokens: V, image and video placeholders among them.
        supervised_tokens: n, the targets of the token loss.
        images: N, images that SAM2 encodes.
        masks: M, at least one for each image.

    Raises:
        ValueError: The numbers contradict each other.
    """
    tokens: int
    vision_tokens: int
    supervised_tokens: int
    images: int
    masks: int

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ValueError(f'{self.tokens} tokens in a forward pass: give at least 2.')
        for name in ('vision_tokens', 'supervised_tokens', 'images', 'masks'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}: give 0 or more.')
        needed = self.vision_tokens + self.supervised_tokens
        if needed > self.tokens:
            raise ValueError(f'{self.vision_tokens} vision tokens and {self.supervised_tokens} supervised ones do not '
                             f'fit into {self.tokens} tokens: lower them, or raise --packing_length.')
        if self.masks < self.images or self.masks and not self.images:
            raise ValueError(
                f'{self.masks} masks on {self.images} images: SAM2 encodes an image only if it has a mask, '
                'and a mask lies on an image.')


@dataclass(frozen=True)
class Phase:
    """The memory of one part of the step, in bytes, without parameters, optimizer and batch.

    Attributes:
        name: 'vision tower', 'language model', 'SAM2' or 'head and losses'.
        kept: What it keeps for its backward pass, including its output.
        forward: The peak of all parts together while it runs forward.
        backward: The peak of all parts together while it runs backward; 0 if it does not.
        gradients: The gradients of parameters within `backward` that stem from this forward pass.
        gathered: The maximum number of parameters (not bytes) that ZeRO-3 gathers while it runs.
    """
    name: str
    kept: int
    forward: int
    backward: int
    gradients: int
    gathered: int


class DryRun:
    """Runs a step part by part.

    Args:
        model: On the meta device, with the dtypes, the frozen parameters and the gradient checkpointing of the run, in
            training mode.
        load: The sizes of a forward pass.
        block_mask: Whether attention over a pack takes a mask T x T (sdpa) or sequence borders (the varlen kernels).
        autocast: The lower dtype, if Transformers trains a model of mixed dtypes under autocast (without DeepSpeed).
        keep_gradients: Whether gradients of parameters stay until the end of the step. ZeRO-2 and 3 reduce and free
            each one as soon as it is computed.
        accumulate: Whether gradients of an earlier forward pass exist from the start; they are then not counted.
    """

    def __init__(self,
                 model: CitrusVForConditionalGeneration,
                 load: Load,
                 *,
                 block_mask: bool,
                 autocast: torch.dtype | None = None,
                 keep_gradients: bool = True,
                 accumulate: bool = False) -> None:
        self.model, self.load = model, load
        self.block_mask, self.autocast = block_mask, autocast
        self.keep_gradients, self.accumulate = keep_gradients, accumulate
        self.tracker = MemoryTracker()
        self.batch = _batch(model, load)
        self._phases: list[tuple[str, int, int]] = []
        self._backward: list[tuple[int, int]] = []

    def batch_bytes(self) -> int:
        """The size of the tensors that the data loader returns for one forward pass."""
        return sum(tensor.nbytes for tensor in self.batch.values())

    def run(self) -> list[Phase]:
        """Runs the step. Returns its parts in the order of the forward pass."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with ExitStack() as stack:
            for parameter in parameters:
                parameter.grad = None
                stack.callback(parameter.register_post_accumulate_grad_hook(self._note_gradient).remove)
            self.tracker.exclude([*self.model.parameters(), *self.model.buffers(), *self.batch.values()])
            if self.accumulate and self.keep_gradients:
                for parameter in parameters:
                    parameter.grad = torch.empty_like(parameter)
                    self.tracker.exclude([parameter.grad])
            stack.enter_context(self.tracker)
            self._step()
            for parameter in parameters:
                parameter.grad = None
        # The backward passes run in the opposite order.
        self._backward.reverse()
        gathered = self._gathered([peak > 0 for peak, _ in self._backward])
        return [Phase(*ends, *back, count) for ends, back, count in zip(self._phases, self._backward, gathered)]

    def _gathered(self, returns: list[bool]) -> list[int]:
        """For each part the number of parameters that ZeRO-3 gathers.

        Args:
            returns: For each part, whether it has a backward pass. If so, all its parameters stay gathered until then;
                if not, the parameters of a module are freed as soon as it has run.
        """
        model, load = self.model, self.load
        parts: list[list[nn.Module]] = [
            [model.model.visual] if load.vision_tokens else [],
            [model.model.language_model],
            [model.seg_projector, model.segmenter] if load.masks else [],
            [model.lm_head],
        ]
        kept: dict[nn.Parameter, int] = {}
        counts = []
        for roots, has_backward in zip(parts, returns):
            temporary = 0
            if has_backward:
                kept.update((p, p.numel()) for root in roots for p in root.parameters())
            else:
                # ZeRO-3 gathers SAM2 as a whole: see `plugin.distributed`.
                temporary = max((sum(p.numel() for p in module.parameters(recurse=isinstance(module, Segmenter)))
                                 for root in roots for module in root.modules()),
                                default=0)
            counts.append(sum(kept.values()) + temporary)
        return counts

    def _note_gradient(self, parameter: nn.Parameter) -> None:
        if not self.keep_gradients:
            parameter.grad = None
        elif not self.accumulate:
            self.tracker.gradients += parameter.nbytes

    def _step(self) -> None:
        load, frozen = self.load, not any(p.requires_grad for p in self.model.model.parameters())
        # As `CitrusVForConditionalGeneration.forward` does.
        with torch.no_grad() if frozen else nullcontext():
            with self._forward('vision tower'):
                vision = self._vision() if load.vision_tokens else None
            vision_leaf = _leaf(vision)
            with self._forward('language model'):
                hidden = self._language(vision_leaf)
        hidden_leaf = _leaf(hidden)
        with self._forward('SAM2'):
            mask_logits = self._segment(hidden_leaf) if load.masks else None
        masks_leaf = _leaf(mask_logits)
        with self._forward('head and losses'):
            loss = self._loss(hidden_leaf, masks_leaf)
        self._run_backward(loss, None)
        del loss
        for output, leaf in ((mask_logits, masks_leaf), (hidden, hidden_leaf), (vision, vision_leaf)):
            self._run_backward(output, leaf)
            # Freed before the next part, as in autograd's own graph.
            if leaf is not None:
                leaf.grad = None
        del output, leaf, mask_logits, masks_leaf, hidden, hidden_leaf, vision, vision_leaf

    @contextmanager
    def _forward(self, name: str) -> Iterator[None]:
        before = self.tracker.live
        self.tracker.reset_peak()
        with SimulatedKernels(self.autocast):
            yield
        self._phases.append((name, self.tracker.live - before, self.tracker.peak))

    def _run_backward(self, output: Tensor | None, leaf: Tensor | None) -> None:
        self.tracker.reset_peak()
        ran = output is not None and output.requires_grad and (leaf is None or leaf.grad is not None)
        if ran:
            assert output is not None
            gradient = torch.ones_like(output) if leaf is None else leaf.grad
            # As `backward()`, which would disable `SimulatedKernels`, also for the recomputation of checkpoints.
            with SimulatedKernels(self.autocast):
                _engine_run_backward((output, ), (gradient, ),
                                     False,
                                     False, (),
                                     allow_unreachable=True,
                                     accumulate_grad=True)
        self._backward.append((self.tracker.peak, self.tracker.peak_gradients) if ran else (0, 0))

    # ---- The parts of the step.

    def _vision(self) -> Tensor:
        visual = self.model.model.visual
        side = visual.spatial_merge_size
        # One nearly square image and a strip for the rest: only windows and borders depend on the layout.
        width = max(int(self.load.vision_tokens**0.5), 1)
        height, rest = divmod(self.load.vision_tokens, width)
        grid = torch.tensor([[1, side * height, side * width], *[[1, side, side * rest]] * bool(rest)])
        pixels = self.batch['pixel_values'].type(visual.dtype)
        frozen = not any(parameter.requires_grad for parameter in visual.parameters())
        borders = {}
        if not self.block_mask:
            # A varlen kernel processes all windows at once.
            borders['cu_window_seqlens'] = torch.tensor([0, len(pixels)], dtype=torch.int32)
            borders['window_index'] = torch.arange(self.load.vision_tokens)
        with torch.no_grad() if frozen else nullcontext():
            positions = torch.empty((len(pixels), 2), dtype=torch.int64, device=_META)
            return visual(pixels, grid_thw=grid, position_ids=positions, **borders).pooler_output

    def _language(self, vision: Tensor | None) -> Tensor:
        language, num_tokens = self.model.model.language_model, self.load.tokens
        embeddings = language.embed_tokens(self.batch['input_ids'])
        if language.layers[0].gradient_checkpointing and torch.is_grad_enabled():
            # As `enable_input_require_grads`, which ms-swift calls with gradient checkpointing.
            embeddings.requires_grad_(True)
        if vision is not None:
            is_vision = torch.empty((1, num_tokens), dtype=torch.bool, device=_META)
            # A copy, as when the features of several images are concatenated.
            joined = torch.cat([vision]).to(embeddings.dtype)
            embeddings = embeddings.masked_scatter(is_vision[..., None].expand_as(embeddings), joined)
        mask = None
        if self.block_mask:
            mask = torch.empty((1, 1, num_tokens, num_tokens), dtype=torch.bool, device=_META)
        return language(
            inputs_embeds=embeddings,
            position_ids=self.batch['position_ids'],
            attention_mask={
                'full_attention': mask
            },
            use_cache=False).last_hidden_state

    def _segment(self, hidden: Tensor) -> Tensor:
        model, load = self.model, self.load
        index = torch.empty(load.masks, dtype=torch.int64, device=_META)
        images = self.batch['g_pixel_values'].flatten(0, 1)
        return model._segment(images[index[:load.images]], index, hidden[0, index])

    def _loss(self, hidden: Tensor, mask_logits: Tensor | None) -> Tensor:
        model = self.model
        # One position more than targets: see `plugin.trainer`.
        index = torch.empty(self.load.supervised_tokens + 1, dtype=torch.int64, device=_META)
        logits = model.lm_head(hidden[:, index])
        if self.autocast is not None:
            # accelerate converts the outputs of a model to float32.
            logits = logits.float()
        targets = torch.empty(self.load.supervised_tokens + 1, dtype=torch.int64, device=_META)
        tokens = token_loss(logits.flatten(0, 1), targets)
        dice = bce = tokens.new_zeros(0)
        if mask_logits is not None:
            dice, bce = mask_losses(mask_logits, self.batch['masks'].flatten(0, 2))
        return combine(tokens.sum(), dice.sum(), bce.sum(), 1, 1, LossWeights())


def _batch(model: CitrusVForConditionalGeneration, load: Load) -> dict[str, Tensor]:
    """The tensors of one forward pass as the collator makes them, with M masks on N images."""
    vision, side, m = model.config.vision_config, model.segmenter.image_size, model.segmenter.mask_size
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        'input_ids': ((1, load.tokens), torch.int64),
        'labels': ((1, load.tokens), torch.int64),
        'position_ids': ((4, 1, load.tokens), torch.int64),
        'pixel_values': ((load.vision_tokens * vision.spatial_merge_size**2, patch), torch.float32),
        'g_pixel_values': ((1, load.images, 3, side, side), torch.uint8),
        'masks': ((1, load.masks, 1, m, m), torch.uint8),
    }
    return {key: torch.empty(shape, dtype=dtype, device=_META) for key, (shape, dtype) in shapes.items()}


def _leaf(output: Tensor | None) -> Tensor | None:
    """The output of one part as the input of the next: the same storage, but a separate graph."""
    return None if output is None else output.detach().requires_grad_(output.requires_grad)
