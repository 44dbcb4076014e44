"""The hidden states at the `[SEG]` tokens of a generation, kept while it runs: no second pass, nothing else kept.

The state that draws a mask is that of the last layer at the position of `[SEG]` itself. It exists once that token has
been fed back into the model, in the step after the one that chose it; an answer that ends with `[SEG]`, because a limit
or a stop word ended it there, has none, and asks for a pass of its own (`SegStates.missing`).

States are kept under the tokens that led to them. So it does not matter to which row of the batch a beam search moves a
beam, or how many sequences are drawn from one prompt: the same tokens after the same prompt have the same state.
"""
import torch
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from torch import Tensor
from typing import Any

Key = tuple[int, tuple[int, ...]]


class Abandoned(Exception):
    """Ends a generation that nobody waits for any more."""


class SegStates:
    """Follows one call of `generate`; an argument of it, so that calls in several threads do not meet.

    Args:
        seg_token_id: The id of `[SEG]`.
        prompt: The ids of the prompts, int64 [B, T], padded left.
        seed: Of what is drawn at random; None leaves it to the process.
        abandoned: Asked before each step: whether nobody waits for the answers any more.
    """

    def __init__(self,
                 seg_token_id: int,
                 prompt: Tensor,
                 seed: int | None = None,
                 abandoned: Callable[[], bool] | None = None) -> None:
        self.seg_token_id = seg_token_id
        self.seed = seed
        # What ended the generation before its time.
        self.error: BaseException | None = None
        self._abandoned = abandoned
        self._closed, self._entered, self._left = False, False, Event()
        self.num_prompts, self.prompt_length = prompt.shape
        # What was generated, int64 [B * sequences, L], once it is over.
        self.sequences: Tensor | None = None
        self._states: dict[Key, Tensor] = {}
        self._input_ids: Tensor | None = None
        self._streamed: list[list[int]] = [[] for _ in range(self.num_prompts)]

    # ---- while it runs

    def follow(self, input_ids: Tensor) -> None:
        """Takes the ids before a step, int64 [rows, prompt and what is generated so far].

        Raises:
            Abandoned: Nobody waits for the answers any more.
        """
        if self._closed or self._abandoned is not None and self._abandoned():
            raise Abandoned
        self._input_ids = input_ids

    def note(self, hidden: Tensor) -> None:
        """Keeps the states at the `[SEG]` that a step was fed with.

        Args:
            hidden: Of the last layer, [rows, tokens that the step was fed with, D].
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

    def stream(self, tokens: Tensor) -> None:
        """Takes what a streamer is given: first the prompts, int64 [B, T], then a token of each row, int64 [B]."""
        if tokens.ndim == 1:
            for ids, token in zip(self._streamed, tokens.tolist()):
                ids.append(token)

    # ---- its end, whatever it is

    @contextmanager
    def watch(self, streamer: Any) -> Iterator[None]:
        """Around the generation: its reader learns of its end, and of what ended it (`error`).

        ms-swift generates for a stream in a thread of its own. An error there would only end the thread, and its reader
        would wait for ever.

        Args:
            streamer: Of Transformers' kind; None where nothing is streamed.
        """
        self._entered = True
        try:
            yield
        except BaseException as e:
            self.error = e
            if streamer is None or not isinstance(e, Abandoned):
                raise
        finally:
            if streamer is not None:
                # A second end, after a generation that went well, is read by nobody.
                streamer.end()
            self._left.set()

    def close(self) -> None:
        """Ends the generation of a stream that is not read to its end, and waits until it is over."""
        self._closed = True
        if self._entered:
            self._left.wait()

    # ---- afterwards

    def generated(self, prompt: int, sequence: int = 0) -> list[int]:
        """The ids that answer a prompt, with what pads them; in a stream those so far.

        Args:
            prompt: Its index.
            sequence: Which of the sequences drawn from it.
        """
        if self.sequences is None:
            return list(self._streamed[prompt])
        per_prompt = self.sequences.shape[0] // self.num_prompts
        return self.sequences[prompt * per_prompt + sequence].tolist()

    def get(self, prompt: int, generated: list[int]) -> Tensor | None:
        """The state at the last of the generated ids, a `[SEG]`; None where it was never fed back."""
        return self._states.get(self._key(prompt, generated))

    def put(self, prompt: int, generated: list[int], state: Tensor) -> None:
        """Adds a state that was found in another way."""
        self._states[self._key(prompt, generated)] = state

    def missing(self, prompt: int, generated: list[int]) -> bool:
        """Whether a `[SEG]` among the generated ids has no state."""
        return any(token == self.seg_token_id and self.get(prompt, generated[:i + 1]) is None
                   for i, token in enumerate(generated))

    @staticmethod
    def _key(prompt: int, generated: list[int]) -> Key:
        return prompt, tuple(generated)


class StreamTee:
    """A streamer that hands on what it is given, and lets `SegStates` see it first.

    Args:
        streamer: Of Transformers' kind.
        states: Of this generation.
    """

    def __init__(self, streamer: Any, states: SegStates) -> None:
        self._streamer = streamer
        self._states = states

    def put(self, tokens: Tensor) -> None:
        self._states.stream(tokens)
        self._streamer.put(tokens)

    def end(self) -> None:
        self._streamer.end()


def append_answers(inputs: dict[str, Any], answers: list[list[int]], pad_token_id: int) -> dict[str, Any]:
    """The inputs of a batch of prompts with an answer behind each prompt, for one pass over both.

    Args:
        inputs: Of B prompts, padded left: `input_ids` and `attention_mask` [B, T], `mm_token_type_ids` [B, T] where
            there is one; the rest stays as it is.
        answers: B lists of ids; an empty one where a prompt has no answer.
        pad_token_id: Fills the tails.

    Returns:
        The same keys, without `position_ids`; T grows by the longest answer.
    """
    prompts = inputs['input_ids']
    longest = max(len(answer) for answer in answers)
    tail = prompts.new_full((len(answers), longest), pad_token_id)
    there = torch.zeros_like(tail)
    for row, answer in enumerate(answers):
        tail[row, :len(answer)] = torch.tensor(answer, dtype=tail.dtype, device=tail.device)
        there[row, :len(answer)] = 1
    result = {key: value for key, value in inputs.items() if key != 'position_ids'}
    result['input_ids'] = torch.cat([prompts, tail], dim=1)
    mask = inputs.get('attention_mask')
    mask = torch.ones_like(prompts) if mask is None else mask
    result['attention_mask'] = torch.cat([mask, there.to(mask.dtype)], dim=1)
    types = inputs.get('mm_token_type_ids')
    if types is not None:
        result['mm_token_type_ids'] = torch.cat([types, torch.zeros_like(tail).to(types.dtype)], dim=1)
    return result
