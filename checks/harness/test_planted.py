"""Faults planted by hand in the reference: each fails under quick, by the check that says so."""

import time

import pytest

from lstm_ref import verify

from .planted import FAULTS


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught_by_the_check_that_says_so(name):
    candidate, due = FAULTS[name]
    began = time.process_time()
    verdict = verify(candidate)
    failed = {r.id for r in verdict.failures()}
    assert verdict.outcome == "fail"
    assert failed & set(due.split("|")), sorted(failed)
    assert time.process_time() - began < 10  # of the processor, which other processes share
