"""The page of `swift app` and `citrusv app`: images in, questions, streamed answers, coloured masks, and files out.

ms-swift's own page shows the text of an answer alone. This one is Gradio's too; what Gradio has no element for (masks
on pictures, their legend, their files) is in `app_view`, `app_files` and `app_style`. Each visitor has a `Session` of
his own. Nothing of the page comes from elsewhere than its own server, and nothing is told to anyone.
"""
import asyncio
import html
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from swift.utils import get_logger
from typing import Any

from ..errors import ROW_ERRORS
from ..files.rules import file_rules
from ..inference.request_queue import is_own_doing
from ..rows.target_image import IMAGE_TAG
from .answers import answer
from .session import Session, Turn
from .texts import LANGUAGES, Words
from .uploads import Cut, UploadError
from .view import chat, legend_html, save_layers, view_html

# Before Gradio is imported.
os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
import gradio as gr  # noqa: E402

from .layout import Layout  # noqa: E402

logger = get_logger()

# Seconds: how often files that nobody needs any more are looked for, and how old they are then.
_CLEANING = (3600, 86400)
# Seconds between two pieces of an answer: browsers take longer to show one than models to write it.
_PAUSE = 0.1
# Whose events are handled at once; others wait for their turn.
_MAX_VISITORS = 32
_SKIP = gr.skip()


