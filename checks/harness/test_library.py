"""Shared libraries: right ones pass, crashes and overruns are findings that name the function, loading says what is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lstm_ref import cases, verify
from lstm_ref.candidates import contract, library
from lstm_ref.candidates.contract import Finding
from lstm_ref.candidates.load import TargetError, load
from lstm_ref.judgement.run import run
from lstm_ref.report import words

from .programs import required

ROOT = Path(__file__).resolve().parents[2]
HEADER = Path(library.__file__).parent
EXAMPLE = ROOT / "examples" / "c" / "lstm.c"


def built(folder: Path, source: Path | str, *flags: str) -> str:
    """The target of a library made of a file, or of C code that may include the example as lstm.c."""
    if isinstance(source, str):
        (folder / "own.c").write_text(source)
        source = folder / "own.c"
    include = (f"-I{HEADER}", f"-I{EXAMPLE.parent}")
    command = [
        required("cc"),
        "-O1",
        "-Wall",
        "-Werror",
        *flags,
        *include,
        "-fPIC",
        "-shared",
        "-o",
        str(folder / "own.so"),
        str(source),
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return f"lib:{folder}/own.so"


def one_case(target: str):
    """What a library returns for one case; raises Finding."""
    candidate, case = load(target)[0], cases.build(cases.CORNERS[0], np.dtype(float), False)
    return contract.run(contract.prepare(candidate, case.inputs, np.dtype(float)), candidate.make(), case.cotangents)


# The example under other names, so that functions of its own can be written around it.
AROUND = """
#define lstm_forward_f64 base_forward_f64
#define lstm_vjp_f64 base_vjp_f64
#define lstm_forward_f32 base_forward_f32
#define lstm_vjp_f32 base_vjp_f32
#include "lstm.c"
#undef lstm_forward_f64
#undef lstm_vjp_f64
#undef lstm_forward_f32
#undef lstm_vjp_f32
#include <stdio.h>
"""

# Around it in double: FORWARD and VJP are what is done after the right thing was done.
SPOILT = (
    AROUND
    + """
int lstm_forward_f64(const lstm_sizes *n, const double *x, const double *h0, const double *c0, const double *const *w,
                     double *h, double *c_T) {
    int code = base_forward_f64(n, x, h0, c0, w, h, c_T);
    FORWARD;
    return code;
}

int lstm_vjp_f64(const lstm_sizes *n, const double *x, const double *h0, const double *c0, const double *const *w,
                 const double *s_h, const double *s_cT, double *dx, double *dh0, double *dc0, double *const *dw) {
    int code = base_vjp_f64(n, x, h0, c0, w, s_h, s_cT, dx, dh0, dc0, dw);
    VJP;
    return code;
}
"""
)

# torch's layout in float32 alone: four gates in one array, in the order i, f, g, o, of x and of h, and two biases.
PACKED = (
    AROUND
    + """
static const int PLACE[4] = {1, 0, 2, 3};

static float **separate(const lstm_sizes *n) {
    float **w = malloc(8 * sizeof(float *));
    for (int k = 0; k < 8; k++) w[k] = malloc(n->H * (n->H + n->D) * sizeof(float));
    return w;
}

static float **unpacked(const lstm_sizes *n, const float *const *w) {
    int64_t H = n->H, D = n->D;
    float **own = separate(n);
    for (int64_t r = 0; r < 4 * H; r++) {
        int64_t k = r / H, row = PLACE[k] * H + r % H;
        memcpy(own[k] + r % H * (H + D), w[1] + row * H, H * sizeof(float));
        memcpy(own[k] + r % H * (H + D) + H, w[0] + row * D, D * sizeof(float));
        own[4 + k][r % H] = w[2][row] + w[3][row];
    }
    return own;
}

int lstm_forward_f32(const lstm_sizes *n, const float *x, const float *h0, const float *c0, const float *const *w,
                     float *h, float *c_T) {
    return base_forward_f32(n, x, h0, c0, (const float *const *)unpacked(n, w), h, c_T);
}

