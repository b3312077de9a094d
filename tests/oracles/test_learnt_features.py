# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Steps k(x, u) + F phi(x, u) of which F and the noise are learnt."""

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
from scipy.special import digamma

import numpyro_svae as ns

KEY = random.PRNGKey(0)
LOADING = np.array([[1.0, 0.5], [0.0, 1.0], [0.3, 0.3]])
WEIGHT = np.array([[0.9, 0.3, 0.1], [-0.2, 0.8, 0.4]])


def together():
    """A weight and a noise of one block."""
    prior = ns.MatrixNormalInverseWishart(WEIGHT, 5.0 * jnp.eye(3), 6.0, jnp.eye(2))
    return ns.sample("dynamics", prior)


def alone():
    """A weight beside a known noise."""
    rows, columns = jnp.eye(2), 0.5 * jnp.eye(3)
    prior = dist.MatrixNormal(WEIGHT, rows, columns)
    return numpyro.sample("dynamics", prior), 0.2 * jnp.eye(2)


def apart():
    """A weight and a noise of two blocks, and a mean that is known in part."""
    prior = dist.Normal(WEIGHT - np.eye(2, 3), 0.3)
    weight = numpyro.sample("dynamics", prior.to_event(2))
    variances = dist.InverseGamma(3.0, 1.0).expand([2]).to_event(1)
    return jnp.eye(2, 3) + weight, jnp.diag(numpyro.sample("noise", variances))


def driven(learnt, as_function, scale=None):
    """A path with inputs, whose steps are a matrix or the function that it is."""

    def model(y, actions):
        weight, cov = learnt()
        known = jnp.ones(2), jnp.eye(2)
        rest = {"inputs": actions, "num_steps": y.shape[1]}
        if as_function:

            def move(x, u):
                return weight @ jnp.concatenate([x, u])

            chain = ns.NonlinearGaussianChain(*known, move, cov, **rest)
        else:
            chain = ns.LinearGaussianChain(*known, weight, cov, **rest)
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", chain)
            if scale is None:
                seen = dist.MultivariateNormal(x @ LOADING.T, 0.2 * jnp.eye(3))
                seen = seen.to_event(1)
            else:
                seen = dist.Normal(jnp.tanh(x @ LOADING.T), scale).to_event(2)
            numpyro.sample("y", seen, obs=y)

    return model


DATA = random.normal(KEY, (3, 5, 3)), random.normal(random.PRNGKey(1), (3, 4, 1))


def svi_of(model, **options):
    guide = ns.AutoSVAE(model, num_starts=1, **options)
    optimizer = ns.svae_optimizer(optax.adam(0.0), 0.5)
    return guide, SVI(model, guide, optimizer, ns.SVAE_ELBO())


@pytest.mark.parametrize(
    "learnt", [together, pytest.param(alone, marks=pytest.mark.slow), apart]
)
def test_linear_features_are_a_linear_chain(x64, learnt):
    """Bounds and natural steps."""
    found, params = [], {}
    for as_function in (False, True):
        guide, svi = svi_of(driven(learnt, as_function))
        state = svi.init(KEY, *DATA)
        params = params or svi.get_params(state)  # for both
        state = state._replace(optim_state=svi.optim.init(params))
        update = jax.jit(svi.update)
        state, first = update(state, *DATA)
        state, second = update(state, *DATA)
        posterior = guide.get_posterior(svi.get_params(state))
        found.append((first, second, {n: p.mean for n, p in posterior.items()}))
    jax.tree.map(_same, *found)


@pytest.mark.slow
def test_filter_with_learnt_features(x64):
    found, params = [], {}
    for as_function in (False, True):
        model = driven(together, as_function)
        guide, svi = svi_of(model)
        params = params or svi.get_params(svi.init(KEY, *DATA))
        belief = ns.filter(model, guide, params, *DATA)
        belief = belief.update(y=DATA[0][:, 1], actions=DATA[1][:, 0])
        belief = belief.marginals["x"]
        found.append((belief.loc, belief.covariance_matrix))
    jax.tree.map(_same, *found)


def _same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def encode(y, actions):
    weight = numpyro.param("encoder", random.normal(KEY, (3, 4)))
    loc, scale = jnp.split(jnp.tanh(y @ weight), 2, -1)
    return {"x": ns.GaussianPotential.from_loc_scale(loc, jax.nn.softplus(scale) + 0.3)}


