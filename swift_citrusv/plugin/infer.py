"""The patches for inference: masks in the engine's answers, and in the output of `swift infer`.

Replaces `_infer_full`, `_infer_stream` and `_infer` of `swift.infer_engine.transformers_engine.TransformersEngine`, and
`_batch_infer`, `run`, `infer_single` and `infer_cli` of `swift.pipelines.infer.infer.SwiftInfer`, and
`swift.trainers.Seq2SeqTrainer.__init__`.
"""
import functools
from collections.abc import Iterator
from typing import Any

from ..errors import ROW_ERRORS
from ..inference.infer_output import complete_row, mask_lines, note_error, unusable_image
from ..settings import Settings
from .wrapping import is_citrusv, wrap

# An attribute of an engine whose answers are read as text alone.
_TEXT_ONLY = '_citrusv_text_only'


def patch_text_evaluation() -> None:
    """Draws no masks in the evaluations of `--predict_with_generate true`, which score texts."""
    from swift.trainers import Seq2SeqTrainer

    # Why: it makes the engine that answers during evaluations.
    def init(original):

        def patched(self, *args, **kwargs):
            original(self, *args, **kwargs)
            if is_citrusv(self.template) and self.args.predict_with_generate:
                setattr(self.infer_engine, _TEXT_ONLY, True)

        return patched

    wrap(Seq2SeqTrainer, '__init__', ('self', ), init)


def patch_engine_masks() -> None:
    """Adds masks to the answers of every `TransformersEngine`: of `swift infer`, `swift deploy`, or Python code."""
    from swift.infer_engine.transformers_engine import TransformersEngine

    # Why: only these two both call `generate` and make the messages. The masks are drawn from the hidden states of that
    # generation (`SegStates`).
    def infer_full(original):

        def patched(self, inputs, **kwargs):
            if not is_citrusv(self.template):
                return original(self, inputs, **kwargs)
            # ms-swift collates this column of the rows, and `generate` would refuse it.
            inputs.pop('channel', None)
            if getattr(self, _TEXT_ONLY, False):
                return original(self, inputs, **kwargs)
            masks = _answer_masks(self, inputs, **kwargs)
            responses = original(self, {**inputs, 'seg_states': masks.states}, **kwargs)
            places = [(i, choice.index) for i, response in enumerate(responses) for choice in response.choices]
            choices = [choice for response in responses for choice in response.choices]
            from ..inference.generation import SegMessage
            for place, choice, drawn in zip(places, choices, masks.draw(places), strict=True):
                choice.message = SegMessage(
                    **vars(choice.message),
                    masks=[mask.to_dict() for mask in drawn],
                    overlays=_overlays(masks, *place, drawn))
            return responses

        return patched

    wrap(TransformersEngine, '_infer_full',
         ('self', 'inputs', 'generation_config', 'adapter_request', 'request_config', 'template_inputs'), infer_full)

    def infer_stream(original):

        def patched(self, inputs, **kwargs):
            if not is_citrusv(self.template):
                yield from original(self, inputs, **kwargs)
                return
            inputs.pop('channel', None)
            masks = _answer_masks(self, inputs, **kwargs)
            texts = [''] * len(masks.requests)
            try:
                for chunks in original(self, {**inputs, 'seg_states': masks.states}, **kwargs):
                    # ms-swift treats an answer that an error cut off as complete.
                    if masks.states.error is not None:
                        raise masks.states.error
                    for i, chunk in enumerate(chunks):
                        texts[i] += (chunk.choices[0].delta.content or '') if chunk is not None else ''
                    _end_stream(chunks, masks, texts)
                    yield chunks
            except TypeError:
                # ms-swift raises this if the error came before the first token.
                if masks.states.error is None:
                    raise
                raise masks.states.error from None
            finally:
                masks.states.close()

        return patched

    wrap(TransformersEngine, '_infer_stream',
         ('self', 'inputs', 'generation_config', 'adapter_request', 'request_config', 'template_inputs'), infer_stream)

    # Why: ms-swift reads a seed and does not use it. The rows of a batch draw from one generator, so a request with a
    # seed is answered alone.
    def infer(original):

        def patched(self, infer_requests, request_config, **kwargs):
            alone = request_config.seed is not None and request_config.temperature != 0 and len(infer_requests) > 1
            if not alone or not is_citrusv(self.template):
                return original(self, infer_requests, request_config, **kwargs)
            parts = (original(self, [request], request_config, **kwargs) for request in infer_requests)
            if request_config.stream:
                return _chain_streams(list(parts))
            return [response for part in parts for response in part]

        return patched

    wrap(TransformersEngine, '_infer', ('self', 'infer_requests', 'request_config'), infer)


