"""A function in JAX, plugged in as it is: `lstm-ref check jax:examples/jax_scan.py:lstm`.

`wrong` is the same with a hand-written rule for its tanh, which forgets the square.
"""

import jax
import jax.numpy as jnp


def lstm(inputs, tanh=jnp.tanh):
    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ inputs["W_x"].T + h @ inputs["W_h"].T + inputs["b"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    (_, c_T), h = jax.lax.scan(step, (inputs["h0"], inputs["c0"]), inputs["x"])
    return {"h": h, "c_T": c_T}


@jax.custom_jvp
def wrong_tanh(a):
    return jnp.tanh(a)


@wrong_tanh.defjvp
def slope(a, da):
    y = jnp.tanh(a[0])
    return y, (1 - y) * da[0]


def wrong(inputs):
    return lstm(inputs, tanh=wrong_tanh)


lstm.layout = wrong.layout = {"order": "ifgo", "packed": True, "joint": "split"}
