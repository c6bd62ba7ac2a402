"""Sizes where kernels have seams."""

from lstm_ref.pytest_plugin import hold

CHAPTER = "sizes"


def test_sizes(lstm_result):
    hold(lstm_result)
