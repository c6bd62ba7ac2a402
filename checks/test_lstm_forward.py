"""The forward pass: h, c and the gates are the textbook's."""

from lstm_ref.pytest_plugin import hold

CHAPTER = "forward"


def test_forward(lstm_result):
    hold(lstm_result)
