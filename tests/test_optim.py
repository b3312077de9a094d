# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Natural-gradient steps: routing, schedules, and the domain of the families."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import numpyro_svae as ns
from numpyro_svae.families import DirichletNatural, RegressionNatural


def dirichlet(*concentration):
    return DirichletNatural(jnp.array(concentration, float))


def regression(scale=1.0, df=5.0):
    loc, eye = jnp.array([[1.0], [2.0]]), jnp.eye(2)
    return RegressionNatural.from_standard(
        loc, jnp.eye(1), scale * eye, jnp.asarray(df)
    )


def one_step(optimizer, params, gradient):
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    return optax.apply_updates(params, updates), state


def shortened(state):
    counts = [
        leaf.shortened
        for leaf in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "shortened"))
        if hasattr(leaf, "shortened")
    ]
    assert len(counts) == 1
    return int(counts[0])


def test_natural_parameters_take_plain_steps_and_the_rest_the_neural_optimiser():
    params = {"pi": dirichlet(1.0, 2.0), "w": jnp.array([1.0, -1.0])}
    gradient = {"pi": dirichlet(-4.0, 0.5), "w": jnp.array([100.0, -1e-3])}
    optimizer = ns.svae_optimizer(optax.sgd(0.01), 0.5)
    moved, _ = one_step(optimizer, params, gradient)
    np.testing.assert_allclose(moved["pi"].concentration, [3.0, 1.75], rtol=1e-6)
    np.testing.assert_allclose(moved["w"], [0.0, -0.99999], atol=1e-6)


def test_the_default_neural_optimiser_is_adam():
    params, gradient = {"w": jnp.array(1.0)}, {"w": jnp.array(100.0)}
    moved, _ = one_step(ns.svae_optimizer(), params, gradient)
    np.testing.assert_allclose(moved["w"], 0.999, rtol=1e-5)


def test_a_full_step_lands_on_the_target():
    params, target = {"F": regression()}, regression(3.0, 20.0)
    gradient = {"F": params["F"] - target}
    moved, state = one_step(ns.svae_optimizer(natural=1.0), params, gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), moved["F"], target
    )
    assert shortened(state) == 0


def test_full_steps_reach_a_target_close_to_the_boundary_one_by_one():
    """Each goes nine tenths of the way to the boundary; the third lands."""
    params, target = {"F": regression(1.0, 100.0)}, regression(0.07, 4.0)
    optimizer = ns.svae_optimizer(natural=1.0)
    state, landed = optimizer.init(params), []
    for _ in range(3):
        gradient = {"F": params["F"] - target}
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        landed.append(np.allclose(params["F"].vv, target.vv, rtol=1e-4))
    assert landed == [False, False, True]
    assert shortened(state) == 2


def test_the_step_follows_a_schedule():
    optimizer = ns.svae_optimizer(natural=lambda count: 1.0 / (1.0 + count))
    params = {"pi": dirichlet(1.0, 1.0)}
    state = optimizer.init(params)
    lengths = []
    for _ in range(3):
        updates, state = optimizer.update({"pi": dirichlet(-1.0, 0.0)}, state, params)
        lengths.append(float(updates["pi"].concentration[0]))
    np.testing.assert_allclose(lengths, [1.0, 1 / 2, 1 / 3], rtol=1e-6)


def test_a_dirichlet_step_stops_before_zero():
    params, gradient = {"pi": dirichlet(1.0, 1.0)}, {"pi": dirichlet(10.0, -10.0)}
    moved, state = one_step(ns.svae_optimizer(natural=1.0), params, gradient)
    np.testing.assert_allclose(moved["pi"].concentration, [0.1, 1.9], rtol=1e-5)
    assert shortened(state) == 1


@pytest.mark.parametrize("fraction", [0.5, 0.9])
def test_a_regression_step_keeps_the_scale_positive_definite(fraction):
    params = {"F": regression()}
    zero = jax.tree.map(jnp.zeros_like, params["F"])
    rise = RegressionNatural(10 * jnp.eye(2), zero.vu, zero.uu, zero.df)
    optimizer = ns.svae_optimizer(natural=1.0, boundary_fraction=fraction)
    moved, state = one_step(optimizer, params, {"F": rise})
    assert shortened(state) == 1
    before, after = (
        float(jnp.linalg.eigvalsh(p["F"].joint()).min()) for p in (params, moved)
    )
    assert 0 < after < before
    longer = params["F"] + rise.scale(-1.1 * (1 - after) / 10)
    assert np.isfinite(moved["F"].log_normalizer())
    assert not np.allclose(longer.vv, moved["F"].vv)


