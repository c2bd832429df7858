"""What the tests of the trainings share."""

import kills
import pytest

from cscm77.training import run


@pytest.fixture(scope="module", autouse=True)
def saves_after_every_step_and_no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAVE_AFTER", 0)
        kills.draw_nothing(patch.setattr)
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"
