"""Every gradient, against autodiff and against differences."""

from lstm_ref.pytest_plugin import hold

CHAPTER = "grad"


def test_grad(lstm_result):
    hold(lstm_result)
