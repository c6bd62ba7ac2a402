"""Regions: a fault that shows only somewhere is said to be there, with what it is; what shows everywhere has no region."""

import numpy as np
import pytest

from lstm_ref import verify
from lstm_ref.candidates.load import plug
from lstm_ref.diagnosis import regions
from lstm_ref.diagnosis.explain import explain
from lstm_ref.judgement import tolerances as tol
from lstm_ref.report import words

from .planted import layer
from .strangers import CellByCell

DA_O = "da.o[t] = do[t] * o[t] * (1 - o[t])"
DA_I = "da.i[t] = di[t] * i[t] * (1 - i[t])"
DA_F = "da.f[t] = df[t] * f[t] * (1 - f[t])"
DA_C = "da.c[t] = dc_tilde[t] * (1 - c_tilde[t] ** 2)"
SOMEWHERE = {
    "c < 0": (layer((DA_O, f"{DA_O} * np.where(c[t] < 0, 2, 1)")), "da_o is counted twice"),
    "c̃ < 0": (layer((DA_C, "da.c[t] = dc_tilde[t] * (1 - np.where(c_tilde[t] < 0, -1, 1) * c_tilde[t] ** 2)")), "da_c: 1 + g² for 1 − g²"),
    "|a| > 10": (layer((DA_F, f"{DA_F} * (np.abs(trace.a.f[t]) <= 10)")), "da_f is missing"),
    "f > ½": (layer((DA_F, f"{DA_F} * np.where(f[t] > 0.5, 1.01, 1)")), "da_f is multiplied by 1.01"),
    "H > 16": (layer((DA_I, f"{DA_I} * (2 if H > 16 else 1)")), "da_i is counted twice"),
    "T > 5": (layer((DA_I, f"{DA_I} * (2 if t >= 5 else 1)")), "no single term"),
    "x holds exact zeros": (layer((DA_I, f"{DA_I} * (z[t][..., H:] != 0).all(-1, keepdims=True)")), "da_i is missing"),
    "h0 and c0 are zero": (layer(("db = step_sum(da.all)", "db = step_sum(da.all) * (1 if c0.any() else 2)")), "db"),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("condition", SOMEWHERE)
def test_the_region_of_a_fault_is_found(condition, dtype):
    found = regions.find(plug(SOMEWHERE[condition][0])[0], tol.PRECISIONS[dtype])
    assert condition in [r.condition for r in found]
    assert len(found) <= 2
    assert all(r.failed >= 3 or r.condition[0] in "TBDH" for r in found)


@pytest.mark.parametrize("condition", ["c̃ < 0", "|a| > 10", "T > 5"])
def test_the_report_says_where_and_what(condition):
    candidate, what = SOMEWHERE[condition]
    told = words.explanation(verify(candidate, only="grad.*"))
    assert f"wrong only where {condition}" in told
    assert what in told
    assert "elsewhere pass" in told


def test_a_fault_of_large_numbers_is_not_laid_on_a_size():
    conditions = [r.condition for r in regions.find(plug(SOMEWHERE["|a| > 10"][0])[0], tol.PRECISIONS["float64"])]
    assert not any(c[0] in "TBDH" for c in conditions)


def test_right_gradients_and_faults_that_show_everywhere_have_no_region():
    def random(gradients, trace):
        rng = np.random.default_rng(len(trace.h))
        return {k: v * (1 + 0.01 * rng.standard_normal(v.shape)) for k, v in gradients.items()}

    def coarse(gradients, trace):
        return {k: v.astype(np.float32).astype(v.dtype) if k[0] == "W" else v for k, v in gradients.items()}

    # errors of 1e-8 are hidden where gates are shut, which is no region
    for candidate in (CellByCell, layer((DA_O, "da.o[t] = do[t]")), layer(after=random), layer(after=coarse)):
        assert regions.find(plug(candidate)[0], tol.PRECISIONS["float64"]) == ()
    assert explain(plug(CellByCell)[0], tol.PRECISIONS["float64"]) is None
