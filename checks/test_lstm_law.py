"""Relations between gradients that need no truth."""

from lstm_ref.pytest_plugin import hold

CHAPTER = "law"


def test_law(lstm_result):
    hold(lstm_result)