def test_beside_a_recognition_network(x64):
    """The loss at the same draws, and all of its gradients, natural ones too."""
    found, params = [], {}
    few = ns.FixedPoint(2, guarded=False)
    for as_function, fixed_point in ((False, None), (True, None), (True, few)):
        model = driven(together, as_function, scale=0.5)
        guide, svi = svi_of(model, recognition=encode, fixed_point=fixed_point)
        params = params or svi.get_params(svi.init(KEY, *DATA))

        def loss(params, guide=guide, model=model):
            return ns.SVAE_ELBO().loss(KEY, params, model, guide, *DATA)

        loss(params)
        found.append(jax.jit(jax.value_and_grad(loss))(params))
    assert any("dynamics" in name for name in found[0][1])
    for own in found[1:]:
        jax.tree.map(
            lambda x, linear: np.testing.assert_allclose(x, linear, 1e-7, 1e-9),
            *(own, found[0]),
        )


LOC, COLUMNS, SCALE, DF = np.array([1.2, 0.3, 0.5]), 4.0, 0.8, 5.0
SEEN, PUSH, SENSOR = np.array([0.3, 1.4, 0.8]), np.array([0.4, -0.6]), 0.3


def features(x, u):
    return jnp.concatenate([jnp.sin(1.2 * x), x, u], -1)


def bent(y, actions):
    """A path of numbers in a scan, which are turned by learnt features."""
    loc, cov = LOC[None], COLUMNS * jnp.eye(3)
    prior = ns.MatrixNormalInverseWishart(loc, cov, DF, SCALE * jnp.eye(1))
    weight, noise = ns.sample("dynamics", prior)
    first = dist.MultivariateNormal(jnp.array([0.5]), jnp.eye(1))
    with numpyro.plate("data", 1):
        x = numpyro.sample("x0", first)
        numpyro.sample("y0", dist.Normal(x, SENSOR**0.5).to_event(1), obs=y[0])

    def step(x, given):
        seen, u = given
        with numpyro.plate("data", 1):
            mean = features(x, u) @ weight.T
            x = numpyro.sample("x", dist.MultivariateNormal(mean, noise))
            numpyro.sample("y", dist.Normal(x, SENSOR**0.5).to_event(1), obs=seen)
        return x, None

    scan(step, x, (y[1:], actions))


def statistics_of(flat, points, weights):
    """Of the steps of any Gaussian of the path: x'x', x' phi and phi phi'."""
    mean, tril = moments(flat)
    cov, total = tril @ tril.T, 0.0
    for t in range(2):
        x = mean[t] + jnp.sqrt(cov[t, t]) * points
        slope = cov[t + 1, t] / cov[t, t]
        later = mean[t + 1] + slope * (x - mean[t])
        left = cov[t + 1, t + 1] - slope * cov[t + 1, t]
        phi = features(x[:, None], jnp.full((len(x), 1), PUSH[t]))
        both = jnp.concatenate([phi, later[:, None]], 1)
        total = total + jnp.einsum("s,si,sj->ij", weights, both, both)
        total = total.at[-1, -1].add(left)
    return total


def moments(flat):
    lower = jnp.zeros((3, 3)).at[jnp.tril_indices(3)].set(flat[3:])
    return flat[:3], jnp.tril(lower, -1) + jnp.diag(jnp.exp(jnp.diagonal(lower)))


