"""Layout of the page: Gradio's elements, containers for our HTML, and the CSS and JavaScript files."""
import gradio as gr
import html
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from ..files.windowing import AUTO, PERCENTILE, WINDOW_PRESETS
from .session import Session
from .texts import PageTexts
from .view import OPACITY, view_html


def page_css() -> str:
    return _read_page_file('page.css')


def page_head() -> str:
    """Returns the HTML that Gradio adds to the head of the page."""
    return f'<meta name="referrer" content="no-referrer">\n<script>\n{_read_page_file("page.js")}</script>\n'


def _read_page_file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding='utf-8')


class Layout:
    """Creates the elements, inside a `gr.Blocks` context.

    Args:
        texts: The texts in the language of the page.
        name: Name of the model.
        examples: Example questions.
        generation: Initial settings: temperature, max_tokens, seed.

    Attributes:
        files: Uploads that no question has been asked about yet.
        slice: The group of plane, window, index (slice or frame), volume and remove_slice.
        chat, question, ask, stop, problem: The conversation, and the last error message.
        temperature, max_tokens, seed: Generation settings.
        new: Starts a new conversation.
        choice, view, opacity, legend: Images and masks of an answer.
    """

    def __init__(self, texts: PageTexts, name: str, examples: Sequence[str], generation: Mapping[str, Any]) -> None:
        self.texts = texts
        gr.HTML(f'<div class="cv-head"><h1>{html.escape(texts.title)}</h1><span class="cv-model">{html.escape(name)}'
                f'</span></div><p class="cv-caution">{html.escape(texts.caution)}</p>')
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.files = gr.File(label=texts.files, file_count='multiple', height=110, elem_id='cv-files')
                self._slices()
                self._conversation()
                if examples:
                    samples = [[example] for example in examples]
                    gr.Examples(samples, [self.question], label=texts.examples, elem_id='cv-examples')
                self._settings(generation)
                self.new = gr.Button(texts.new, size='sm', elem_id='cv-new')
            with gr.Column(scale=6, min_width=320):
                self.choice = gr.Dropdown([], label=texts.shown_answer, visible=False, elem_id='cv-choice')
                self.view = gr.HTML(view_html(Session(), None, texts))
                self.opacity = gr.Slider(0, 1, OPACITY, step=0.05, label=texts.opacity, elem_id='cv-opacity')
                self.legend = gr.HTML()

    def _slices(self) -> None:
        texts = self.texts
        windows = [texts.run_window, AUTO, PERCENTILE, *WINDOW_PRESETS]
        with gr.Group(visible=False, elem_id='cv-slice') as self.slice:
            with gr.Row():
                self.plane = gr.Radio(label=texts.plane, scale=3, min_width=220, elem_id='cv-plane')
                self.window = gr.Dropdown(
                    windows,
                    label=texts.window,
                    info=texts.window_info,
                    allow_custom_value=True,
                    scale=2,
                    min_width=160,
                    elem_id='cv-window')
            self.index = gr.Slider(0, 1, step=1, label=texts.index, elem_id='cv-index')
            self.volume = gr.Slider(0, 1, step=1, label=texts.volume, elem_id='cv-volume')
            self.remove_slice = gr.Button(texts.remove_slice, size='sm', elem_id='cv-remove-slice')

    def _conversation(self) -> None:
        texts = self.texts
        self.chat = gr.Chatbot(label=texts.chat, height=300, buttons=[], feedback_options=None, elem_id='cv-chat')
        with gr.Row(elem_id='cv-row'):
            self.question = gr.Textbox(
                label=texts.question,
                placeholder=texts.placeholder,
                container=False,
                lines=1,
                max_lines=6,
                scale=5,
                min_width=180,
                elem_id='cv-question')
            self.ask = gr.Button(texts.ask, variant='primary', scale=1, min_width=80, elem_id='cv-ask')
            self.stop = gr.Button(texts.stop, variant='stop', scale=1, min_width=80, visible=False, elem_id='cv-stop')
        self.problem = gr.HTML(elem_id='cv-problem')

    def _settings(self, generation: Mapping[str, Any]) -> None:
        texts, max_tokens = self.texts, generation['max_tokens']
        with gr.Accordion(texts.settings, open=False):
            self.temperature = gr.Slider(
                0, 2, generation['temperature'], step=0.05, label=texts.temperature, info=texts.temperature_info)
            self.max_tokens = gr.Slider(
                1, max(4096, max_tokens), max_tokens, step=1, label=texts.max_tokens, elem_id='cv-max-tokens')
            self.seed = gr.Number(generation['seed'], precision=0, label=texts.seed, info=texts.seed_info)
