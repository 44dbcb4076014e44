"""The masks of the answers of `citrusv segment`, in batches, and what it tells at the end."""
from collections import Counter
from collections.abc import Iterator
from swift.template import StdTemplateInputs
from tqdm import tqdm
from typing import Any

from ..encoding.row_media import move_image_tags
from ..errors import RowError
from ..files.images import open_image, to_rgb
from ..inference.overlays import save_overlays
from ..inference.results import MaskResult
from ..inference.teacher_forcing import answer_ids, draw_answers, same_prompt
from ..inference.text_client import ServedText
from ..pipeline import CitrusVPipeline
from ..rows.skips import Skips
from .segment_rows import Question, ResultFile

# A row with its text, the error in its place, or None where the text is still to be written here.
Said = tuple[Question, ServedText | Exception | None]
# A row, its text, and the ids of that.
_Pending = tuple[Question, ServedText | None, list[int]]
# Answers that wait until a batch of those with masks is full, in batches.
_MOST_PENDING = 16


class RowSegmenter:
    """Draws the masks of answers in batches, and writes the results in the order of the rows.

    Args:
        pipe: The model.
        results: Where they go.
        skips: Counts what is left out where `strict` is false.
        strict: Whether the first row that cannot be answered ends the run.
        batch_size: Answers drawn at a time.
        overlay_dir: Where pictures go, if anywhere.
        generation: Fields of ms-swift's `RequestConfig`, for rows whose text is written here.
    """

    def __init__(self, pipe: CitrusVPipeline, results: ResultFile, skips: Skips, *, strict: bool, batch_size: int,
                 overlay_dir: str | None, generation: dict[str, Any]) -> None:
        self.pipe = pipe
        self.template = pipe.engine.template
        self._results = results
        self._skips = skips
        self._strict = strict
        self._batch_size = batch_size
        self._overlay_dir = overlay_dir
        self._generation = generation
        # Why the run ends early: the first error, with --strict.
        self._error: Exception | None = None
        self.counts: Counter[str] = Counter()
        self.ids_from: Counter[str] = Counter()
        self._first_other_prompt = ''

    def run(self, said: Iterator[Said], count: int) -> None:
        """Goes through the rows.

        Raises:
            RowError: Of the first row that cannot be answered, with `--strict`, after all before it are written.
            ConnectionError: The server has gone, as above.
        """
        pending: list[_Pending] = []
        with tqdm(total=count, desc='Answering', unit=' rows') as bar:
            for question, text in said:
                ids: list[int] = []
                try:
                    if isinstance(text, Exception):
                        raise text
                    if text is not None:
                        ids = self._ids(question, text)
                except (ValueError, OSError) as e:
                    self._refuse(e)
                    if self._error is not None:
                        break
                    bar.update()
                    continue
                pending.append((question, text, ids))
                if self._is_full(pending):
                    bar.update(self._finish(pending))
                    if self._error is not None:
                        break
            bar.update(self._finish(pending))
        if self._error is not None:
            raise self._error

    def _refuse(self, error: Exception) -> None:
        if self._error is None and (self._strict or not isinstance(error, RowError)):
            self._error = error
        elif not self._strict:
            self._skips.add(error)

    def _ids(self, question: Question, said: ServedText) -> list[int]:
        ids, origin = answer_ids(self.template, said.text, said.token_ids, question.name)
        self.ids_from[origin] += 1
        return ids

    def _is_full(self, pending: list[_Pending]) -> bool:
        size = self._batch_size
        if pending[-1][1] is None:
            return len(pending) >= size
        # Answers without [SEG] cost nothing here: they wait until a batch of others is full.
        waiting = sum(self.template.seg_token_id in ids for _, _, ids in pending)
        return waiting >= size or len(pending) >= _MOST_PENDING * size

    def _finish(self, pending: list[_Pending]) -> int:
        """Draws and writes what is pending, and empties it; the number of rows."""
        count, batch = len(pending), list(pending)
        pending.clear()
        lines: list[dict[str, Any]] = []
        while batch:
            try:
                lines = self._drawn(batch)
                break
            except RowError as e:
                rest = [one for one in batch if one[0].name != e.row]
                if len(rest) == len(batch):
                    raise
                self._refuse(e)
                # In order: with --strict, nothing is written behind the row that ends the run.
                batch = batch[:next(i for i, one in enumerate(batch) if one[0].name == e.row)] if self._error else rest
        self._results.write(lines)
        return count

    def _drawn(self, batch: list[_Pending]) -> list[dict[str, Any]]:
        rows = [question.row for question, _, _ in batch]
        found: list[tuple[str, list[MaskResult], str | None]]
        if batch[0][1] is None:
            answers = self.pipe.batch(rows, **self._generation)
            found = [(answer.text, list(answer.masks), answer.finish_reason) for answer in answers]
        else:
            found = []
            drawn = draw_answers(self.pipe.engine, rows, [ids for _, _, ids in batch])
            for (question, said, _), answer in zip(batch, drawn):
                assert said is not None
                self._compare_prompts(question, said, answer.prompt_ids)
                found.append((answer.text, answer.masks, said.finish_reason))
        lines = []
        for (question, _, _), (text, masks, reason) in zip(batch, found):
            self.counts.update(answers=1, masks=len(masks), with_masks=bool(masks))
            columns: dict[str, Any] = {'response': text, 'masks': [mask.to_dict() for mask in masks]}
            if self._overlay_dir is not None:
                columns['overlays'] = _save_overlays(self._overlay_dir, question, masks)
            lines.append(question.line(**columns, finish_reason=reason))
        return lines

    def _compare_prompts(self, question: Question, said: ServedText, ours: list[int] | None) -> None:
        if ours is None or said.prompt_ids is None:
            return
        same = same_prompt(self.template, ours, said.prompt_ids)
        self.counts['same_prompts' if same else 'other_prompts'] += 1
        if not same and not self._first_other_prompt:
            self._first_other_prompt = f'{question.name}: {len(said.prompt_ids)} tokens there, {len(ours)} here'

    def summary(self) -> str:
        """What was done, and with whose tokens."""
        counts = self.counts
        lines = [f'{counts["answers"]} answers, {counts["with_masks"]} of them with masks: {counts["masks"]} masks']
        if self.ids_from:
            origins = ', '.join(f'{count} {origin}' for origin, count in self.ids_from.most_common())
            lines.append(f'token ids of the answers: {origins}')
        if counts['other_prompts']:
            asked = counts['same_prompts'] + counts['other_prompts']
            lines.append(f'WARNING: {counts["other_prompts"]} of {asked} prompts of the server are not those of this '
                         f'model ({self._first_other_prompt}). Its chat template, tokenizer or limits of pixels '
                         'differ; the masks are drawn after the prompts of this model.')
        elif counts['same_prompts']:
            lines.append(f'prompts: {counts["same_prompts"]} compared, all as here')
        return '\n'.join(lines)


def _save_overlays(folder: str, question: Question, masks: list[MaskResult]) -> list[dict[str, Any]]:
    if not masks:
        return []
    inputs = StdTemplateInputs.from_dict(question.row)
    move_image_tags(inputs)
    images = [to_rgb(open_image(image)) for image in inputs.images]
    return save_overlays(folder, question.name, images, masks)