def bound_of(flat, points, weights):
    """With the textbook moments of a matrix-normal-inverse-Wishart."""
    mean, tril = moments(flat)
    variances = jnp.diagonal(tril @ tril.T)
    total = dist.Normal(0.5, 1.0).log_prob(mean[0]) - 0.5 * variances[0]
    seen = dist.Normal(mean, SENSOR**0.5).log_prob(SEEN) - 0.5 * variances / SENSOR
    stats = statistics_of(flat, points, weights)
    precision = DF / SCALE
    away = jnp.concatenate([-LOC, jnp.ones(1)])
    squares = precision * away @ stats @ away + jnp.trace(stats[:3, :3]) / COLUMNS
    log_det = np.log(SCALE / 2) - digamma(DF / 2)
    steps = -0.5 * (squares + 2 * (log_det + np.log(2 * np.pi)))
    entropy = dist.MultivariateNormal(mean, scale_tril=tril).entropy()
    return total + jnp.sum(seen) + steps + entropy


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # by the replay of a scan
def test_bent_features_beside_quadrature(x64):
    """The best Gaussian of the path, and a natural step to its statistics."""
    data = SEEN[:, None, None], PUSH[:, None, None]
    loc, columns = LOC[None], COLUMNS * jnp.eye(3)
    start = ns.MatrixNormalInverseWishart(loc, columns, DF, SCALE * jnp.eye(1))
    exact = ns.FixedPoint(max_sweeps=300, tolerance=1e-20)
    guide = ns.AutoSVAE(bent, init={"dynamics": start}, fixed_point=exact)
    whole = ns.svae_optimizer(optax.adam(0.0), 1.0)
    svi = SVI(bent, guide, whole, ns.SVAE_ELBO())
    state, loss = svi.update(svi.init(KEY, *data), *data)
    points, weights = (jnp.asarray(x) for x in ns.Cubature().points(1))

    @jax.jit
    @jax.value_and_grad
    def objective(flat):
        return -bound_of(flat, points[:, 0], weights)

    flat = np.concatenate([SEEN, np.zeros(6)])
    best = minimize(lambda x: jax.device_get(objective(x)), flat, jac=True, tol=1e-12)
    np.testing.assert_allclose(loss, best.fun, rtol=1e-8)
    stats = statistics_of(best.x, points[:, 0], weights)
    found = guide.get_posterior(svi.get_params(state))["dynamics"].natural_parameters
    prior = start.natural_parameters
    moved = found.vv - prior.vv, found.vu - prior.vu, found.uu - prior.uu
    expected = stats[-1:, -1:], stats[-1:, :3], stats[:3, :3]
    for own, other in zip(moved, expected):
        np.testing.assert_allclose(own, other, atol=1e-5)
    assert float(found.df - prior.df) == pytest.approx(2.0)


def test_features_start_with_slow_dynamics():
    """Of weights that nothing is known of; sines are their own slope near zero."""
    rows = jnp.array([[0.5, 0.0], [0.0, 0.5], [0.3, -0.3]])

    def model(y):
        prior = ns.MatrixNormalInverseWishart(
            jnp.zeros((2, 3)), 0.1 * jnp.eye(3), 4.0, 0.1 * jnp.eye(2)
        )
        weight, noise = ns.sample("dynamics", prior)
        chain = ns.NonlinearGaussianChain(
            jnp.zeros(2),
            jnp.eye(2),
            lambda x, u: weight @ jnp.sin(rows @ x),
            noise,
            num_steps=5,
        )
        with numpyro.plate("data", len(y)):
            x = numpyro.sample("x", chain)
            seen = dist.MultivariateNormal(x @ LOADING.T, 0.2 * jnp.eye(3))
            numpyro.sample("y", seen.to_event(1), obs=y)

    guide, svi = svi_of(model)
    params = svi.get_params(svi.init(KEY, DATA[0]))
    weight = guide.get_posterior(params)["dynamics"].mean[:, :3]
    slope = jax.jacobian(lambda x: weight @ jnp.sin(rows @ x))(jnp.zeros(2))
    assert np.min(np.abs(np.linalg.eigvals(slope))) > 0.7
    assert np.max(np.abs(np.linalg.eigvals(slope))) < 1.4


@pytest.mark.parametrize("feature", [lambda x: x, lambda x: x[:1] * x[1:]])
def test_weights_inside_of_a_function_are_refused(feature):
    """Also where the function is zero on the axes, where chains are looked at."""

    def model(y):
        weight = numpyro.sample("weight", dist.Normal(jnp.ones(2), 1.0).to_event(1))
        chain = ns.NonlinearGaussianChain(
            jnp.zeros(2),
            jnp.eye(2),
            lambda x, u: 0.5 * x + jnp.tanh(weight * feature(x)),
            jnp.eye(2),
            num_steps=3,
        )
        with numpyro.plate("data", 2):
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Normal(x, 1.0).to_event(2), obs=y)

    _, svi = svi_of(model)
    with pytest.raises(ValueError, match=r"'x' .*latent 'weight'.* F @ phi"):
        svi.init(KEY, jnp.zeros((2, 3, 2)))
