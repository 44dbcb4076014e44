"""The page of `swift app` and `citrusv app`: upload images, ask, read streamed answers, view and save masks.

ms-swift's own page only shows the text of an answer. This Gradio page adds what Gradio has no element for: masks on
images and their legend (`view`), and downloads (`downloads`). Each visitor has a `Session`. The page loads nothing from
other hosts and sends nothing to them.
"""
import asyncio
import html
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from swift.utils import get_logger
from typing import Any

from ..constants import IMAGE_PLACEHOLDER
from ..errors import ROW_ERRORS
from ..files.rules import file_rules
from ..inference.request_queue import is_request_error
from .answers import stream_answer
from .session import Session, Turn
from .texts import LANGUAGES, PageTexts
from .uploads import UploadError, VolumeSlice
from .view import chatbot_messages, legend_html, save_layers, view_html

# Gradio reads it when it is imported.
os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
import gradio as gr  # noqa: E402

from .layout import Layout  # noqa: E402

logger = get_logger()

# Seconds between two clean-ups of Gradio's cache, and the age of the files that they delete.
_CACHE_CLEANUP = (3600, 86400)
# Seconds between two updates of an answer. Browsers are slower to show a token than models to write it.
_UPDATE_SECONDS = 0.1
# Visitors whose events are handled at the same time; the others wait.
_MAX_VISITORS = 32
_SKIP = gr.skip()


