# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A filtered state is forecast from at every time, as it is filtered."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from tests.data import sequences
from tests.forecasting.test_forecast import assert_moments, dense_lds, scanned_lds
from tests.models import known_lds
from tests.switching import known_slds

START, DRAWS, HORIZON = 3, 5000, 2
# What NumPyro's handlers do with scan.
pytestmark = pytest.mark.filterwarnings("ignore:shape requires ndarray")


@pytest.mark.parametrize("spelling", ["one site", "scan"])
def test_every_time_has_the_forecast_of_the_dense_gaussian(x64, spelling):
    """Two steps ahead, with the actions that lead there, from each step on."""
    y, actions = sequences(count=2, steps=6)
    model, axis = (known_lds, 1) if spelling == "one site" else (scanned_lds, 0)
    put = (lambda x: x) if axis else (lambda x: jnp.swapaxes(x, 0, 1))
    past = put(y[:, :START]), put(actions[:, : START - 1])
    state = ns.filter(model, ns.AutoSVAE(model), {}, *past)

    def step(state, given):
        key, new, future = given
        options = {"horizon": HORIZON, "future_inputs": {"actions": future}}
        paths = state.forecast(key, **options, num_samples=DRAWS)
        return state.update(**new), {n: paths[n] for n in ("x", "y")}

    times = np.arange(START, 5)  # of the next step
    new = {"y": jnp.stack([y[:, t] for t in times])}
    new["actions"] = jnp.stack([actions[:, t - 1] for t in times])
    future = jnp.stack([put(actions[:, t - 1 : t - 1 + HORIZON]) for t in times])
    keys = random.split(random.key(0), len(times))
    _, paths = jax.lax.scan(step, state, (keys, new, future))
    for i, t in enumerate(times):
        for n in range(2):
            joint = dense_lds(actions[n]).given(y[n], np.arange(6) < t)
            for name, moments in (("x", joint.states), ("y", joint.observations)):
                found = np.moveaxis(paths[name][i], 1 + axis, 1)[:, :, n]
                assert_moments(found, *moments(t + np.arange(HORIZON)))


def test_regimes_go_on_too_and_what_is_missing_is_named():
    y = random.normal(random.key(1), (2, 4, 2))
    actions = jnp.ones((2, 3, 1))
    state = ns.filter(known_slds, ns.AutoSVAE(known_slds), {}, y, actions)
    with pytest.raises(ValueError, match=r"found \[\]. Accepted: .* \['actions'\]"):
        state.forecast(random.key(0), horizon=3)
    future = {"actions": jnp.ones((2, 3, 1))}
    with pytest.raises(ValueError, match=r"Argument 'actions': found shape"):
        state.forecast(random.key(0), horizon=2, future_inputs=future)
    with pytest.raises(ValueError, match="horizon: found 0"):
        state.forecast(random.key(0), horizon=0, future_inputs=future)
    options = {"horizon": 3, "future_inputs": future, "num_samples": 7}
    paths = state.forecast(random.key(0), **options)
    assert paths["z"].shape == (7, 2, 3)
    assert paths["y"].shape == paths["x"].shape == (7, 2, 3, 2)
    assert np.isfinite(paths["y"]).all()
