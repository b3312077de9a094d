# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Paths whose steps are not linear."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import pytest
from scipy.optimize import minimize

import numpyro_svae as ns
from numpyro_svae.inference.local.sweep_starts import Starts

KEY = random.PRNGKey(0)
EXACT = ns.FixedPoint(max_sweeps=300, tolerance=1e-20)
TURN = np.array([[0.9, 0.3], [-0.2, 0.8]])
LOADING = np.array([[1.0, 0.5], [0.0, 1.0], [0.3, 0.3]])


def loss_of(guide, model, *args, params=None):
    """The loss of a guide, which is found without samples."""
    return ns.SVAE_ELBO().loss(KEY, params or {}, model, guide, *args)


LENGTHS = np.array([5, 3, 1])


def drifting(y, chain):
    """A path that is seen through a loading, of one kind of chain or another."""
    exists = jnp.arange(y.shape[1]) < LENGTHS[:, None]
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", chain)
        observed = dist.MultivariateNormal(x @ LOADING.T, 0.2 * jnp.eye(3))
        numpyro.sample("y", observed.mask(exists).to_event(1), obs=y)


def test_linear_function_is_a_linear_chain(x64):
    """With actions, and sequences of several lengths."""
    y, actions = random.normal(KEY, (3, 5, 3)), random.normal(KEY, (3, 4, 1))
    known = jnp.ones(2), jnp.eye(2)
    rest = {"inputs": actions, "num_steps": 5, "lengths": LENGTHS}
    push = jnp.array([[0.4], [1.0]])
    chains = (
        ns.NonlinearGaussianChain(
            *known, lambda x, u: TURN @ x + push @ u, 0.1 * jnp.eye(2), **rest
        ),
        ns.LinearGaussianChain(
            *known, jnp.concatenate([TURN, push], 1), 0.1 * jnp.eye(2), **rest
        ),
    )
    found = []
    for chain in chains:
        guide = ns.AutoSVAE(drifting)
        loss = loss_of(guide, drifting, y, chain)
        path = guide.posterior_local({}, y, chain)["x"]
        found.append((loss, path.mean, path.covariance))
    for value, expected in zip(*found):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-10)


def behind_a_network(transition):
    """Positions behind a decoder; steps, which a parameter turns, have velocities."""

    def model(y):
        decoder = numpyro.param("decoder", random.normal(KEY, (1, 5)))
        turn = numpyro.param("turn", jnp.asarray(TURN))
        known = jnp.ones(2), jnp.eye(2), transition(turn), 0.1 * jnp.eye(2)
        kind = ns.NonlinearGaussianChain if callable(known[2]) else None
        chain = (kind or ns.LinearGaussianChain)(*known, num_steps=y.shape[1])
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", chain)
            seen = dist.Normal(jnp.tanh(x[..., :1] @ decoder), 0.5)
            numpyro.sample("y", seen.to_event(2), obs=y)

    return model


def encode(y):
    """What a network says that sees positions alone."""
    weight = numpyro.param("encoder", random.normal(KEY, (5, 2)))
    info, precision = jnp.split(jnp.tanh(y @ weight), 2, -1)
    silent = jnp.zeros_like(info)
    both = jax.nn.softplus(precision) + 0.3, silent
    return {
        "x": ns.GaussianPotential(
            jnp.concatenate([info, silent], -1), jnp.concatenate(both, -1)
        )
    }


def test_a_recognition_network_learns_as_it_does_of_a_linear_chain(x64):
    """Of a linear function: the loss at the same draws, and all of its gradients."""
    y, found = random.normal(KEY, (3, 6, 5)), []
    params = {
        "decoder": random.normal(KEY, (1, 5)),
        "turn": jnp.asarray(TURN),
        "encoder": random.normal(KEY, (5, 2)),
    }
    few = ns.FixedPoint(max_sweeps=2, guarded=False)
    for transition, fixed_point in (
        (lambda turn: turn, None),
        (lambda turn: lambda x, u: turn @ x, None),
        (lambda turn: lambda x, u: turn @ x, few),
    ):
        model = behind_a_network(transition)
        guide = ns.AutoSVAE(model, encode, fixed_point=fixed_point)
        loss = jax.jit(
            jax.value_and_grad(lambda p, g=guide, m=model: loss_of(g, m, y, params=p))
        )
        found.append(loss(params))
    for own in found[1:]:
        jax.tree.map(
            lambda x, linear: np.testing.assert_allclose(x, linear, rtol=1e-7),
            *(own, found[0]),
        )


