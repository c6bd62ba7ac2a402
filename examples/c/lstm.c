/* An LSTM in C, in a kernel's style: eight units at a time and then the rest, in double and in float from one text.

       make -C examples/c
       lstm-ref check lib:examples/c/liblstm.so

   The file includes itself once for each precision. With one of these macros it is wrong on purpose, for the tests of
   lstm-ref and to see what is said (make -C examples/c CFLAGS=-DTAIL_BUG):

       TAIL_BUG        the backward pass leaves out the units after the last full block of eight
       OVERRUN         the backward pass writes a number past the end of dW_f
       SEGV_AT_T6      the backward pass writes to a null pointer where T >= 6 */

#ifndef REAL

#include "lstm_ref.h"

#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

enum { FORGET, INPUT, NEW, OUTPUT, CELL, SQUASHED, KEPT }; /* what is kept of each unit at each step; the gates as in w */

#define REAL double
#define NAMED(name) name##_f64
#include "lstm.c"
#undef REAL
#undef NAMED

#define REAL float
#define NAMED(name) name##_f32
#include "lstm.c"

#else

/* out[j] = b[j] + W[j, :] z for all units; W is (H, Z) */
static void NAMED(rows)(int64_t H, int64_t Z, const REAL *W, const REAL *b, const REAL *z, REAL *out) {
    int64_t j = 0;
    for (; j + 8 <= H; j += 8) {
        REAL sum[8] = {0};
        for (int64_t q = 0; q < Z; q++)
            for (int u = 0; u < 8; u++) sum[u] += W[(j + u) * Z + q] * z[q];
        for (int u = 0; u < 8; u++) out[j + u] = b[j + u] + sum[u];
    }
    for (; j < H; j++) {
        REAL sum = 0;
        for (int64_t q = 0; q < Z; q++) sum += W[j * Z + q] * z[q];
        out[j] = b[j] + sum;
    }
}

/* dz += W' da and dW += da z' */
static void NAMED(columns)(int64_t H, int64_t Z, const REAL *W, const REAL *da, const REAL *z, REAL *dz, REAL *dW) {
    int64_t j = 0;
    for (; j + 8 <= H; j += 8)
        for (int64_t q = 0; q < Z; q++) {
            REAL sum = 0;
            for (int u = 0; u < 8; u++) {
                sum += W[(j + u) * Z + q] * da[j + u];
                dW[(j + u) * Z + q] += da[j + u] * z[q];
            }
            dz[q] += sum;
        }
#ifndef TAIL_BUG
    for (; j < H; j++)
        for (int64_t q = 0; q < Z; q++) {
            dz[q] += W[j * Z + q] * da[j];
            dW[j * Z + q] += da[j] * z[q];
        }
#endif
}

/* One step of one sequence: z = [h, x] and what is kept, from h and c; h_t goes to `out`. */
static void NAMED(step)(const lstm_sizes *n, const REAL *x, const REAL *h, const REAL *c, const REAL *const *w, REAL *z,
                        REAL *kept, REAL *out) {
    int64_t H = n->H, D = n->D;
    memcpy(z, h, H * sizeof(REAL));
    memcpy(z + H, x, D * sizeof(REAL));
    for (int k = FORGET; k <= OUTPUT; k++) NAMED(rows)(H, H + D, w[k], w[LSTM_B_F + k], z, kept + k * H);
    for (int64_t j = 0; j < H; j++) {
        REAL *at = kept + j;
        at[FORGET * H] = 1 / (1 + exp(-at[FORGET * H]));
        at[INPUT * H] = 1 / (1 + exp(-at[INPUT * H]));
        at[NEW * H] = tanh(at[NEW * H]);
        at[OUTPUT * H] = 1 / (1 + exp(-at[OUTPUT * H]));
        at[CELL * H] = at[FORGET * H] * c[j] + at[INPUT * H] * at[NEW * H];
        at[SQUASHED * H] = tanh(at[CELL * H]);
        out[j] = at[OUTPUT * H] * at[SQUASHED * H];
    }
}

