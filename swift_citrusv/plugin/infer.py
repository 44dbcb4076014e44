"""The patches for answering, as in `patches`: each with its reason, its symbol and a check."""
import functools
from collections.abc import Iterator
from typing import Any

from ..errors import ROW_ERRORS
from ..inference.infer_output import complete_row, mask_lines, note_error, unusable_image
from ..settings import Settings
from .wrapping import is_citrusv, wrap


def patch_engine() -> None:
    """Masks in the answers of `TransformersEngine`, whoever made it: `swift infer`, `swift deploy`, or Python."""
    from swift.infer_engine.transformers_engine import TransformersEngine

    # Why: these two call `generate`, and make the messages; they are the only places that see both. The masks are drawn
    # from what the one generation leaves (`SegStates`).
    def infer_full(original):

        def patched(self, inputs, **kwargs):
            if not is_citrusv(self.template):
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
            masks = _answer_masks(self, inputs, **kwargs)
            texts = [''] * len(masks.requests)
            try:
                for chunks in original(self, {**inputs, 'seg_states': masks.states}, **kwargs):
                    # For ms-swift an answer that an error has cut off is whole.
                    if masks.states.error is not None:
                        raise masks.states.error
                    for i, chunk in enumerate(chunks):
                        texts[i] += (chunk.choices[0].delta.content or '') if chunk is not None else ''
                    _end_stream(chunks, masks, texts)
                    yield chunks
            except TypeError:
                # Of ms-swift's, where the error has come before any token.
                if masks.states.error is None:
                    raise
                raise masks.states.error from None
            finally:
                masks.states.close()

        return patched

    wrap(TransformersEngine, '_infer_stream',
         ('self', 'inputs', 'generation_config', 'adapter_request', 'request_config', 'template_inputs'), infer_stream)

    # Why: ms-swift reads a seed and does not use it. Rows of a batch draw from one generator, so that a request with a
    # seed is answered alone.
    def infer(original):

        def patched(self, infer_requests, request_config, **kwargs):
            alone = request_config.seed is not None and request_config.temperature != 0 and len(infer_requests) > 1
            if not alone or not is_citrusv(self.template):
                return original(self, infer_requests, request_config, **kwargs)
            parts = (original(self, [request], request_config, **kwargs) for request in infer_requests)
            if request_config.stream:
                return _one_by_one(list(parts))
            return [response for part in parts for response in part]

        return patched

    wrap(TransformersEngine, '_infer', ('self', 'infer_requests', 'request_config'), infer)


def _one_by_one(streams: list[Iterator[list[Any]]]) -> Iterator[list[Any]]:
    """The chunks of several streams, one stream after another, as those of one batch."""
    for i, stream in enumerate(streams):
        for chunks in stream:
            yield [*[None] * i, *chunks, *[None] * (len(streams) - i - 1)]


def _answer_masks(engine: Any, inputs: dict[str, Any], *, template_inputs: list[Any], request_config: Any,
                  adapter_request: Any, **kwargs: Any) -> Any:
    from ..inference.generation import AnswerMasks
    from ..inference.request_queue import abandoned
    from ..model.seg_states import SegStates
    states = SegStates(engine.template.seg_token_id, inputs['input_ids'], request_config.seed, abandoned())
    # Loads an adapter that is asked for the first time, which makes another model of the engine's.
    adapter, *_ = engine._get_adapter_names(adapter_request) or [None]
    return AnswerMasks(engine.model, engine.template, inputs, template_inputs, states, adapter)


def _end_stream(chunks: list[Any], masks: Any, texts: list[str]) -> None:
    """Puts the masks into the last chunk of each answer.

    Args:
        texts: The answers as they were streamed.
    """
    from ..inference.generation import SegDelta
    ended = [i for i, chunk in enumerate(chunks) if chunk is not None and chunk.choices[0].finish_reason]
    for i, drawn in zip(ended, masks.draw([(i, 0) for i in ended])):
        choice = chunks[i].choices[0]
        # ms-swift takes the blanks off the beginning of a stream.
        whole = masks.text(i)
        blanks = len(whole) - len(whole.lstrip()) - (len(texts[i]) - len(texts[i].lstrip()))
        found = [mask.to_dict() | {'offset': mask.offset - blanks} for mask in drawn]
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
    """Masks in what `swift infer` writes and prints."""
    from swift.pipelines.infer import infer as infer_module
    SwiftInfer = infer_module.SwiftInfer

    # Why: it makes the lines of the result from the text of the responses alone. It looks `infer` up on itself, and
    # finds the engine's.
    def batch_infer(original):

        def patched(self, val_dataset, request_config):
            if not is_citrusv(self.template):
                return original(self, val_dataset, request_config)
            self.infer = functools.partial(_infer_rows, self.infer_engine, self.args.strict)
            try:
                return _of_all_ranks(original(self, val_dataset, request_config))
            finally:
                del self.infer

        return patched

    wrap(SwiftInfer, '_batch_infer', ('self', 'val_dataset', 'request_config'), batch_infer)

    # Why: it leaves its process group to the end of Python, where a rank whose neighbours have gone may abort: torchrun
    # then calls a finished run a failed one.
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

    # Why: it prints the text alone, and the row that it is given is the line of the result.
    def infer_single(original):

        def patched(self, infer_request, request_config):
            if not is_citrusv(self.template):
                return original(self, infer_request, request_config)
            # A question of a user stays his, whatever --strict says.
            strict = self.args.strict or self.args.eval_human
            text = ''
            try:
                response = self.infer([infer_request], request_config, use_tqdm=False, **self.infer_kwargs)[0]
                pieces = response if request_config.stream else [response]
                for piece in pieces:
                    choice = piece.choices[0]
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

    # Why: a mistyped name of an image, or the end of a script of questions, ends the session with a traceback.
    def infer_cli(original):

        def patched(self):
            if not is_citrusv(self.template):
                return original(self)
            state = infer_module.InferCliState
            infer_module.InferCliState = _checked(state)
            try:
                return original(self)
            finally:
                infer_module.InferCliState = state

        return patched

    wrap(SwiftInfer, 'infer_cli', ('self', ), infer_cli)


def _infer_rows(engine: Any, strict: bool, rows: list[dict[str, Any]], *args: Any, **kwargs: Any) -> list[Any]:
    """As `engine.infer`, for rows of a data set, which then have the masks of their answers, or their errors."""
    engine.strict = strict
    responses = engine.infer(rows, *args, **kwargs)
    for i, (row, response) in enumerate(zip(rows, responses, strict=True)):
        if isinstance(response, Exception):
            note_error(row, response)
            responses[i] = _no_answer()
        else:
            complete_row(row, response.choices[0].message)
    return responses


def _of_all_ranks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all ranks on rank 0, in order.

    ms-swift gathers them with accelerate, which knows nothing of ranks on CPUs, so that only rank 0's would be written.
    """
    import torch.distributed as dist
    from accelerate import DistributedType, PartialState
    if not dist.is_initialized() or PartialState().distributed_type != DistributedType.NO:
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part] if dist.get_rank() == 0 else rows


def _no_answer() -> Any:
    """What stands for the response to a row that cannot be answered."""
    from swift.infer_engine.protocol import ChatCompletionResponse, ChatCompletionResponseChoice, ChatMessage, UsageInfo
    choice = ChatCompletionResponseChoice(0, ChatMessage('assistant', ''), None)
    return ChatCompletionResponse('', [choice], UsageInfo(0, 0, 0))


def _checked(state: type) -> type:
    """`InferCliState`, which asks again for an image that cannot be read, and leaves at the end of its input."""

    class CheckedState(state):

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

    return CheckedState
