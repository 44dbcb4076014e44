"""The hidden states at the `[SEG]` tokens of a generation, collected while it runs, without a second pass.

A mask is predicted from the hidden state of the last layer at the position of its `[SEG]`. That state is computed in
the step after the one that chose the token. If an answer ends with `[SEG]`, at a length limit or a stop word, there is
no such step, and its state takes another pass (`inference.generation`).

States are stored by prompt and tokens so far, not by row of the batch: a beam search moves beams between rows, and
several sequences may be sampled from one prompt, but the same tokens after the same prompt have the same state.
"""
import torch
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from torch import Tensor
from typing import Any

Key = tuple[int, tuple[int, ...]]


class GenerationCancelled(Exception):
    """Ends a generation whose clients have all disconnected."""


class SegStates:
    """The `[SEG]` states of one call of `generate`, which gets it as an argument; calls in several threads stay apart.

    Args:
        seg_token_id: The id of `[SEG]`.
        prompt: The ids of the prompts, int64 [B, T], padded left.
        seed: The seed for sampling; None leaves torch's generator as it is.
        cancelled: Called before each step; True ends the generation.
    """

    def __init__(self,
                 seg_token_id: int,
                 prompt: Tensor,
                 seed: int | None = None,
                 cancelled: Callable[[], bool] | None = None) -> None:
        self.seg_token_id = seg_token_id
        self.seed = seed
        # The error that ended the generation early.
        self.error: BaseException | None = None
        self._cancelled = cancelled
        self._closed, self._started, self._finished = False, False, Event()
        self.num_prompts, self.prompt_length = prompt.shape
        # The generated ids, int64 [B * sequences, L], set after the generation.
        self.sequences: Tensor | None = None
        self._states: dict[Key, Tensor] = {}
        self._input_ids: Tensor | None = None
        self._streamed: list[list[int]] = [[] for _ in range(self.num_prompts)]

    # ---- during the generation

    def begin_step(self, input_ids: Tensor) -> None:
        """Stores the ids before a step, prompts and generated tokens, int64 [rows, T so far].

        Raises:
            GenerationCancelled: The generation was closed, or all its clients have disconnected.
        """
        if self._closed or self._cancelled is not None and self._cancelled():
            raise GenerationCancelled
        self._input_ids = input_ids

    def record(self, hidden: Tensor) -> None:
        """Stores the states at generated `[SEG]` tokens among the inputs of a step.

        Args:
            hidden: The hidden states of the last layer, [rows, input tokens of the step, D].
        """
        ids = self._input_ids
        if ids is None:
            return
        first = ids.shape[1] - hidden.shape[1]
        skipped = max(self.prompt_length - first, 0)
        if skipped >= hidden.shape[1]:
            return
        hits = (ids[:, first + skipped:] == self.seg_token_id).nonzero().tolist()
        for row, position in hits:
            end = first + skipped + position + 1
            key = self._key(row * self.num_prompts // ids.shape[0], ids[row, self.prompt_length:end].tolist())
            self._states[key] = hidden[row, skipped + position].clone()

    def record_streamed(self, tokens: Tensor) -> None:
        """Takes what a streamer gets: first the prompts, int64 [B, T], then one token of each row, int64 [B]."""
        if tokens.ndim == 1:
            for ids, token in zip(self._streamed, tokens.tolist()):
                ids.append(token)

    # ---- the end of the generation

    @contextmanager
    def watch(self, streamer: Any) -> Iterator[None]:
        """A context for the generation: stores its `error`, and always ends the stream.

        ms-swift generates for a stream in another thread. An error there would end only the thread, and the reader of
        the stream would wait forever.

        Args:
            streamer: A streamer of Transformers; None without streaming.
        """
        self._started = True
        try:
            yield
        except BaseException as e:
            self.error = e
            if streamer is None or not isinstance(e, GenerationCancelled):
                raise
        finally:
            if streamer is not None:
                # After a successful generation this is the second end, which is never read.
                streamer.end()
            self._finished.set()

    def close(self) -> None:
        """Cancels the generation of a stream that is not read to its end, and waits until it has ended."""
        self._closed = True
        if self._started:
            self._finished.wait()

    # ---- after the generation

    def generated(self, prompt: int, sequence: int = 0) -> list[int]:
        """The generated ids of a prompt, padding included; while streaming, those so far.

        Args:
            prompt: The index of the prompt.
            sequence: The index among the sequences sampled from it.
        """
        if self.sequences is None:
            return list(self._streamed[prompt])
        per_prompt = self.sequences.shape[0] // self.num_prompts
        return self.sequences[prompt * per_prompt + sequence].tolist()

    def get(self, prompt: int, generated: list[int]) -> Tensor | None:
        """The state at the last of the generated ids, a `[SEG]`; None if it was not computed."""
        return self._states.get(self._key(prompt, generated))

    def put(self, prompt: int, generated: list[int], state: Tensor) -> None:
        """Stores a state that was computed in another pass."""
        self._states[self._key(prompt, generated)] = state

    @staticmethod
    def _key(prompt: int, generated: list[int]) -> Key:
        return prompt, tuple(generated)


class RecordingStreamer:
    """A streamer that records its tokens in `SegStates` and passes them to another streamer.

    Args:
        streamer: A streamer of Transformers.
        states: Those of this generation.
    """

    def __init__(self, streamer: Any, states: SegStates) -> None:
        self._streamer = streamer
        self._states = states

    def put(self, tokens: Tensor) -> None:
        self._states.record_streamed(tokens)
        self._streamer.put(tokens)

    def end(self) -> None:
        self._streamer.end()


def append_answers(inputs: dict[str, Any], answers: list[list[int]], pad_token_id: int) -> dict[str, Any]:
    """Appends an answer to each prompt of a batch, for one pass over both.

    Args:
        inputs: The inputs of B prompts, padded left: `input_ids` [B, T]; `attention_mask` and `mm_token_type_ids`
            [B, T], if present; other keys are not changed.
        answers: B lists of ids; an empty list for a prompt without an answer.
        pad_token_id: The id of the padding after shorter answers.

    Returns:
        The same keys, without `position_ids` and with `attention_mask`; T grows by the longest answer.
    """
    prompts = inputs['input_ids']
    longest = max(len(answer) for answer in answers)
    tail = prompts.new_full((len(answers), longest), pad_token_id)
    is_answer = torch.zeros_like(tail)
    for row, answer in enumerate(answers):
        tail[row, :len(answer)] = torch.tensor(answer, dtype=tail.dtype, device=tail.device)
        is_answer[row, :len(answer)] = 1
    result = {key: value for key, value in inputs.items() if key != 'position_ids'}
    result['input_ids'] = torch.cat([prompts, tail], dim=1)
    mask = inputs.get('attention_mask')
    mask = torch.ones_like(prompts) if mask is None else mask
    result['attention_mask'] = torch.cat([mask, is_answer.to(mask.dtype)], dim=1)
    types = inputs.get('mm_token_type_ids')
    if types is not None:
        result['mm_token_type_ids'] = torch.cat([types, torch.zeros_like(tail).to(types.dtype)], dim=1)
    return result
