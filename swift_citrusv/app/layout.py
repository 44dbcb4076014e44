"""What stands on the page, and where: Gradio's elements, and places for ours."""
import gradio as gr
import html
from collections.abc import Mapping, Sequence
from typing import Any

from ..files.windowing import AUTO, PERCENTILE, PRESETS
from .session import Session
from .texts import Words
from .view import OPACITY, view_html


class Layout:
    """Makes the elements, inside of a `gr.Blocks`.

    Args:
        words: The language.
        name: Of the model.
        examples: Questions to begin with.
        generation: The settings that are shown first: temperature, max_tokens, seed.

    Attributes:
        files: What is uploaded and not yet asked about.
        slice: The group of plane, window, index (slice or frame), volume and leave_out.
        chat, question, ask, stop, problem: The conversation, and what went wrong last.
        temperature, max_tokens, seed: Of the generation.
        new: Begins another conversation.
        choice, view, opacity, legend: Pictures and masks of an answer.
    """

    def __init__(self, words: Words, name: str, examples: Sequence[str], generation: Mapping[str, Any]) -> None:
        self.words = words
        gr.HTML(f'<div class="cv-head"><h1>{html.escape(words.title)}</h1><span class="cv-model">{html.escape(name)}'
                f'</span></div><p class="cv-caution">{html.escape(words.caution)}</p>')
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                self.files = gr.File(label=words.files, file_count='multiple', height=110, elem_id='cv-files')
                self._slices()
                self._conversation()
                if examples:
                    samples = [[example] for example in examples]
                    gr.Examples(samples, [self.question], label=words.examples, elem_id='cv-examples')
                self._settings(generation)
                self.new = gr.Button(words.new, size='sm', elem_id='cv-new')
            with gr.Column(scale=6, min_width=320):
                self.choice = gr.Dropdown([], label=words.shown_answer, visible=False, elem_id='cv-choice')
                self.view = gr.HTML(view_html(Session(), None, words))
                self.opacity = gr.Slider(0, 1, OPACITY, step=0.05, label=words.opacity, elem_id='cv-opacity')
                self.legend = gr.HTML()

    def _slices(self) -> None:
        words = self.words
        windows = [words.run_window, AUTO, PERCENTILE, *PRESETS]
        with gr.Group(visible=False, elem_id='cv-slice') as self.slice:
            with gr.Row():
                self.plane = gr.Radio(label=words.plane, scale=3, min_width=220, elem_id='cv-plane')
                self.window = gr.Dropdown(
                    windows,
                    label=words.window,
                    info=words.window_info,
                    allow_custom_value=True,
                    scale=2,
                    min_width=160,
                    elem_id='cv-window')
            self.index = gr.Slider(0, 1, step=1, label=words.index, elem_id='cv-index')
            self.volume = gr.Slider(0, 1, step=1, label=words.volume, elem_id='cv-volume')
            self.leave_out = gr.Button(words.leave_out, size='sm', elem_id='cv-leave-out')

    def _conversation(self) -> None:
        words = self.words
        self.chat = gr.Chatbot(label=words.chat, height=300, buttons=[], feedback_options=None, elem_id='cv-chat')
        with gr.Row(elem_id='cv-row'):
            self.question = gr.Textbox(
                label=words.question,
                placeholder=words.placeholder,
                container=False,
                lines=1,
                max_lines=6,
                scale=5,
                min_width=180,
                elem_id='cv-question')
            self.ask = gr.Button(words.ask, variant='primary', scale=1, min_width=80, elem_id='cv-ask')
            self.stop = gr.Button(words.stop, variant='stop', scale=1, min_width=80, visible=False, elem_id='cv-stop')
        self.problem = gr.HTML(elem_id='cv-problem')

    def _settings(self, generation: Mapping[str, Any]) -> None:
        words, max_tokens = self.words, generation['max_tokens']
        with gr.Accordion(words.settings, open=False):
            self.temperature = gr.Slider(
                0, 2, generation['temperature'], step=0.05, label=words.temperature, info=words.temperature_info)
            self.max_tokens = gr.Slider(
                1, max(4096, max_tokens), max_tokens, step=1, label=words.max_tokens, elem_id='cv-max-tokens')
            self.seed = gr.Number(generation['seed'], precision=0, label=words.seed, info=words.seed_info)