def _chain_streams(streams: list[Iterator[list[Any]]]) -> Iterator[list[Any]]:
    """Yields the chunks of several streams, one stream after another, in the form of a batch's chunks."""
    for i, stream in enumerate(streams):
        for chunks in stream:
            yield [*[None] * i, *chunks, *[None] * (len(streams) - i - 1)]


def _answer_masks(engine: Any, inputs: dict[str, Any], *, template_inputs: list[Any], request_config: Any,
                  adapter_request: Any, **kwargs: Any) -> Any:
    from ..inference.generation import AnswerMasks
    from ..inference.request_queue import cancellation
    from ..model.seg_states import SegStates
    states = SegStates(engine.template.seg_token_id, inputs['input_ids'], request_config.seed, cancellation())
    # Loads the adapter at its first request, which replaces the engine's model.
    adapter, *_ = engine._get_adapter_names(adapter_request) or [None]
    return AnswerMasks(engine.model, engine.template, inputs, template_inputs, states, adapter)


def _end_stream(chunks: list[Any], masks: Any, texts: list[str]) -> None:
    """Puts the masks into the last chunk of each answer.

    Args:
        texts: The answers as streamed so far.
    """
    from ..inference.generation import SegDelta
    ended = [i for i, chunk in enumerate(chunks) if chunk is not None and chunk.choices[0].finish_reason]
    for i, drawn in zip(ended, masks.draw([(i, 0) for i in ended])):
        choice = chunks[i].choices[0]
        # ms-swift strips whitespace from the beginning of a stream.
        full_text = masks.text(i)
        num_stripped = len(full_text) - len(full_text.lstrip()) - (len(texts[i]) - len(texts[i].lstrip()))
        found = [mask.to_dict() | {'offset': mask.offset - num_stripped} for mask in drawn]
        choice.delta = SegDelta(**vars(choice.delta), masks=found, overlays=_overlays(masks, i, 0, drawn))


def _overlays(masks: Any, prompt: int, sequence: int, drawn: list[Any]) -> list[dict[str, Any]] | None:
    folder = Settings.from_env().overlay_dir
    if folder is None:
        return None
    from ..inference.overlays import save_overlays
    name = masks.names[prompt]
    if name is not None and sequence:
        name = f'{name}_answer{sequence + 1}'
    return save_overlays(folder, name, masks.requests[prompt].images, drawn)


# ---- swift infer