int NAMED(lstm_forward)(const lstm_sizes *n, const REAL *x, const REAL *h0, const REAL *c0, const REAL *const *w,
                        REAL *h, REAL *c_T) {
    int64_t T = n->T, B = n->B, D = n->D, H = n->H;
    REAL *z = malloc((H + D + KEPT * H) * sizeof(REAL)), *kept = z + H + D;
    if (!z) return 1;
    memcpy(c_T, c0, B * H * sizeof(REAL));
    for (int64_t r = 0; r < T * B; r++) { /* row r is sequence r % B at step r / B */
        const REAL *h_prev = r < B ? h0 + r * H : h + (r - B) * H;
        REAL *c = c_T + r % B * H;
        NAMED(step)(n, x + r * D, h_prev, c, w, z, kept, h + r * H);
        memcpy(c, kept + CELL * H, H * sizeof(REAL));
    }
    free(z);
    return 0;
}

int NAMED(lstm_vjp)(const lstm_sizes *n, const REAL *x, const REAL *h0, const REAL *c0, const REAL *const *w,
                    const REAL *s_h, const REAL *s_cT, REAL *dx, REAL *dh0, REAL *dc0, REAL *const *dw) {
    int64_t T = n->T, B = n->B, D = n->D, H = n->H, Z = H + D;
    REAL *z = malloc((T * B * (Z + KEPT * H + H) + Z + 4 * H) * sizeof(REAL));
    if (!z) return 1;
    REAL *kept = z + T * B * Z, *h = kept + T * B * KEPT * H, *dz = h + T * B * H, *da = dz + Z;

    for (int64_t r = 0; r < T * B; r++) {
        const REAL *h_prev = r < B ? h0 + r * H : h + (r - B) * H;
        const REAL *c_prev = r < B ? c0 + r * H : kept + ((r - B) * KEPT + CELL) * H;
        NAMED(step)(n, x + r * D, h_prev, c_prev, w, z + r * Z, kept + r * KEPT * H, h + r * H);
    }

    for (int k = FORGET; k <= OUTPUT; k++) {
        memset(dw[k], 0, H * Z * sizeof(REAL));
        memset(dw[LSTM_B_F + k], 0, H * sizeof(REAL));
    }
    memset(dh0, 0, B * H * sizeof(REAL)); /* dh0 and dc0 hold what flows back from the step after */
    memcpy(dc0, s_cT, B * H * sizeof(REAL));
    for (int64_t r = T * B - 1; r >= 0; r--) {
        const REAL *at = kept + r * KEPT * H, *c_prev = r < B ? c0 + r * H : kept + ((r - B) * KEPT + CELL) * H;
        REAL *dh_next = dh0 + r % B * H, *dc_next = dc0 + r % B * H;
        for (int64_t j = 0; j < H; j++, at++) {
            REAL f = at[FORGET * H], i = at[INPUT * H], g = at[NEW * H], o = at[OUTPUT * H], squashed = at[SQUASHED * H];
            REAL dh = s_h[r * H + j] + dh_next[j];
            REAL dc = dc_next[j] + dh * o * (1 - squashed * squashed);
            da[FORGET * H + j] = dc * c_prev[j] * f * (1 - f);
            da[INPUT * H + j] = dc * g * i * (1 - i);
            da[NEW * H + j] = dc * i * (1 - g * g);
            da[OUTPUT * H + j] = dh * squashed * o * (1 - o);
            dc_next[j] = dc * f;
        }
        memset(dz, 0, Z * sizeof(REAL));
        for (int k = FORGET; k <= OUTPUT; k++) {
            NAMED(columns)(H, Z, w[k], da + k * H, z + r * Z, dz, dw[k]);
            for (int64_t j = 0; j < H; j++) dw[LSTM_B_F + k][j] += da[k * H + j];
        }
        memcpy(dh_next, dz, H * sizeof(REAL));
        memcpy(dx + r * D, dz + H, D * sizeof(REAL));
    }
    free(z);

#ifdef OVERRUN
    dw[LSTM_W_F][H * Z] = 0;
#endif
#ifdef SEGV_AT_T6
    if (T >= 6) *(volatile REAL *)NULL = 0;
#endif
    return 0;
}

#endif
