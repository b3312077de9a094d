# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Steps that are not finite change nothing, are counted, and are reported once."""

import warnings

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns
from numpyro_svae.training import (
    load_state,
    run_batches,
    run_restarts,
    save_state,
    skipped_steps,
)
from tests.models import vector_prior

GOOD, WILD = 0.5, jnp.nan


def model(y, gain):
    """A Gaussian seen through a weight, with running statistics of the gains."""
    loc, cov = vector_prior("top", 2)
    weight = numpyro.param("weight", jnp.ones(2))
    mean = numpyro.primitives.mutable("gains", {"mean": jnp.zeros(())})
    mean["mean"] = 0.5 * mean["mean"] + 0.5 * gain
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.MultivariateNormal(loc, cov))
        fn = dist.Normal(jnp.tanh(gain * weight * x), 0.3).to_event(1)
        numpyro.sample("y", fn, obs=y)


def recognition(y, gain):
    return {"x": ns.GaussianPotential.from_loc_scale(y, 0.5 * jnp.ones(2))}


def make():
    guide = ns.AutoSVAE(model, recognition)
    return SVI(model, guide, ns.svae_optimizer(optax.adam(0.1), 0.3), ns.SVAE_ELBO())


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(False):
        svi, y = make(), 0.5 * random.normal(random.PRNGKey(0), (7, 2))
        state = svi.init(random.PRNGKey(1), y, GOOD)
        update = jax.jit(svi.update)
        return svi, y, update(state, y, GOOD)[0], update


def of_optimizer(state):
    return state.optim_state[1][0], state.optim_state[1][1].inner


def test_a_bad_step_leaves_all_as_it_was_and_is_counted(problem):
    _, y, state, update = problem
    with pytest.warns(RuntimeWarning) as said:
        bad, loss = update(state, y, WILD)
        bad = jax.block_until_ready(update(bad, y, WILD)[0])
    messages = [str(w.message) for w in said]
    assert len(messages) == 2
    assert any("left out: found a loss of nan" in text for text in messages)
    assert any("nan at 'y'" in text for text in messages)
    assert np.isnan(loss)
    assert skipped_steps(bad) == 2
    same = of_optimizer(bad), bad.mutable_state
    expected = of_optimizer(state), state.mutable_state
    jax.tree.map(np.testing.assert_array_equal, same, expected)
    on, _ = update(bad, y, GOOD)
    assert skipped_steps(on) == 2
    assert not np.array_equal(on.optim_state[1][0]["weight"], same[0][0]["weight"])


def test_a_gradient_that_is_not_finite_is_named():
    """The loss alone may be finite."""
    params = {"one": jnp.array([1.0, 2.0]), "other": jnp.array(1.0)}
    optimizer = ns.svae_optimizer(optax.adam(0.1))
    state = optimizer.init(params)
    gradient = {"one": jnp.array([jnp.inf, 0.0]), "other": jnp.array(1.0)}
    with pytest.warns(RuntimeWarning, match=r"not finite for \['one'\]"):
        moves, state = optimizer.update(gradient, state, params, value=jnp.array(3.0))
    assert not any(jnp.any(move) for move in moves.values())
    gradient = {"one": jnp.array([1.0, 0.0]), "other": jnp.array(1e25)}
    with warnings.catch_warnings():  # said once, also of other causes
        warnings.simplefilter("error")
        moves, state = optimizer.update(gradient, state, params, value=jnp.array(3.0))
    assert not any(jnp.any(move) for move in moves.values())
    assert skipped_steps(state) == 2
    moves, state = optimizer.update(params, state, params, value=jnp.array(3.0))
    assert all(jnp.all(move < 0) for move in moves.values())


def test_a_square_that_overflows_is_said():
    params = {"w": jnp.array(1.0)}
    optimizer = ns.svae_optimizer(optax.adam(0.1))
    with pytest.warns(RuntimeWarning, match="finite gradients, of which"):
        optimizer.update({"w": jnp.array(3e20)}, optimizer.init(params), params)


def test_within_scan_and_vmap(problem):
    svi, y, state, _ = problem
    gains = jnp.array([GOOD, WILD, GOOD, WILD])

    def run(state, gains):
        return jax.lax.scan(lambda s, gain: svi.update(s, y, gain), state, gains)[0]

    several = jnp.stack([gains, jnp.full(4, GOOD), gains[::-1]])
    with pytest.warns(RuntimeWarning):
        states = jax.jit(jax.vmap(run, (None, 0)))(state, several)
        jax.block_until_ready(states)
    np.testing.assert_array_equal(skipped_steps(states), [2, 0, 2])
    assert np.all(np.isfinite(states.optim_state[1][0]["weight"]))


def test_restarts_and_batches_count(problem, tmp_path):
    svi, y, _, _ = problem
    batches = [(y, gain) for gain in np.float32([GOOD, WILD, GOOD, GOOD])]
    path = tmp_path / "state.npz"
    with pytest.warns(RuntimeWarning) as said:
        found = run_batches(
            svi, random.PRNGKey(0), batches, progress_bar=False, checkpoint=path
        )
    assert "1 of 4 steps were left out" in str(said[-1].message)
    assert skipped_steps(found.state) == 1
    read, _ = load_state(path, svi.init(random.PRNGKey(3), *batches[0]))
    assert skipped_steps(read) == 1
    save_state(path, read)
    restarts = run_restarts(svi, random.PRNGKey(0), 2, 3, *batches[0])
    assert skipped_steps(restarts.result.state) == 0


def test_states_of_other_optimisers_have_no_count():
    assert skipped_steps(optax.adam(0.1).init(jnp.ones(2))) is None


def test_arrays_of_one_shape_are_looked_at_together():
    """As parts of one vector each would be written down, and a kernel of its own."""
    params = {str(i): jnp.ones(5) for i in range(8)}
    optimizer = ns.svae_optimizer(optax.adam(0.1))

    def step(gradients, state):
        return optimizer.update(gradients, state, params, value=jnp.ones(()))

    program = jax.make_jaxpr(step)(params, optimizer.init(params))
    joined = [e for e in program.jaxpr.eqns if e.primitive.name == "concatenate"]
    assert max(len(equation.invars) for equation in joined) <= 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_what_is_said_of_gradients_costs_a_program_nothing(dtype):
    """They are handed over as they are, of all types that a compiled step has."""
    params = {name: jnp.ones(3, dtype) for name in ("one", "other")}
    bad = {"one": params["one"], "other": params["other"].at[1].set(jnp.inf)}
    optimizer = ns.svae_optimizer(optax.sgd(0.1))

    def step(gradients, state):
        return optimizer.update(gradients, state, params, value=jnp.ones(()))

    state = optimizer.init(params)
    with pytest.warns(RuntimeWarning, match=r"not finite for \['other'\]"):
        moves, _ = jax.block_until_ready(jax.jit(step)(bad, state))
    assert not any(jnp.any(move) for move in moves.values())
    said = str(jax.make_jaxpr(step)(bad, state)).split("cond[")[1]
    assert "platform_index" in said and "reduce" not in said