def patch_infer() -> None:
    """Adds masks to the lines that `swift infer` writes and prints."""
    from swift.pipelines.infer import infer as infer_module
    SwiftInfer = infer_module.SwiftInfer

    # Why: it makes the result lines from the text of the responses alone. It calls `self.infer`, which is the engine's
    # method unless the instance has its own.
    def batch_infer(original):

        def patched(self, val_dataset, request_config):
            if not is_citrusv(self.template):
                return original(self, val_dataset, request_config)
            self.infer = functools.partial(_infer_rows, self.infer_engine, self.args.strict)
            try:
                return _gather_on_rank_0(original(self, val_dataset, request_config))
            finally:
                del self.infer

        return patched

    wrap(SwiftInfer, '_batch_infer', ('self', 'val_dataset', 'request_config'), batch_infer)

    # Why: it does not destroy its process group. At the exit of Python, a rank whose peers have exited may abort, and
    # torchrun then reports a finished run as failed.
    def run(original):

        def patched(self):
            import torch.distributed as dist
            result = original(self)
            if is_citrusv(self.template) and dist.is_initialized():
                dist.barrier()
                dist.destroy_process_group()
            return result

        return patched

    wrap(SwiftInfer, 'run', ('self', ), run)

    # Why: it prints the text alone, and the row that it gets becomes the line of the result.
    def infer_single(original):

        def patched(self, infer_request, request_config):
            if not is_citrusv(self.template):
                return original(self, infer_request, request_config)
            # Interactive questions raise their errors, whatever --strict is.
            strict = self.args.strict or self.args.eval_human
            text = ''
            try:
                response = self.infer([infer_request], request_config, use_tqdm=False, **self.infer_kwargs)[0]
                for part in response if request_config.stream else [response]:
                    choice = part.choices[0]
                    message = choice.delta if request_config.stream else choice.message
                    text += message.content or ''
                    print(message.content or '', end='', flush=True)
                print()
                complete_row(infer_request, message)
                for line in mask_lines(message, infer_request.get('images')):
                    print(line)
            except ROW_ERRORS as e:
                if strict:
                    raise
                note_error(infer_request, e)
                print(f'[ERROR] {e}')
            print('-' * 50)
            return text

        return patched

    wrap(SwiftInfer, 'infer_single', ('self', 'infer_request', 'request_config'), infer_single)

    # Why: a mistyped image path, or the end of piped input, ends the session with a traceback.
    def infer_cli(original):

        def patched(self):
            if not is_citrusv(self.template):
                return original(self)
            state = infer_module.InferCliState
            infer_module.InferCliState = _robust_cli_state(state)
            try:
                return original(self)
            finally:
                infer_module.InferCliState = state

        return patched

    wrap(SwiftInfer, 'infer_cli', ('self', ), infer_cli)


def _infer_rows(engine: Any, strict: bool, rows: list[dict[str, Any]], *args: Any, **kwargs: Any) -> list[Any]:
    """As `engine.infer`, for rows of a dataset; adds the masks of its answer, or its error, to each row."""
    engine.strict = strict
    responses = engine.infer(rows, *args, **kwargs)
    for i, (row, response) in enumerate(zip(rows, responses, strict=True)):
        if isinstance(response, Exception):
            note_error(row, response)
            responses[i] = _no_answer()
        else:
            complete_row(row, response.choices[0].message)
    return responses


def _gather_on_rank_0(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all ranks on rank 0, in order; the rank's own rows elsewhere.

    ms-swift gathers them with accelerate, which does not see ranks on CPUs; only rank 0's rows would be written.
    """
    import torch.distributed as dist
    from accelerate import DistributedType, PartialState
    if not dist.is_initialized() or PartialState().distributed_type != DistributedType.NO:
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part] if dist.get_rank() == 0 else rows


def _no_answer() -> Any:
    """An empty response, for a row that cannot be answered."""
    from swift.infer_engine.protocol import ChatCompletionResponse, ChatCompletionResponseChoice, ChatMessage, UsageInfo
    choice = ChatCompletionResponseChoice(0, ChatMessage('assistant', ''), None)
    return ChatCompletionResponse('', [choice], UsageInfo(0, 0, 0))


def _robust_cli_state(state: type) -> type:
    """A subclass of `InferCliState` that asks again for an unreadable image, and exits at the end of its input."""

    class RobustCliState(state):

        def input_text(self):
            try:
                return super().input_text()
            except EOFError:
                return 'exit'

        def input_mm_data(self):
            known = len(self.images)
            super().input_mm_data()
            for i in range(known, len(self.images)):
                while (problem := unusable_image(self.images[i])) is not None:
                    print(problem)
                    self.images[i] = input('Input an image path or URL <<< ')

    return RobustCliState
