"""PIL's limit on pixels, changed by several threads."""
import os
import pytest
import threading
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from support.faults import Faults
from typing import Any

from swift_citrusv.files.images import open_image, to_rgb
from swift_citrusv.files.pil_limit import own_pil_limit, pil_limit


def test_two_threads_that_overlap():
    """The order of events that lost the limit: A enters, B enters, A leaves, B leaves."""
    before = Image.MAX_IMAGE_PIXELS
    entered, leave = threading.Event(), threading.Event()
    seen: list[Any] = []

    def first() -> None:
        with pil_limit(None):
            entered.set()
            leave.wait(10)

    def second() -> None:
        entered.wait(10)
        seen.append('waits')
        with pil_limit(5):
            seen.append(Image.MAX_IMAGE_PIXELS)

    threads = [threading.Thread(target=job) for job in (first, second)]
    for thread in threads:
        thread.start()
    entered.wait(10)
    while not seen:
        pass
    # B cannot enter while A is inside.
    assert threads[1].is_alive() and seen == ['waits'] and Image.MAX_IMAGE_PIXELS is None
    leave.set()
    for thread in threads:
        thread.join(10)
    assert seen == ['waits', 5] and Image.MAX_IMAGE_PIXELS == before == own_pil_limit()


def test_many_threads_that_open_and_decode(tmp_path, monkeypatch):
    paths = [Faults(tmp_path).image(f'a.{suffix}', Image.new('RGB', (40, 30))) for suffix in ('png', 'gif', 'tga')]
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100_000)
    limits = set()

    def job(number: int) -> tuple[int, int]:
        with open_image(paths[number % 3]) as image:
            size = to_rgb(image).size
        limits.add(own_pil_limit())
        return size

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(job, range(400))) == {(40, 30)}
    assert limits == {100_000} and Image.MAX_IMAGE_PIXELS == 100_000


def test_errors_and_nesting_restore_the_limit(monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 7)
    with pytest.raises(KeyError), pil_limit(None):
        with pil_limit(3):
            assert Image.MAX_IMAGE_PIXELS == 3
        assert Image.MAX_IMAGE_PIXELS is None
        raise KeyError
    assert Image.MAX_IMAGE_PIXELS == 7


@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_a_process_forked_meanwhile(monkeypatch):
    """It has the limit and a free lock."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 7)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with pil_limit(None):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    # The fork waits until the thread has left.
    threading.Timer(.2, leave.set).start()
    child = os.fork()
    if child == 0:
        os._exit(0 if own_pil_limit() == 7 and not leave.wait(0) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    thread.join(10)
