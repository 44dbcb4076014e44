"""Files and images of a session of the page."""
import os
from support.requests_with_images import picture

from swift_citrusv.files.rules import FileRules


def test_files_are_added_and_removed(session, tmp_path):
    paths = [str(tmp_path / f'{i}.png') for i in range(3)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    session.set_files(paths, FileRules())
    session.set_files([paths[0], paths[2]], FileRules())
    assert [one.title for one in session.pending] == ['0.png', '2.png']
    session.ask('What?')
    session.set_files([paths[1]], FileRules())
    assert session.undo_question() == 'What?' and [one.title for one in session.pending] == ['0.png', '2.png', '1.png']
    assert list(session.files) == [paths[0], paths[2], paths[1]]
    folder = session.folder
    session.remove()
    assert not os.path.exists(folder)