class Page:
    """The page and what happens on it.

    Args:
        pipe: A `CitrusVPipeline`.
        folder: Where the files of sessions go.
        name: Of the model.
        language: 'en' or 'zh', of the page; questions may be in any.
        examples: Questions to begin with.
        system: A system prompt.
        generation: Fields of ms-swift's `RequestConfig`, from which users may choose others.

    Attributes:
        sessions: By token.
        blocks: Gradio's.
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
        self.words: Words = LANGUAGES[language]
        self.system = system
        self.generation = {'temperature': 0., 'max_tokens': 512, 'seed': None, **(generation or {})}
        self.sessions: dict[str, Session] = {}
        with gr.Blocks(title='Citrus-V', analytics_enabled=False, delete_cache=_CLEANING) as self.blocks:
            state = gr.State(Session(), delete_callback=self.forget)
            self._listen(Layout(self.words, name, examples, self.generation), state)
        self.blocks.queue(default_concurrency_limit=_MAX_VISITORS)

    def _listen(self, on: Layout, state: gr.State) -> None:
        # Not for programs: `swift deploy` is.
        quiet: dict[str, Any] = {'api_visibility': 'private'}
        shown = [on.choice, on.view, on.legend]
        cutter = [on.slice, on.plane, on.index, on.volume, on.window]
        talk = [on.chat, on.question, on.files, on.problem, *shown, on.ask, on.stop]
        gr.on([on.files.upload, on.files.delete, on.files.clear], self._change_files, [state, on.files],
              [state, on.files, on.problem, *shown, *cutter], **quiet)
        gr.on([on.plane.input, on.index.release, on.volume.release, on.window.input], self._change_slice,
              [state, on.plane, on.index, on.volume, on.window], [on.problem, *shown, *cutter], **quiet)
        on.leave_out.click(self._leave_out, state, shown, **quiet)
        begun = gr.on([on.ask.click, on.question.submit], self._begin, [state, on.question], talk, **quiet)
        answered = begun.then(
            self._answer, [state, on.temperature, on.max_tokens, on.seed],
            talk,
            concurrency_limit=_MAX_VISITORS,
            show_progress='hidden',
            **quiet)
        # Also after an error of ours.
        answered.then(self._buttons, state, [on.ask, on.stop], **quiet)
        on.stop.click(self._stop, state, None, queue=False, **quiet)
        gr.on([on.new.click, on.chat.clear], self._renew, state,
              [state, on.chat, on.question, on.files, on.problem, *shown, *cutter], **quiet)
        on.choice.input(self._choose, [state, on.choice], [on.view, on.legend], **quiet)
        on.opacity.change(None, on.opacity, None, js='value => { cvOpacity(value); }', **quiet)

    # ---- sessions

    def _opened(self, session: Session) -> Session:
        if not session.token:
            session.open_in(self.folder)
            self.sessions[session.token] = session
        return session

    def forget(self, session: Session) -> None:
        """Deletes all that a visitor has left."""
        session.stopped = True
        self.sessions.pop(session.token, None)
        session.remove()

    def _renew(self, session: Session) -> tuple:
        self.forget(session)
        session = Session()
        return session, [], '', [], '', *self._current(session), *self._cutter(session)

    # ---- what is shown

    def _shown(self, session: Session, turn: Turn | None) -> tuple:
        """The choice of answers, the pictures and the legend."""
        done = [(f'{i + 1}: {other.question[:60]}', i) for i, other in enumerate(session.turns)
                if other.state == 'done']  # yapf: disable
        value = session.turns.index(turn) if turn is not None and turn.state == 'done' else None
        choice = gr.Dropdown(done, value=value, visible=len(done) > (value is not None))
        return choice, view_html(session, turn, self.words), legend_html(session, turn, self.words)

    def _current(self, session: Session) -> tuple:
        """What there is to ask about; else the last answer."""
        return self._shown(session, session.turns[-1] if session.turns and not session.pending else None)

    def _choose(self, session: Session, index: int | None) -> tuple:
        return self._shown(session, None if index is None else session.turns[index])[1:]

    @staticmethod
    def _told(problems: Sequence[str]) -> str:
        text = '\n'.join(problems)
        return f'<p class="cv-problem" role="alert">{html.escape(text)}</p>' if text else ''

    # ---- pictures

    def _change_files(self, session: Session, paths: list[str] | None) -> tuple:
        problems = self._opened(session).set_files([str(path) for path in paths or []], file_rules())
        # Gradio forgets, with `forget`, only what a function of its own has given back.
        return session, [*session.files], self._told(problems), *self._current(session), *self._cutter(session)

    def _change_slice(self, session: Session, plane: str | None, index: float, volume: float, window: str) -> tuple:
        problems = []
        last = session.last_cut()
        if session.volume is not None and last is not None:
            count = session.volume.counts[plane or None]
            # Another plane has slices of its own.
            place = min(int(index), count - 1) if not plane or plane == last.plane else count // 2
            known = None if window == self.words.run_window else window or None
            try:
                session.set_cut(Cut(place, plane or None, min(int(volume), session.volume.num_volumes - 1), known))
            except UploadError as e:
                problems = [str(e)]
        return self._told(problems), *self._current(session), *self._cutter(session)

    def _leave_out(self, session: Session) -> tuple:
        session.leave_out()
        return self._current(session)

    def _cutter(self, session: Session) -> tuple:
        """The controls of slices, for the volume that is chosen."""
        volume, cut = session.volume, session.last_cut()
        if volume is None or cut is None:
            return gr.Group(visible=False), *[_SKIP] * 4
        planes = [plane for plane in volume.counts if plane is not None]
        count = volume.counts[cut.plane]
        return (gr.Group(visible=count > 1 or volume.has_window),
                gr.Radio(planes, value=cut.plane, visible=bool(planes)),
                gr.Slider(maximum=max(count - 1, 1), value=cut.index, visible=count > 1),
                gr.Slider(maximum=max(volume.num_volumes - 1, 1), value=cut.volume, visible=volume.num_volumes > 1),
                gr.Dropdown(value=cut.window or self.words.run_window, visible=volume.has_window))  # yapf: disable

    # ---- questions

    def _begin(self, session: Session, text: str) -> tuple:
        problem = self._refusal(session, text)
        if problem is not None:
            return _SKIP, _SKIP, _SKIP, self._told([problem]), _SKIP, _SKIP, _SKIP, *self._buttons(session)
        session.ask(text.strip())
        shown = self._shown(session, session.turns[-1])
        return chat(session, self.words), '', [], '', *shown, *self._buttons(session)

    def _refusal(self, session: Session, text: str) -> str | None:
        if session.answering:
            return self.words.busy
        if not text.strip():
            return self.words.no_question
        if not session.pending and not session.turns:
            return self.words.no_picture
        tags = text.count(IMAGE_TAG)
        if tags and tags != len(session.pending):
            return self.words.tags.format(tags, len(session.pending))
        return None

    async def _answer(self, session: Session, temperature: float, max_tokens: float,
                      seed: float | None) -> AsyncIterator[tuple]:
        if not session.answering:
            yield tuple([_SKIP] * 9)
            return
        turn, done, problem, told = session.turns[-1], False, '', 0.
        chosen = {
            'temperature': temperature,
            'max_tokens': int(max_tokens),
            'seed': None if seed is None else int(seed)
        }
        try:
            request = await asyncio.to_thread(session.request, self.system)
            pieces = answer(self.engine, *request, {**self.generation, **chosen}, lambda: session.stopped)
            async with aclosing(pieces):
                async for text, masks in pieces:
                    turn.answer += text
                    if masks is not None:
                        turn.masks, done = masks, True
                    elif time.monotonic() - told > _PAUSE:
                        told = time.monotonic()
                        yield chat(session, self.words), *[_SKIP] * 8
        except ROW_ERRORS as e:
            problem = str(e) or type(e).__name__
            if not is_own_doing(e):
                logger.exception('A question could not be answered.')
        finally:
            # Also where the visitor has gone, which ends this generator.
            turn.state = 'done' if done else 'stopped'
        yield await asyncio.to_thread(self._ended, session, turn, problem)

    def _ended(self, session: Session, turn: Turn, problem: str) -> tuple:
        if session.token not in self.sessions:
            # A conversation that has been closed meanwhile.
            return tuple([_SKIP] * 9)
        question: Any = _SKIP
        files: Any = _SKIP
        if turn.state == 'done':
            save_layers(session, turn)
        elif problem or not turn.answer:
            question = session.take_back()
            files = [*session.files]
        shown = self._shown(session, turn) if turn in session.turns else self._current(session)
        return (chat(session, self.words), question, files, self._told([problem]), *shown, *self._buttons(session))

    def _buttons(self, session: Session) -> tuple:
        return gr.Button(visible=not session.answering), gr.Button(visible=session.answering)

    @staticmethod
    def _stop(session: Session) -> None:
        session.stopped = True