STEPS, NOISE, SENSOR = 4, 0.2, 0.3
SEEN = jnp.array([[[0.3], [1.0], [1.6], [1.2]]])


def bend(x):
    return 1.5 * jnp.sin(1.2 * x) + 0.3 * x


def bent(y):
    chain = ns.NonlinearGaussianChain(
        jnp.array([0.5]),
        jnp.eye(1),
        lambda x, u: bend(x),
        NOISE * jnp.eye(1),
        num_steps=STEPS,
    )
    with numpyro.plate("data", 1):
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.Normal(x, SENSOR**0.5).to_event(2), obs=y)


def bound_of(flat, points, weights):
    """The bound of any Gaussian of the path, its steps by quadrature."""
    y, mean = SEEN[0, :, 0], flat[:STEPS]
    lower = jnp.zeros((STEPS, STEPS)).at[jnp.tril_indices(STEPS)].set(flat[STEPS:])
    tril = jnp.tril(lower, -1) + jnp.diag(jnp.exp(jnp.diagonal(lower)))
    cov = tril @ tril.T
    total = dist.Normal(0.5, 1.0).log_prob(mean[0]) - 0.5 * cov[0, 0]
    terms = (
        dist.Normal(mean, SENSOR**0.5).log_prob(y) - 0.5 * jnp.diagonal(cov) / SENSOR
    )
    total = total + jnp.sum(terms)
    for t in range(STEPS - 1):
        slope = cov[t + 1, t] / cov[t, t]
        away = jnp.sqrt(cov[t, t]) * points
        expected = mean[t + 1] + slope * away
        step = dist.Normal(bend(mean[t] + away), NOISE**0.5).log_prob(expected)
        left = cov[t + 1, t + 1] - slope * cov[t + 1, t]
        total = total + weights @ step - 0.5 * left / NOISE
    return total + dist.MultivariateNormal(mean, scale_tril=tril).entropy()


def evidence():
    """Of the path on a grid."""
    grid, y = jnp.linspace(-6.0, 6.0, 801), SEEN[0, :, 0]
    cell = jnp.log(grid[1] - grid[0])
    log = dist.Normal(0.5, 1.0).log_prob(grid)
    log = log + dist.Normal(grid, SENSOR**0.5).log_prob(y[0])
    step = dist.Normal(bend(grid), NOISE**0.5).log_prob(grid[:, None])
    for seen in y[1:]:
        log = jax.scipy.special.logsumexp(step + log, -1) + cell
        log = log + dist.Normal(grid, SENSOR**0.5).log_prob(seen)
    return jax.scipy.special.logsumexp(log) + cell


