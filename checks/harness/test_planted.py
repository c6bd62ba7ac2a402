"""Faults planted by hand in the reference: each fails under quick, by the check that says so."""

import pytest

from lstm_ref import verify

from .planted import FAULTS


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught_by_the_check_that_says_so(name):
    candidate, due = FAULTS[name]
    verdict = verify(candidate)
    failed = {r.id for r in verdict.failures()}
    assert verdict.outcome == "fail"
    assert failed & set(due.split("|")), sorted(failed)
    assert verdict.seconds < 10
