"""equinox.nn.LSTMCell in a loop over time, plugged in: `lstm-ref check examples/equinox_cell.py:EquinoxCell`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def lstm(inputs):
    D, H = inputs["x"].shape[2], inputs["h0"].shape[1]
    cell = eqx.nn.LSTMCell(D, H, key=jax.random.PRNGKey(0))
    weights = tuple(inputs[k] for k in ("weight_ih", "weight_hh", "bias"))
    cell = eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias), cell, weights)
    state, h = (inputs["h0"], inputs["c0"]), []
    for x in inputs["x"]:
        state = jax.vmap(cell)(x, state)
        h.append(state[0])
    return {"h": jnp.stack(h), "c_T": state[1]}


class EquinoxCell:
    layout = {"order": "ifgo", "packed": True, "joint": "split", "names": {"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias"}}

    def pullback(self, inputs):
        x64 = inputs["x"].dtype == np.float64
        with jax.enable_x64(x64):
            outputs, vjp = jax.vjp(lstm, {k: jnp.asarray(v) for k, v in inputs.items()})

        def pull(cotangents):
            with jax.enable_x64(x64):
                return {k: np.asarray(v) for k, v in vjp({k: jnp.asarray(v) for k, v in cotangents.items()})[0].items()}

        return {k: np.asarray(v) for k, v in outputs.items()}, pull