def test_best_gaussian_beside_a_black_box_and_quadrature(x64):
    guide = ns.AutoSVAE(bent, fixed_point=EXACT)
    loss = loss_of(guide, bent, SEEN)
    found = guide.posterior_local({}, SEEN)["x"]
    points, weights = ns.Cubature().points(1)
    points = points[:, 0]

    @jax.jit
    @jax.value_and_grad
    def objective(flat):
        return -bound_of(flat, points, weights)

    start = np.concatenate([SEEN[0, :, 0], np.zeros(STEPS * (STEPS + 1) // 2)])
    best = minimize(lambda x: jax.device_get(objective(x)), start, jac=True, tol=1e-12)
    np.testing.assert_allclose(loss, best.fun, rtol=1e-8)
    np.testing.assert_allclose(found.mean[0, :, 0], best.x[:STEPS], atol=1e-5)
    assert 0 < loss + evidence() < 0.2
    guide = ns.AutoSVAE(bent, fixed_point=ns.FixedPoint(100, guarded=False))
    assert best.fun < loss_of(guide, bent, SEEN) < best.fun + 0.1
    assert guide.convergence({}, SEEN)["x"].residual < 1


def fitted(y, actions):
    """A transition, a noise and a loading with parameters; steps of several sizes."""
    weight = numpyro.param("weight", jnp.array([[0.9, 0.5], [-0.6, 0.8]]))
    scale = numpyro.param("scale", jnp.array([0.3, 0.4]))
    loading = numpyro.param("loading", jnp.asarray(LOADING))
    chain = ns.NonlinearGaussianChain(
        jnp.zeros(2),
        jnp.eye(2),
        lambda x, u: x + u * jnp.tanh(weight @ x),
        jnp.diag(scale**2),
        inputs=actions,
    )
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", chain)
        observed = dist.Normal(x @ loading.T, 0.4)
        numpyro.sample("y", observed.to_event(2), obs=y)


def test_gradients_are_those_of_the_bound(x64):
    y = random.normal(KEY, (2, 4, 3))
    sizes = random.uniform(random.PRNGKey(1), (2, 3, 1))
    guide = ns.AutoSVAE(fitted, fixed_point=EXACT)
    params = {
        "weight": jnp.array([[0.9, 0.5], [-0.6, 0.8]]),
        "scale": jnp.array([0.3, 0.4]),
        "loading": jnp.asarray(LOADING),
    }

    @jax.jit
    def loss(params):
        return loss_of(guide, fitted, y, sizes, params=params)

    loss(params)
    gradient = jax.jit(jax.grad(loss))(params)
    for name, value in params.items():
        ahead, behind = (
            loss({**params, name: value.at[..., 0].add(step)}) for step in (1e-4, -1e-4)
        )
        difference = (ahead - behind) / 2e-4
        np.testing.assert_allclose(
            jnp.sum(gradient[name][..., 0]), difference, rtol=1e-5, atol=1e-6
        )


def spelled_by_scan(y, sizes):
    """What `fitted` is, with a step of the body for each of the path."""
    weight = jnp.array([[0.9, 0.5], [-0.6, 0.8]])
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x0", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
        numpyro.sample("y0", dist.Normal(x @ LOADING.T, 0.4).to_event(1), obs=y[:, 0])

    def step(x, given):
        seen, size = given
        with numpyro.plate("data", len(y)):
            mean = x + size * jnp.tanh(x @ weight.T)
            x = numpyro.sample(
                "x", dist.Normal(mean, jnp.array([0.3, 0.4])).to_event(1)
            )
            numpyro.sample("y", dist.Normal(x @ LOADING.T, 0.4).to_event(1), obs=seen)
        return x, None

    scan(step, x, (jnp.moveaxis(y[:, 1:], 1, 0), jnp.moveaxis(sizes, 1, 0)))


def test_scan_is_the_chain(x64):
    """It is smoothed and forecast alike."""
    y = random.normal(KEY, (2, 5, 3))
    sizes = random.uniform(random.PRNGKey(1), (2, 4, 1))
    found = []
    for model in fitted, spelled_by_scan:
        guide = ns.AutoSVAE(model, fixed_point=EXACT)
        loss = loss_of(guide, model, y, sizes)
        mean = guide.posterior_local({}, y, sizes)["x"].mean
        found.append((loss, mean))
    for value, expected in zip(*found):
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-9)


def with_noise(y, transition):
    """A noise with its conjugate prior; a path of one kind or another."""
    noise = numpyro.sample("noise", dist.InverseWishart(5.0, scale_tril=jnp.eye(2)))
    known = jnp.ones(2), jnp.eye(2), transition, noise
    if callable(transition):
        chain = ns.NonlinearGaussianChain(*known, num_steps=y.shape[1])
    else:
        chain = ns.LinearGaussianChain(*known, num_steps=y.shape[1])
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", chain)
        observed = dist.MultivariateNormal(x @ LOADING.T, 0.2 * jnp.eye(3))
        numpyro.sample("y", observed.to_event(1), obs=y)


def test_noise_is_learnt_by_natural_steps(x64):
    """As that of a linear chain, where the function is linear; and filtered alike."""
    y, found = random.normal(KEY, (2, 5, 3)), []
    for transition in (lambda x, u: TURN @ x), TURN:

        def model(y, transition=transition):
            with_noise(y, transition)

        guide = ns.AutoSVAE(model)
        optimizer = ns.svae_optimizer(optax.adam(1e-2), 0.5)
        svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
        result = svi.run(KEY, 3, y, progress_bar=False)
        noise = guide.get_posterior(result.params)["noise"]
        state = ns.filter(model, guide, result.params, y).update(y=y[:, 0])
        belief = state.marginals["x"]
        found.append((result.losses, noise.mean, belief.loc, belief.covariance_matrix))
    for value, expected in zip(*found):
        np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-9)


def drawn(num_steps):
    """A path that is pulled to one side or the other."""
    return ns.NonlinearGaussianChain(
        jnp.zeros(1),
        jnp.eye(1),
        lambda x, u: 0.7 * x + 0.5 * jnp.tanh(x),
        0.1 * jnp.eye(1),
        num_steps=num_steps,
    )


def counted(y):
    """Counts of a path that has neither a network nor a linear step."""
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", drawn(y.shape[1]))
        numpyro.sample("y", dist.Poisson(jnp.exp(x[..., 0])).to_event(1), obs=y)


def test_likelihood_without_a_network():
    """In single precision, beside draws of the path."""
    y = jnp.array([[0.0, 3.0, 7.0, 5.0, 4.0, 6.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]])
    guide = ns.AutoSVAE(counted)
    loss = loss_of(guide, counted, y)
    assert guide.convergence({}, y)["x"].residual <= 1
    paths = drawn(6).sample(KEY, (200_000, 2))
    terms = dist.Poisson(jnp.exp(paths[..., 0])).log_prob(y).sum(-1)
    evidence = jax.scipy.special.logsumexp(terms, 0) - np.log(len(paths))
    assert -0.02 < loss + jnp.sum(evidence) < 0.2


def test_what_cannot_be_done_is_named():
    y = jnp.zeros((1, 3, 1))

    def model(y, noise, latent):
        scale = numpyro.sample("scale", dist.Normal(0.0, 1.0)) if latent else 1.0
        chain = ns.NonlinearGaussianChain(
            jnp.zeros(1),
            jnp.eye(1),
            lambda x, u: jnp.sin(scale * x),
            noise * jnp.eye(1),
            num_steps=3,
        )
        with numpyro.plate("data", 1):
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Normal(x, 1.0).to_event(2), obs=y)

    with pytest.raises(ValueError, match=r"'x' .*singular transition_cov\. Accepted"):
        loss_of(ns.AutoSVAE(model), model, y, 0.0, False)
    with pytest.raises(ValueError, match=r"'x' .*depend.* on latent 'scale'"):
        loss_of(ns.AutoSVAE(model), model, y, 1.0, True)


def test_steps_beside_a_network_start_once(monkeypatch):
    """The search has nothing to add to a prior that no message is sent to."""
    turns, own = [], Starts.after

    def after(self, search, *rest):
        jax.debug.callback(lambda turn: turns.append(int(turn)), search.turn)
        return own(self, search, *rest)

    monkeypatch.setattr(Starts, "after", after)
    y = random.normal(KEY, (2, 3, 5))
    model = behind_a_network(lambda turn: lambda x, u: jnp.tanh(turn @ x))
    params = {
        "decoder": random.normal(KEY, (1, 5)),
        "turn": jnp.asarray(TURN),
        "encoder": random.normal(KEY, (5, 2)),
    }
    assert np.isfinite(loss_of(ns.AutoSVAE(model, encode), model, y, params=params))
    jax.effects_barrier()
    assert len(turns) == 1