def test_degrees_of_freedom_stay_above_their_bound():
    params = {"F": regression(df=2.0)}
    zero = jax.tree.map(jnp.zeros_like, params["F"])
    fall = RegressionNatural(zero.vv, zero.vu, zero.uu, jnp.asarray(10.0))
    moved, _ = one_step(ns.svae_optimizer(natural=1.0), params, {"F": fall})
    np.testing.assert_allclose(moved["F"].df, 1.1, rtol=1e-5)


def test_each_member_of_a_batch_is_shortened_by_itself():
    params = {"pi": DirichletNatural(jnp.ones((2, 2)))}
    gradient = {"pi": DirichletNatural(jnp.array([[10.0, 0.0], [-1.0, 0.5]]))}
    moved, state = one_step(ns.svae_optimizer(natural=1.0), params, gradient)
    expected = [[0.1, 1.0], [2.0, 0.5]]
    np.testing.assert_allclose(moved["pi"].concentration, expected, rtol=1e-5)
    assert shortened(state) == 1


def test_a_step_that_lands_nowhere_is_left_out_and_counted():
    params = {"F": regression()}
    far = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3e38), params["F"])
    moved, state = one_step(ns.svae_optimizer(natural=1.0), params, {"F": far})
    jax.tree.map(np.testing.assert_array_equal, moved, params)
    assert shortened(state) == 1


def test_a_posterior_that_is_stuck_is_named_once_and_gets_away():
    params = {"F": regression(), "pi": dirichlet(1.0, 1.0)}
    zero = jax.tree.map(jnp.zeros_like, params)
    rise = RegressionNatural(10 * jnp.eye(2), *jax.tree.leaves(zero["F"])[1:])
    optimizer = ns.svae_optimizer(natural=1.0)

    @jax.jit
    def steps(params, gradient):
        def step(carry, _):
            updates, state = optimizer.update(gradient, *carry[::-1])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, 40)[0]

    with pytest.warns(RuntimeWarning, match=r"\['F'\] hardly moved") as said:
        stuck, state = steps(params, zero | {"F": rise})
        jax.block_until_ready(state)
    assert len(said) == 1
    back = {"F": stuck["F"] - params["F"], "pi": zero["pi"]}
    moved, _ = one_step(optimizer, stuck, back)
    np.testing.assert_allclose(moved["F"].vv, params["F"].vv, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_leaves_all_blocks_as_they_are(bad):
    params = {"pi": DirichletNatural(jnp.ones((2, 2))), "F": regression()}
    bad_row = DirichletNatural(jnp.array([[bad, 0.0], [-1.0, 0.0]]))
    gradient = {"pi": bad_row, "F": params["F"] - regression(2.0, 9.0)}
    with pytest.warns(RuntimeWarning, match=r"\['pi'\]"):
        moved, state = one_step(ns.svae_optimizer(natural=1.0), params, gradient)
    jax.tree.map(np.testing.assert_array_equal, moved, params)
    assert shortened(state) == 0


def test_it_composes_with_optax_chain():
    """Clipping by global norm shortens the natural step without turning it."""
    params, gradient = {"pi": dirichlet(1.0, 1.0)}, {"pi": dirichlet(-3.0, -4.0)}
    chain = optax.chain(optax.clip_by_global_norm(1.0), ns.svae_optimizer(natural=1.0))
    moved, _ = one_step(chain, params, gradient)
    np.testing.assert_allclose(moved["pi"].concentration, [1.6, 1.8], rtol=1e-6)


def test_an_update_can_be_compiled_and_batched():
    optimizer = ns.svae_optimizer(optax.adam(0.1), 0.5)
    params = {"pi": DirichletNatural(jnp.ones((4, 3))), "w": jnp.ones(4)}
    gradient = jax.tree.map(lambda leaf: -leaf, params)

    @jax.jit
    @jax.vmap
    def step(params, gradient):
        return one_step(optimizer, params, gradient)[0]

    moved = step(params, gradient)
    np.testing.assert_allclose(moved["pi"].concentration, 1.5)
    np.testing.assert_allclose(moved["w"], 1.1, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"neural": 0.1}, TypeError, "`neural` must be an optax.*float"),
        (
            {"natural": optax.adam(0.1)},
            TypeError,
            "`natural` found an optax.*step size",
        ),
        ({"natural": 0.0}, ValueError, r"step size in \(0, 1\], found 0.0"),
        ({"natural": 1.5}, ValueError, r"step size in \(0, 1\], found 1.5"),
        ({"natural": float("nan")}, ValueError, "found nan"),
        ({"natural": "fast"}, TypeError, "`natural`.*number.*schedule.*str"),
        ({"boundary_fraction": 1.0}, ValueError, "between 0 and 1, found 1.0"),
        ({"boundary_fraction": 0.0}, ValueError, "between 0 and 1, found 0.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ns.svae_optimizer(**arguments)