int lstm_vjp_f32(const lstm_sizes *n, const float *x, const float *h0, const float *c0, const float *const *w,
                 const float *s_h, const float *s_cT, float *dx, float *dh0, float *dc0, float *const *dw) {
    int64_t H = n->H, D = n->D;
    float **own = separate(n);
    int code = base_vjp_f32(n, x, h0, c0, (const float *const *)unpacked(n, w), s_h, s_cT, dx, dh0, dc0, own);
    for (int64_t r = 0; r < 4 * H; r++) {
        int64_t k = r / H, row = PLACE[k] * H + r % H;
        memcpy(dw[1] + row * H, own[k] + r % H * (H + D), H * sizeof(float));
        memcpy(dw[0] + row * D, own[k] + r % H * (H + D) + H, D * sizeof(float));
        dw[2][row] = dw[3][row] = own[4 + k][r % H];
    }
    return code;
}

const char *lstm_layout(void) { return "{\\"layout\\": \\"torch\\"}"; }
"""
)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_example_passes(tmp_path, dtype):
    verdict = verify(built(tmp_path, EXAMPLE), dtype=dtype)
    assert verdict.outcome == "pass", [(r.id, r.outcome, r.reason) for r in verdict.failures()]
    assert verdict.kind == "textbook"


def test_the_makefile_builds_it(tmp_path):
    shutil.copytree(EXAMPLE.parent, tmp_path / "c", ignore=shutil.ignore_patterns("*.so"))
    subprocess.run(
        [required("make"), "-C", str(tmp_path / "c"), f"CC={required('cc')}", f"PYTHON={sys.executable}"], check=True, capture_output=True
    )
    assert load(f"lib:{tmp_path}/c/liblstm.so")[0].supports.dtypes == ("float64", "float32")


def test_a_tail_that_is_left_out_is_caught_and_named(tmp_path):
    target = built(tmp_path, EXAMPLE, "-DTAIL_BUG")
    verdict = run(target, load(target), dtypes=("float64",), only="forward.*,grad.*.autodiff")
    wrong = {r.id: r for r in verdict.failures()}
    assert {"grad.W_f.autodiff", "grad.h0.autodiff", "grad.x.autodiff"} <= set(wrong)
    assert not any(k.startswith("forward.") for k in wrong)
    assert "every failing case has H is not a multiple of 8" in words.failure(wrong["grad.W_f.autodiff"], target)


@pytest.mark.parametrize(
    ("flag", "sentence", "share"),
    [
        ("-DOVERRUN", "lstm_vjp_f64 wrote past the end of dW_f (8 bytes after it changed)", "all"),
        ("-DSEGV_AT_T6", "was killed by SIGSEGV", "some"),
    ],
)
def test_overruns_and_crashes_are_findings_and_the_run_goes_on(tmp_path, flag, sentence, share):
    verdict = verify(built(tmp_path, EXAMPLE, flag), dtype="float64")
    found = {r.id: r for r in verdict.results}
    assert verdict.outcome == "fail"
    assert sentence in found["contract.call"].reason
    if share == "some":
        assert verdict.gradients == "pass"
        assert found["grad.W_f.autodiff"].cases > 30


@pytest.mark.parametrize(
    ("forward", "vjp", "sentence"),
    [
        ("", "dx[-1] = 0", "lstm_vjp_f64 wrote before the beginning of dx (8 bytes before it changed)"),
        ("h[n->T * n->B * n->H + 2] = 0", "", "lstm_forward_f64 wrote past the end of h (8 bytes after it changed)"),
        ("", "((double *)s_h)[0] = 7", "lstm_vjp_f64 changed its input s_h"),
        ("((double *)w[LSTM_B_O])[0] = 7", "", "lstm_forward_f64 changed its input b_o"),
        ("", "code = 700", "lstm_vjp_f64 returned 700; 0 is due"),
        ("", "abort()", "was killed by SIGABRT"),
    ],
)
def test_what_a_library_must_not_do(tmp_path, forward, vjp, sentence):
    target = built(tmp_path, SPOILT, f"-DFORWARD={forward}", f"-DVJP={vjp}")
    with pytest.raises(Finding) as found:
        one_case(target)
    assert found.value.check == "contract.call"
    assert sentence in found.value.sentence


def test_a_library_may_print(tmp_path):
    say = 'printf("hello\\n"); fflush(stdout)'
    outputs, gradients = one_case(built(tmp_path, SPOILT, f"-DFORWARD={say}", f"-DVJP={say}"))
    assert not outputs.faults
    assert not gradients.faults


# What the buffers of outputs hold before: as if the library had never written there.
UNWRITE = "uint64_t before = 0x7FF0000000000001; for (int64_t q = 0; q < {n}; q++) memcpy({array} + q, &before, 8)"


def test_an_output_that_is_never_written_is_not_provided(tmp_path):
    unwritten = UNWRITE.format(n="n->T * n->B * n->D", array="dx")
    _, silent = one_case(built(tmp_path, SPOILT, "-DFORWARD=", f"-DVJP={unwritten}"))
    assert "vjp returned no gradient of x (keys: " in silent.faults["x"].sentence
    assert 'declare supports = {"x_gradient": False}' in silent.faults["x"].sentence
    says = 'const char *lstm_layout(void) { return "{\\"supports\\": {\\"x_gradient\\": false}}"; }'
    _, declared = one_case(built(tmp_path, SPOILT + says, "-DFORWARD=", f"-DVJP={unwritten}"))
    assert not declared.faults
    assert "x" not in declared.arrays


def test_an_entry_that_is_never_written_is_nan(tmp_path):
    unwritten = UNWRITE.format(n=1, array="dw[LSTM_W_F]")
    _, gradients = one_case(built(tmp_path, SPOILT, "-DFORWARD=", f"-DVJP={unwritten}"))
    assert np.isnan(gradients.arrays["W_f"]).sum() == 1
    assert np.isnan(gradients.arrays["W_f"][0, 0])


def test_packed_weights_in_float32_alone(tmp_path):
    target = built(tmp_path, PACKED)
    candidate = load(target)[0]
    assert (candidate.supports.dtypes, candidate.layout.order) == (("float32",), "ifgo")
    assert verify(target).outcome == "pass"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("int lstm_forward_f64(void) { return 0; }", "exports no lstm_vjp_f64; include lstm_ref.h, which declares them"),
        ("int unrelated(void) { return 0; }", "exports no lstm_forward_f64 and no lstm_vjp_f64"),
        ('const char *lstm_layout(void) { return "torch"; }', "lstm_layout returned 'torch'; JSON is due"),
        ('const char *lstm_layout(void) { return "{\\"layout\\": {\\"order\\": \\"ifgx\\"}}"; }', "layout order is 'ifgx'"),
        (
            'const char *lstm_layout(void) { return "{\\"supports\\": {\\"dtypes\\": [\\"float32\\"]}}"; }',
            "exports no lstm_forward_f32 and no lstm_vjp_f32",
        ),
        (
            "int f(void); __attribute__((constructor)) static void g(void) { f(); }",
            "cannot be loaded as a shared library: undefined symbol: f",
        ),
    ],
)
def test_a_library_that_cannot_be_plugged_in_says_why(tmp_path, code, sentence):
    target = built(tmp_path, code)
    with pytest.raises(TargetError) as error:
        load(target)
    assert str(error.value).startswith(f"{target}: ")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_library_says_so(tmp_path):
    with pytest.raises(TargetError, match=r"there is no file .*nowhere\.so"):
        load(f"lib:{tmp_path}/nowhere.so")
    (tmp_path / "text.so").write_text("int lstm_forward_f64;" * 100)
    with pytest.raises(TargetError, match="cannot be loaded as a shared library"):
        load(f"lib:{tmp_path}/text.so")


def test_the_child_starts_without_jax():
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", library.__name__, "--include"], capture_output=True, text=True)
    assert Path(done.stdout.strip()) == HEADER
    assert (HEADER / "lstm_ref.h").is_file()
    assert " numpy\n" in done.stderr
    assert "jax" not in done.stderr
