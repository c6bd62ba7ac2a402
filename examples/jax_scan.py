"""An LSTM in JAX, jitted, plugged in as it is: `lstm-ref check examples/jax_scan.py:JaxScan`."""

import jax
import jax.numpy as jnp
import numpy as np


def lstm(inputs):
    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ inputs["W_x"].T + h @ inputs["W_h"].T + inputs["b"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    (_, c_T), h = jax.lax.scan(step, (inputs["h0"], inputs["c0"]), inputs["x"])
    return {"h": h, "c_T": c_T}


class JaxScan:
    layout = {"order": "ifgo", "packed": True, "joint": "split"}

    def __init__(self):
        self.jitted = jax.jit(lambda inputs, cotangents: jax.vjp(lstm, inputs)[1](cotangents)[0])
        self.forward_jitted = jax.jit(lstm)

    def forward(self, inputs):
        with jax.enable_x64(inputs["x"].dtype in (np.float64, np.complex128)):
            return {k: np.asarray(v) for k, v in self.forward_jitted(inputs).items()}

    def vjp(self, inputs, cotangents):
        with jax.enable_x64(inputs["x"].dtype == np.float64):
            return {k: np.asarray(v) for k, v in self.jitted(inputs, cotangents).items()}
