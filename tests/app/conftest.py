"""A session of the page with a folder of its own."""
import pytest

from swift_citrusv.app.session import Session


@pytest.fixture
def session(tmp_path) -> Session:
    session = Session()
    session.create_folder(str(tmp_path))
    return session
