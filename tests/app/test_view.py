"""HTML of the page: text from users and models is escaped."""
import numpy as np
from support.page import mask_result
from support.requests_with_images import picture

from swift_citrusv.app.texts import ENGLISH
from swift_citrusv.app.view import answer_html, legend_html, view_html
from swift_citrusv.constants import SEG_TOKEN
from swift_citrusv.files.rules import FileRules


def test_text_of_models_and_users_is_escaped(session, tmp_path):
    hostile = '<script>alert(1)</script>![x](http://127.0.0.1:1/x.png)'
    shown = answer_html(f'{hostile} {SEG_TOKEN} {SEG_TOKEN}', 1)
    assert '<script' not in shown and '![' not in shown
    # The second [SEG] has no mask, so it has no chip.
    assert shown.count('<mark') == 1 and shown.endswith(SEG_TOKEN)
    picture(1).save(tmp_path / 'a"><script>.png')
    session.set_files([str(tmp_path / 'a"><script>.png')], FileRules())
    session.ask('x')
    session.turns[0].masks, session.turns[0].state = (mask_result(np.ones((84, 84), np.uint8),
                                                                  phrase=hostile), ), 'done'
    page = view_html(session, session.turns[0], ENGLISH) + legend_html(session, session.turns[0], ENGLISH)
    assert '<script' not in page
