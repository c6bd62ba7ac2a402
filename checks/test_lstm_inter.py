"""The gradient of every intermediate at every time step."""

from lstm_ref.pytest_plugin import hold

CHAPTER = "inter"


def test_inter(lstm_result):
    hold(lstm_result)