class Page:
    """The page and its event handlers.

    Args:
        pipe: A `CitrusVPipeline`.
        folder: Folder for the files of sessions.
        name: Name of the model.
        language: Language of the page, 'en' or 'zh'; questions may be in any language.
        examples: Example questions.
        system: System prompt.
        generation: Fields of ms-swift's `RequestConfig`; users may change temperature, max_tokens and seed.

    Attributes:
        sessions: Sessions by token.
        blocks: The `gr.Blocks` of the page.
    """

    def __init__(self,
                 pipe: Any,
                 folder: str,
                 *,
                 name: str,
                 language: str = 'en',
                 examples: Sequence[str] = (),
                 system: str | None = None,
                 generation: Mapping[str, Any] | None = None) -> None:
        self.engine = pipe.engine
        self.folder = folder
        self.texts: PageTexts = LANGUAGES[language]
        self.system = system
        self.generation = {'temperature': 0., 'max_tokens': 512, 'seed': None, **(generation or {})}
        self.sessions: dict[str, Session] = {}
        with gr.Blocks(title='Citrus-V', analytics_enabled=False, delete_cache=_CACHE_CLEANUP) as self.blocks:
            state = gr.State(Session(), delete_callback=self.close_session)
            self._connect(Layout(self.texts, name, examples, self.generation), state)
        self.blocks.queue(default_concurrency_limit=_MAX_VISITORS)

    def _connect(self, layout: Layout, state: gr.State) -> None:
        # No API: that is `swift deploy`. Only answers, which are streamed, pass through Gradio's queue. Its browser
        # client closes the event stream after the last queued event, and an event that starts in that moment waits for
        # ever (seen in 1 of 60 uploads right after an error message).
        queued: dict[str, Any] = {'api_visibility': 'private'}
        private: dict[str, Any] = {**queued, 'queue': False}
        shown = [layout.choice, layout.view, layout.legend]
        slice_controls = [layout.slice, layout.plane, layout.index, layout.volume, layout.window]
        conversation = [layout.chat, layout.question, layout.files, layout.problem, *shown, layout.ask, layout.stop]
        gr.on([layout.files.upload, layout.files.delete, layout.files.clear], self._change_files, [state, layout.files],
              [state, layout.files, layout.problem, *shown, *slice_controls], **private)
        chosen = [layout.plane, layout.index, layout.volume, layout.window]
        # Any change by the user: dragging, keys, typing. A change during an update is handled after it.
        gr.on([layout.plane.input, layout.index.input, layout.volume.input, layout.window.input],
              self._change_slice, [state, *chosen], [layout.problem, *shown, *slice_controls],
              trigger_mode='always_last', show_progress='hidden', **private)  # yapf: disable
        layout.remove_slice.click(self._remove_slice, state, shown, **private)
        # With the controls as they are: the question is about what they show, even if an update is on its way.
        started = gr.on([layout.ask.click, layout.question.submit], self._start_answer,
                        [state, layout.question, *chosen], conversation, **private)  # yapf: disable
        answered = started.then(
            self._answer, [state, layout.temperature, layout.max_tokens, layout.seed],
            conversation,
            concurrency_limit=_MAX_VISITORS,
            show_progress='hidden',
            **queued)
        # `then` also runs after an error.
        answered.then(self._buttons, state, [layout.ask, layout.stop], **private)
        layout.stop.click(self._stop, state, None, **private)
        gr.on([layout.new.click, layout.chat.clear], self._new_conversation, state,
              [state, layout.chat, layout.question, layout.files, layout.problem, *shown, *slice_controls], **private)
        layout.choice.input(self._choose, [state, layout.choice], [layout.view, layout.legend], **private)
        layout.opacity.change(None, layout.opacity, None, js='value => { cvOpacity(value); }', **private)

    # ---- sessions

    def _ensure_folder(self, session: Session) -> Session:
        if not session.token:
            session.create_folder(self.folder)
            self.sessions[session.token] = session
        return session

    def close_session(self, session: Session) -> None:
        """Deletes a session with its files."""
        session.stopped = True
        self.sessions.pop(session.token, None)
        session.remove()

    def _new_conversation(self, session: Session) -> tuple:
        self.close_session(session)
        session = Session()
        files = gr.File(value=[], label=self.texts.files)
        return session, [], '', files, '', *self._current_view(session), *self._slice_controls(session)

    # ---- images and masks

    def _answer_view(self, session: Session, turn: Turn | None) -> tuple:
        """Returns the list of answers, the images and the legend."""
        done = [(f'{i + 1}: {other.question[:60]}', i) for i, other in enumerate(session.turns)
                if other.state == 'done']  # yapf: disable
        value = session.turns.index(turn) if turn is not None and turn.state == 'done' else None
        choice = gr.Dropdown(done, value=value, visible=len(done) > (value is not None))
        return choice, view_html(session, turn, self.texts), legend_html(session, turn, self.texts)

    def _current_view(self, session: Session) -> tuple:
        """Returns the view of the pending images, or else of the last answer."""
        return self._answer_view(session, session.turns[-1] if session.turns and not session.pending else None)

    def _choose(self, session: Session, index: int | None) -> tuple:
        return self._answer_view(session, None if index is None else session.turns[index])[1:]

    @staticmethod
    def _problem_html(problems: Sequence[str]) -> str:
        text = '\n'.join(problems)
        return f'<p class="cv-problem" role="alert">{html.escape(text)}</p>' if text else ''

    # ---- uploads

    def _change_files(self, session: Session, paths: list[str] | None) -> tuple:
        problems = self._ensure_folder(session).set_files([str(path) for path in paths or []], file_rules())
        # Gradio calls `close_session` only for a session that an event handler has returned.
        shown = self._current_view(session)
        return session, [*session.files], self._problem_html(problems), *shown, *self._slice_controls(session)

    def _change_slice(self, session: Session, plane: str | None, index: float | None, volume: float | None,
                      window: str) -> tuple:
        before = session.last_slice()
        problem = self._select(session, plane, index, volume, window)
        after = session.last_slice()
        # Only a new plane moves other controls. Else they keep what the user has typed, here or since then.
        is_same = before is None or after is None or before.plane == after.plane
        controls = [_SKIP] * 5 if is_same else self._slice_controls(session)
        return self._problem_html([problem] if problem else []), *self._current_view(session), *controls

    def _select(self, session: Session, plane: str | None, index: float | None, volume: float | None,
                window: str) -> str | None:
        """Selects the slice that the controls show. Returns the problem with them, or None."""
        last = session.last_slice()
        if session.volume is None or last is None:
            return None
        plane = next((name for name in session.volume.counts if self._plane_text(name) == plane), None)
        count, volumes = session.volume.counts[plane], session.volume.num_volumes
        for value, most in ((index, count), (volume, volumes)):
            if value is None or not float(value).is_integer() or not 0 <= value < max(most, 2):
                return self.texts.out_of_range.format(value, most - 1)
        assert index is not None and volume is not None
        # On a change of plane, start at its middle slice.
        place = min(int(index), count - 1) if plane == last.plane else count // 2
        known = None if window == self.texts.run_window else window or None
        chosen = VolumeSlice(place, plane, min(int(volume), volumes - 1), known)
        if chosen != last:
            try:
                session.select_slice(chosen)
            except UploadError as e:
                return str(e)
        return None

    def _plane_text(self, plane: str | None) -> str:
        return self.texts.stored if plane is None else plane

    def _remove_slice(self, session: Session) -> tuple:
        session.remove_slice()
        return self._current_view(session)

    def _slice_controls(self, session: Session) -> tuple:
        """Returns the slice controls for the selected volume."""
        volume, selected = session.volume, session.last_slice()
        if volume is None or selected is None:
            return gr.Group(visible=False), *[_SKIP] * 4
        planes = [self._plane_text(plane) for plane in volume.counts] if len(volume.counts) > 1 else []
        count = volume.counts[selected.plane]
        num_volumes = volume.num_volumes
        return (gr.Group(visible=count > 1 or volume.has_window),
                gr.Radio(planes, value=self._plane_text(selected.plane), visible=bool(planes)),
                gr.Slider(maximum=max(count - 1, 1), value=selected.index, visible=count > 1),
                gr.Slider(maximum=max(num_volumes - 1, 1), value=selected.volume, visible=num_volumes > 1),
                gr.Dropdown(value=selected.window or self.texts.run_window, visible=volume.has_window))  # yapf: disable

    # ---- questions

    def _start_answer(self, session: Session, text: str, plane: str | None, index: float | None, volume: float | None,
                      window: str) -> tuple:
        problem = None if session.answering else self._select(session, plane, index, volume, window)
        problem = problem or self._question_problem(session, text)
        if problem is not None:
            return _SKIP, _SKIP, _SKIP, self._problem_html([problem]), _SKIP, _SKIP, _SKIP, *self._buttons(session)
        session.ask(text.strip())
        shown = self._answer_view(session, session.turns[-1])
        # The box is for more images; its label counts those of the conversation.
        files = gr.File(value=[], label=self.texts.asked_files.format(len(session.images)))
        return chatbot_messages(session, self.texts), '', files, '', *shown, *self._buttons(session)

    def _question_problem(self, session: Session, text: str) -> str | None:
        if session.answering:
            return self.texts.busy
        if not text.strip():
            return self.texts.no_question
        if not session.pending and not session.turns:
            return self.texts.no_image
        tags = text.count(IMAGE_PLACEHOLDER)
        if tags and tags != len(session.pending):
            return self.texts.tags.format(tags, len(session.pending))
        return None

    async def _answer(self, session: Session, temperature: float, max_tokens: float,
                      seed: float | None) -> AsyncIterator[tuple]:
        if not session.answering:
            yield tuple([_SKIP] * 9)
            return
        turn, done, problem, last_update = session.turns[-1], False, '', 0.
        chosen = {
            'temperature': temperature,
            'max_tokens': int(max_tokens),
            'seed': None if seed is None else int(seed)
        }
        try:
            request = await asyncio.to_thread(session.request, self.system)
            stream = stream_answer(self.engine, *request, {**self.generation, **chosen}, lambda: session.stopped)
            async with aclosing(stream):
                async for text, masks in stream:
                    turn.answer += text
                    if masks is not None:
                        turn.masks, done = masks, True
                    elif time.monotonic() - last_update > _UPDATE_SECONDS:
                        last_update = time.monotonic()
                        yield chatbot_messages(session, self.texts), *[_SKIP] * 8
        except ROW_ERRORS as e:
            problem = str(e) or type(e).__name__
            if not is_request_error(e):
                logger.exception('A question could not be answered.')
        finally:
            # Also if the visitor has left, which closes this generator.
            turn.state = 'done' if done else 'stopped'
        yield await asyncio.to_thread(self._finish_answer, session, turn, problem)

    def _finish_answer(self, session: Session, turn: Turn, problem: str) -> tuple:
        if session.token not in self.sessions:
            # The conversation has been closed in the meantime.
            return tuple([_SKIP] * 9)
        question: Any = _SKIP
        files: Any = _SKIP
        if turn.state == 'done':
            save_layers(session, turn)
        elif problem or not turn.answer:
            question = session.undo_question()
            files = [*session.files]
        shown = self._answer_view(session, turn) if turn in session.turns else self._current_view(session)
        return (chatbot_messages(session, self.texts), question, files, self._problem_html([problem]), *shown,
                *self._buttons(session))

    def _buttons(self, session: Session) -> tuple:
        return gr.Button(visible=not session.answering), gr.Button(visible=session.answering)

    @staticmethod
    def _stop(session: Session) -> None:
        session.stopped = True
