"""What every call must give back."""

from lstm_ref.pytest_plugin import hold

CHAPTER = "contract"


def test_contract(lstm_result):
    hold(lstm_result)
