"""Draws the masks of the answers of `citrusv segment` in batches, and summarises the run."""
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
from ..rows.skips import SkipCounter
from .segment_rows import ResultFile, RowRequest

# A row with its text, an error, or None if this model is to write the text.
RowWithText = tuple[RowRequest, ServedText | Exception | None]
# A row, its text, and the token ids of the text.
_Pending = tuple[RowRequest, ServedText | None, list[int]]
# Pending answers at most, in batches; answers without masks wait until a batch of those with masks is full.
_MAX_PENDING_BATCHES = 16


class RowSegmenter:
    """Draws the masks of answers in batches, and writes the results in row order.

    Args:
        pipe: The model.
        results: The output file.
        skips: Counts skipped rows if `strict` is false.
        strict: Whether the first row that cannot be answered ends the run.
        batch_size: Answers per batch.
        overlay_dir: Output folder for overlays; None: no overlays.
        generation: Fields of ms-swift's `RequestConfig`, for rows whose text this model writes.
    """

    def __init__(self, pipe: CitrusVPipeline, results: ResultFile, skips: SkipCounter, *, strict: bool, batch_size: int,
                 overlay_dir: str | None, generation: dict[str, Any]) -> None:
        self.pipe = pipe
        self.template = pipe.engine.template
        self._results = results
        self._skips = skips
        self._strict = strict
        self._batch_size = batch_size
        self._overlay_dir = overlay_dir
        self._generation = generation
        # With --strict, the first error, which ends the run.
        self._error: Exception | None = None
        self.counts: Counter[str] = Counter()
        self.ids_from: Counter[str] = Counter()
        self._first_other_prompt = ''

    def run(self, rows: Iterator[RowWithText], count: int) -> None:
        """Answers the rows and writes the results.

        Raises:
            RowError: With `--strict`, the first row that cannot be answered; the rows before it are written.
            ConnectionError: The server does not respond; the rows before are written.
        """
        pending: list[_Pending] = []
        with tqdm(total=count, desc='Answering', unit=' rows') as bar:
            for request, text in rows:
                ids: list[int] = []
                try:
                    if isinstance(text, Exception):
                        raise text
                    if text is not None:
                        ids = self._token_ids(request, text)
                except (ValueError, OSError) as e:
                    self._record_error(e)
                    if self._error is not None:
                        break
                    bar.update()
                    continue
                pending.append((request, text, ids))
                if self._is_full(pending):
                    bar.update(self._flush(pending))
                    if self._error is not None:
                        break
            bar.update(self._flush(pending))
        if self._error is not None:
            raise self._error

    def _record_error(self, error: Exception) -> None:
        if self._error is None and (self._strict or not isinstance(error, RowError)):
            self._error = error
        elif not self._strict:
            self._skips.add(error)

    def _token_ids(self, request: RowRequest, served: ServedText) -> list[int]:
        ids, origin = answer_ids(self.template, served.text, served.token_ids, request.name)
        self.ids_from[origin] += 1
        return ids

    def _is_full(self, pending: list[_Pending]) -> bool:
        size = self._batch_size
        if pending[-1][1] is None:
            return len(pending) >= size
        # Answers without [SEG] need no forward pass. They wait until a batch of the others is full.
        waiting = sum(self.template.seg_token_id in ids for _, _, ids in pending)
        return waiting >= size or len(pending) >= _MAX_PENDING_BATCHES * size

    def _flush(self, pending: list[_Pending]) -> int:
        """Draws and writes the pending rows, empties the list, and returns how many there were."""
        count, batch = len(pending), list(pending)
        pending.clear()
        lines: list[dict[str, Any]] = []
        while batch:
            try:
                lines = self._result_lines(batch)
                break
            except RowError as e:
                rest = [one for one in batch if one[0].name != e.row]
                if len(rest) == len(batch):
                    raise
                self._record_error(e)
                # With --strict, no row after the one that ends the run is written.
                batch = batch[:next(i for i, one in enumerate(batch) if one[0].name == e.row)] if self._error else rest
        self._results.write(lines)
        return count

    def _result_lines(self, batch: list[_Pending]) -> list[dict[str, Any]]:
        rows = [request.row for request, _, _ in batch]
        found: list[tuple[str, list[MaskResult], str | None]]
        if batch[0][1] is None:
            answers = self.pipe.batch(rows, **self._generation)
            found = [(answer.text, list(answer.masks), answer.finish_reason) for answer in answers]
        else:
            found = []
            drawn = draw_answers(self.pipe.engine, rows, [ids for _, _, ids in batch])
            for (request, served, _), answer in zip(batch, drawn):
                assert served is not None
                self._compare_prompts(request, served, answer.prompt_ids)
                found.append((answer.text, answer.masks, served.finish_reason))
        lines = []
        for (request, _, _), (text, masks, reason) in zip(batch, found):
            self.counts.update(answers=1, masks=len(masks), with_masks=bool(masks))
            columns: dict[str, Any] = {'response': text, 'masks': [mask.to_dict() for mask in masks]}
            if self._overlay_dir is not None:
                columns['overlays'] = _save_overlays(self._overlay_dir, request, masks)
            lines.append(request.line(**columns, finish_reason=reason))
        return lines

    def _compare_prompts(self, request: RowRequest, served: ServedText, ours: list[int] | None) -> None:
        if ours is None or served.prompt_ids is None:
            return
        same = same_prompt(self.template, ours, served.prompt_ids)
        self.counts['same_prompts' if same else 'other_prompts'] += 1
        if not same and not self._first_other_prompt:
            self._first_other_prompt = f'{request.name}: {len(served.prompt_ids)} tokens there, {len(ours)} here'

    def summary(self) -> str:
        """Returns the counts of answers, masks, sources of token ids and compared prompts, as text."""
        counts = self.counts
        lines = [f'{counts["answers"]} answers, {counts["with_masks"]} of them with masks: {counts["masks"]} masks']
        if self.ids_from:
            origins = ', '.join(f'{count} {origin}' for origin, count in self.ids_from.most_common())
            lines.append(f'token ids of the answers: {origins}')
        if counts['other_prompts']:
            asked = counts['same_prompts'] + counts['other_prompts']
            lines.append(f'WARNING: {counts["other_prompts"]} of {asked} prompts of the server differ from those of '
                         f'this model ({self._first_other_prompt}), because its chat template, tokenizer or pixel '
                         'limits differ. The masks are drawn with the prompts of this model.')
        elif counts['same_prompts']:
            lines.append(f'prompts: {counts["same_prompts"]} compared, all equal')
        return '\n'.join(lines)


def _save_overlays(folder: str, request: RowRequest, masks: list[MaskResult]) -> list[dict[str, Any]]:
    if not masks:
        return []
    inputs = StdTemplateInputs.from_dict(request.row)
    move_image_tags(inputs)
    images = [to_rgb(open_image(image)) for image in inputs.images]
    return save_overlays(folder, request.name, images, masks)
