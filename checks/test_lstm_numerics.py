"""Points where arithmetic is hard."""

from lstm_ref.pytest_plugin import hold

CHAPTER = "numerics"


def test_numerics(lstm_result):
    hold(lstm_result)
