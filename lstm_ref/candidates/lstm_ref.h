/* lstm_ref.h: what a shared library exports so that lstm-ref can judge it, as the target lib:./my_lstm.so

   A library exports the two functions of one precision or of both:

       lstm_forward_f64, lstm_vjp_f64        double
       lstm_forward_f32, lstm_vjp_f32        float

   and, where its arrays do not lie as below, lstm_layout. Each returns 0, or a code of its own, which is then a failure.

   All arrays are dense and row-major, at addresses that are multiples of 64, and each lies between guard bytes. Inputs
   are read only. Outputs are written, not added to; they hold NaN before. An output that is not written at all is not
   provided, which lstm_layout must then declare.

       n          the sizes: T time steps, B sequences, D features, H units
       x          (T, B, D)
       h0, c0     (B, H)    the initial states
       w          the weights and biases, as pointers: w[LSTM_W_F] is W_f, and so on; the W are (H, H+D), acting on
                  z = [h_{t-1}, x_t], and the b are (H)
       h          (T, B, H)    h_t at every t
       c_T        (B, H)       the last c
       s_h        (T, B, H)    the cotangent of h: dJ/dh_t, that of the last state included
       s_cT       (B, H)       the cotangent of c_T
       dx, dh0, dc0, dw        dJ/dx and so on, as x, h0, c0 and w

   lstm_vjp runs its own forward pass: it is given the inputs, and nothing that an earlier call left. */

#ifndef LSTM_REF_H
#define LSTM_REF_H

#include <stdint.h>

#if defined(_WIN32)
#define LSTM_EXPORT __declspec(dllexport)
#else
#define LSTM_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t T, B, D, H;
} lstm_sizes;

/* places in w and dw, in the textbook layout */
enum { LSTM_W_F, LSTM_W_I, LSTM_W_C, LSTM_W_O, LSTM_B_F, LSTM_B_I, LSTM_B_C, LSTM_B_O };

LSTM_EXPORT int lstm_forward_f64(const lstm_sizes *n, const double *x, const double *h0, const double *c0,
                                 const double *const *w, double *h, double *c_T);
LSTM_EXPORT int lstm_vjp_f64(const lstm_sizes *n, const double *x, const double *h0, const double *c0,
                             const double *const *w, const double *s_h, const double *s_cT,
                             double *dx, double *dh0, double *dc0, double *const *dw);

LSTM_EXPORT int lstm_forward_f32(const lstm_sizes *n, const float *x, const float *h0, const float *c0,
                                 const float *const *w, float *h, float *c_T);
LSTM_EXPORT int lstm_vjp_f32(const lstm_sizes *n, const float *x, const float *h0, const float *c0,
                             const float *const *w, const float *s_h, const float *s_cT,
                             float *dx, float *dh0, float *dc0, float *const *dw);

/* Optional: JSON with either key or both, with the words that Python candidates use, as in

       {"layout": "torch", "supports": {"H": "multiple of 8", "dtypes": ["float32"]}}

   In another layout w and dw hold, in this order: the weights of x and h in one ("joint": "hx" or "xh"), or those of
   x and then those of h ("split"); the bias, or both ("biases": 2), that of x first, or none. Where the gates are packed
   each of these is one array, else four, in the layout's order of gates. Packed, split, with two biases, as "torch" is:
   w[0] = W_x (4H, D), w[1] = W_h (4H, H), w[2] = b_x (4H), w[3] = b_h (4H). Where "batch_first" is true, x, dx, h and
   s_h are (B, T, H) or (B, T, D). */
LSTM_EXPORT const char *lstm_layout(void);

#ifdef __cplusplus
}
#endif

#endif
