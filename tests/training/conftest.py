"""What the tests of the trainings share."""

import pytest

import cscm77_helper as helper
from cscm77.training import run


@pytest.fixture(scope="module", autouse=True)
def saves_after_every_step_and_no_pictures():
    """A GAN draws none: they take longer than its steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAVE_AFTER", 0)
        for name in ("show_and_close", "save_picture", "draw_digits"):
            patch.setattr(helper, name, lambda *_, **__: None)
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"
