"""A visitor of the page in a headless browser, and masks of answers, for the tests of the page."""
import numpy as np
import pytest
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from swift_citrusv.inference.results import MaskResult, box_of
from swift_citrusv.rows.masks import encode_rle

DESKTOP, PHONE = {'width': 1280, 'height': 800}, {'width': 390, 'height': 844}
BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
# Tokens of an answer.
MAX_TOKENS = 24
in_browser = pytest.mark.skipif(BROWSER is None, reason='no browser here: apt-get install chromium')


@dataclass
class Served:
    """The page of `swift app`: its URL, and the pipeline behind it."""
    url: str
    pipe: Any


def mask_result(array: np.ndarray, **values: Any) -> MaskResult:
    rle = encode_rle(array)
    made: dict[str, Any] = {
        'rle': rle, 'bbox': box_of(rle), 'area': int(array.sum()), 'score': 0.9, 'iou_score': 0., 'object_score': 0.,
        'scores_trained': False, 'phrase': 'cell', 'image_index': 0, 'image_rule': 'only', 'offset': 0
    }  # yapf: disable
    return MaskResult(**{**made, **values})


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        # Chromium refuses a sandbox as root, as CI runs it.
        browser = playwright.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
        yield browser
        browser.close()


class Visitor:
    """One browser session on the page, which records requests and JavaScript errors."""

    def __init__(self, browser: Any, url: str, viewport: dict[str, int]) -> None:
        self.context = browser.new_context(viewport=viewport)
        self.page = self.context.new_page()
        self.page.set_default_timeout(120000)
        self.requested: list[str] = []
        self.errors: list[str] = []
        self.page.on('request', lambda request: self.requested.append(request.url))
        self.page.on('pageerror', lambda error: self.errors.append(str(error)))
        # Block all other hosts, also on machines with network access.
        self.context.route(lambda found: not found.startswith((url, 'blob:', 'data:')), lambda route: route.abort())
        self.response = self.page.goto(url)
        self.page.wait_for_selector('#cv-question textarea')

    def upload(self, *files: Any) -> None:
        count = self.page.locator('.cv-base').count() if self.page.locator('.cv-fill').count() == 0 else 0
        self.page.set_input_files('#cv-files input[type=file]', [str(file) for file in files])
        self.page.wait_for_function('count => document.querySelectorAll(".cv-base").length > count '
                                    '&& !document.querySelector(".cv-fill")', arg=count)  # yapf: disable

    def ask(self, question: str) -> None:
        """Asks a question and waits for the whole answer."""
        bot = self.page.locator('#cv-chat [data-testid=bot]')
        count = bot.count()
        self.page.fill('#cv-question textarea', question)
        self.page.click('#cv-ask')
        self.page.wait_for_function('n => document.querySelectorAll("#cv-chat [data-testid=bot]").length > n '
                                    '&& !document.querySelector("#cv-chat .cv-caret")', arg=count)  # yapf: disable
        self.page.wait_for_selector('#cv-ask', state='visible')

    def choose(self, element: str, value: str) -> None:
        """Types a value into a slider or a list."""
        field = self.page.locator(f'{element} input:not([type=range])')
        field.fill(value)
        field.press('Enter')
        field.blur()

    def save(self, kind: str) -> tuple[str, bytes]:
        with self.page.expect_download() as waiting:
            self.page.click(f'a.cv-download[data-kind={kind}]')
        with open(waiting.value.path(), 'rb') as file:
            return waiting.value.suggested_filename, file.read()

    def problem(self, start: str) -> str:
        """Waits for an error message that has this text."""
        message = self.page.get_by_role('alert').filter(has_text=start)
        message.wait_for()
        return message.inner_text()

    def chips(self) -> list[tuple[str, str]]:
        """Text and colour of the chips of the last answer."""
        return self.page.locator('#cv-chat [data-testid=bot]').last.locator('mark').evaluate_all(
            'marks => marks.map(mark => [mark.textContent, getComputedStyle(mark).backgroundColor])')
