# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Means of means: global Gaussian sites whose priors depend on other global sites.

They are compared with coordinate ascent in numpy, which makes every site independent of
the others, and with spellings that are read in another way.
"""

from functools import partial

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence
from numpyro.infer import Predictive
import pytest
from scipy.special import digamma, gammaln

import numpyro_svae as ns
from tests.data import make_svi, steps
from tests.mean_field import Gammas, Known, Tree, Wishart
from tests.program.test_errors import assert_says, error_of

pytestmark = pytest.mark.x64

G, D, N = 4, 2, 14
RNG = np.random.default_rng(0)
GROUP = np.arange(N) % G
CENTRES = np.array([[0.0, 1.0], [2.0, 2.0], [-1.0, 0.0], [1.0, -1.5]])
Y = CENTRES[GROUP] + RNG.normal(0.0, 0.8, (N, D))
NOISE = np.array([[0.6, 0.2], [0.2, 0.9]])
WIDE = 10.0 * np.eye(D)
PSI = np.array([[1.0, 0.3], [0.3, 2.0]])


def fitted(model, *args, count=150, natural=0.6, **options):
    guide = ns.AutoSVAE(model, num_starts=1, **options)
    params, losses = steps(make_svi(model, guide, natural), count, *args)
    return guide, params, losses


def assert_is(posteriors, name, vectors):
    """Posteriors of a batch of vectors, or of one."""
    found = posteriors[name]
    mean = np.stack([x.mean for x in vectors]).reshape(found.mean.shape)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=1e-8)
    variance = np.stack([np.diag(x.cov) for x in vectors])
    variance = variance.reshape(found.variance.shape)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-6)


# a population of means


def wishart():
    prior = dist.InverseWishart(5.0, scale_matrix=jnp.asarray(PSI))
    return numpyro.sample("S", prior)


def gammas(name="S", count=D):
    fn = dist.Gamma(2.0, 1.5)
    return numpyro.sample(name, fn.expand([count]).to_event(1)) ** -0.5


def own_gammas(count=D):
    return Gammas(2.0 * np.ones(count), 1.5 * np.ones(count), np.eye(count))


def one_gamma(cov=None):
    return Gammas(2.0 * np.ones(1), 1.5 * np.ones(1), np.ones((D, 1)), cov)


SPREADS = {
    "known": (lambda: jnp.asarray(PSI), partial(Known, PSI)),
    "wishart": (wishart, partial(Wishart, 5.0, PSI)),
    "precisions": (gammas, own_gammas),
    "variance": (
        lambda: numpyro.sample("S", dist.InverseGamma(2.0, 1.5)) * PSI,
        partial(one_gamma, PSI),
    ),
}


def normal(loc, spread):
    """A Gaussian vector with a covariance, or with deviations."""
    if jnp.ndim(spread) == 2:
        return dist.MultivariateNormal(loc, spread)
    return dist.Normal(loc, spread).to_event(1)


def seen(mean, y, noise=NOISE):
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.MultivariateNormal(mean, noise), obs=y)


def wide(name, size=D, scale=10.0):
    fn = dist.MultivariateNormal(jnp.zeros(size), scale * jnp.eye(size))
    return numpyro.sample(name, fn)


def groups(y, spread, top=None):
    top = wide("top") if top is None else top
    spread = spread()
    with numpyro.plate("groups", G):
        mu = numpyro.sample("mu", normal(top, spread))
    seen(mu[GROUP], y)


KINDS = [*((kind, True) for kind in SPREADS), ("wishart", False), ("variance", False)]


@pytest.mark.parametrize(("kind", "learnt"), KINDS)
def test_means_of_groups_and_their_population(kind, learnt):
    spread, noise = SPREADS[kind]
    known = np.array([0.5, -0.5])
    args = () if learnt else (jnp.asarray(known),)
    guide, params, losses = fitted(groups, Y, spread, *args)
    tree, eye = Tree(), np.eye(D)
    noise = tree.noise(noise())
    parents, offset = [], known
    if learnt:
        top = tree.vector([], Known(WIDE))
        parents, offset = [(eye, top)], 0.0
    mu = [tree.vector(parents, noise, offset) for _ in range(G)]
    for y, g in zip(Y, GROUP):
        tree.see(y, [(eye, mu[g])], Known(NOISE))
    np.testing.assert_allclose(-losses[-1], tree.ascend(), rtol=1e-8)
    posteriors = guide.get_posterior(params)
    assert_is(posteriors, "mu", mu)
    if learnt:
        assert_is(posteriors, "top", [top])
    if (kind, learnt) == ("known", True):  # means are those of the joint Gaussian
        assert_joint(
            np.concatenate([posteriors["top"].mean[None], posteriors["mu"].mean])
        )


def assert_joint(means):
    """Means of top and of the groups, from all of their dense precision."""
    weight = np.linalg.solve(PSI, np.eye(D))
    counts = np.bincount(GROUP)
    precision = np.kron(np.diag([G, *np.ones(G)]), weight)
    precision -= np.kron(np.eye(G + 1)[0][:, None] * ([0] + [1] * G), weight)
    precision -= np.kron(np.array([0] + [1] * G)[:, None] * np.eye(G + 1)[0], weight)
    precision += np.kron(np.diag([1.0, *np.zeros(G)]), np.eye(D) / 10)
    precision += np.kron(np.diag([0, *counts]), np.linalg.solve(NOISE, np.eye(D)))
    sums = np.eye(G)[GROUP].T @ Y
    info = np.concatenate([np.zeros((1, D)), np.linalg.solve(NOISE, sums.T).T])
    expected = np.linalg.solve(precision, info.reshape(-1))
    np.testing.assert_allclose(means.reshape(-1), expected, rtol=1e-6)


# other maps and more levels

REGION = np.array([0, 1, 1, 0])
KIND = np.array([2, 0, 1, 1])
MAP = RNG.standard_normal((D, 3))
SHARES = np.array([[1.0, 0.0], [0.3, 0.7], [0.5, 0.5], [0.0, 1.0]])
SHIFT = RNG.standard_normal((G, D))


def levels(y, noise):
    """A grand mean, regions, and groups in them; all of their spreads are learnt."""
    top = wide("top")
    outer, inner = noise("outer"), noise("inner")
    with numpyro.plate("regions", 2):
        region = numpyro.sample("region", normal(top, outer))
    with numpyro.plate("groups", G):
        mu = numpyro.sample("mu", normal(region[REGION], inner))
    seen(mu[GROUP], y)


def test_three_levels():
    guide, params, losses = fitted(levels, Y, gammas, count=250)
    tree, eye = Tree(), np.eye(D)
    outer, inner = tree.noise(own_gammas()), tree.noise(own_gammas())
    top = tree.vector([], Known(WIDE))
    region = [tree.vector([(eye, top)], outer) for _ in range(2)]
    mu = [tree.vector([(eye, region[r])], inner) for r in REGION]
    for y, g in zip(Y, GROUP):
        tree.see(y, [(eye, mu[g])], Known(NOISE))
    np.testing.assert_allclose(-losses[-1], tree.ascend(), rtol=1e-8)
    posteriors = guide.get_posterior(params)
    for name, vectors in (("top", [top]), ("region", region), ("mu", mu)):
        assert_is(posteriors, name, vectors)


def crossed(y, shift, shares):
    """Groups of a map of a vector, shares of regions, a kind and something known."""
    top = wide("top", 3)
    noise = gammas("noise")
    scale = numpyro.sample("scale", dist.Gamma(2.0, 1.5)) ** -0.5
    with numpyro.plate("regions", 2):
        region = numpyro.sample("region", dist.Normal(jnp.zeros(D), 2.0).to_event(1))
    with numpyro.plate("kinds", 3):
        kind = numpyro.sample("kind", dist.Normal(0.0, 1.5))
    with numpyro.plate("groups", G):
        loc = MAP @ top + shares @ region + kind[KIND][:, None] + shift
        weights = jnp.sqrt(1.0 + jnp.arange(G))[:, None]
        mu = numpyro.sample("mu", dist.Normal(loc, scale / weights).to_event(1))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(mu[GROUP], noise).to_event(1), obs=y)


def test_maps_offsets_and_several_parents():
    """The regions are read as shares, even of a first call where each group has one."""
    guide = ns.AutoSVAE(crossed)
    with handlers.seed(rng_seed=0):
        guide(Y, SHIFT, jnp.asarray(np.eye(2)[REGION]))
    svi = make_svi(crossed, guide, 0.6)
    params, losses = steps(svi, 300, Y, SHIFT, jnp.asarray(SHARES))
    tree, eye, column = Tree(), np.eye(D), np.ones((D, 1))
    noise, scale = tree.noise(own_gammas()), tree.noise(one_gamma())
    top = tree.vector([], Known(10 * np.eye(3)))
    region = [tree.vector([], Known(4 * eye)) for _ in range(2)]
    kind = [tree.vector([], Known(1.5**2 * np.eye(1))) for _ in range(3)]
    mu = []
    for g in range(G):
        above = [(MAP, top), (column, kind[KIND[g]])]
        above += [(share * eye, r) for share, r in zip(SHARES[g], region)]
        mu.append(tree.vector(above, scale, SHIFT[g], 1.0 + g))
    for y, g in zip(Y, GROUP):
        tree.see(y, [(eye, mu[g])], noise)
    np.testing.assert_allclose(-losses[-1], tree.ascend(), rtol=1e-8)
    posteriors = guide.get_posterior(params)
    for name, vectors in (("top", [top]), ("region", region), ("kind", kind)):
        assert_is(posteriors, name, vectors)
    assert_is(posteriors, "mu", mu)


# weights


INPUTS = RNG.standard_normal((N, 3))
COLUMNS = np.eye(3) + 0.3


def matrices(y):
    """Weights of groups around a matrix, with known dependent entries."""
    zeros, eye = jnp.zeros((D, 3)), jnp.eye(3)
    top = numpyro.sample("top", dist.MatrixNormal(zeros, 2.0 * jnp.eye(D), eye))
    roots = jnp.linalg.cholesky(NOISE), jnp.linalg.cholesky(COLUMNS)
    with numpyro.plate("groups", G):
        mu = numpyro.sample("mu", dist.MatrixNormal(top, *roots))
    seen(jnp.einsum("nij,nj->ni", mu[GROUP], INPUTS), y)


def on_the_right(y):
    """The same on the right of a vector, with a precision for each entry."""
    top = numpyro.sample("top", dist.Normal(jnp.zeros((3, D)), 2.0).to_event(2))
    prior = dist.Gamma(2.0, 1.5).expand([3, D]).to_event(2)
    S = numpyro.sample("S", prior)
    with numpyro.plate("groups", G):
        mu = numpyro.sample("mu", dist.Normal(top, S**-0.5).to_event(2))
    seen(jnp.einsum("nj,nji->ni", INPUTS, mu[GROUP]), y)


@pytest.mark.parametrize("model", [matrices, on_the_right])
def test_weights_of_groups_around_a_weight(model):
    guide, params, losses = fitted(model, Y)
    tree, eye = Tree(), np.eye(3 * D)
    top = tree.vector([], Known(4.0 * eye))
    if model is matrices:
        noise = Known(np.kron(NOISE, COLUMNS))
        shown = [np.kron(np.eye(D), u) for u in INPUTS]
    else:
        noise = tree.noise(own_gammas(3 * D))
        shown = [np.kron(u, np.eye(D)) for u in INPUTS]
    mu = [tree.vector([(eye, top)], noise) for _ in range(G)]
    for y, g, u in zip(Y, GROUP, shown):
        tree.see(y, [(u, mu[g])], Known(NOISE))
    np.testing.assert_allclose(-losses[-1], tree.ascend(), rtol=1e-8)
    posteriors = guide.get_posterior(params)
    assert_is(posteriors, "top", [top])
    assert_is(posteriors, "mu", mu)


# a joint prior of mean and covariance; other spellings


def members(top, spread, y, nested):
    """Groups that data pick, or whose data have the plate of the group within."""
    with numpyro.plate("groups", G, dim=-1):
        mu = numpyro.sample("mu", normal(top, spread))
        if nested:
            with numpyro.plate("data", 3, dim=-2):
                own = dist.MultivariateNormal(mu, NOISE)
                numpyro.sample("y", own, obs=y.reshape(3, G, D))
    if not nested:
        seen(mu[GROUP[: 3 * G]], y)


def joint_population(y, nested):
    prior = ns.NormalInverseWishart(jnp.zeros(D), 0.1, 5.0, jnp.asarray(PSI))
    members(*ns.sample("top", prior), y, nested)


def normal_gammas(y, nested):
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.5).expand([D]).to_event(1))
    top = numpyro.sample("top", dist.Normal(0.5, 3.0 * tau**-0.5).to_event(1))
    members(top, tau**-0.5, y, nested)


def regions(y, nested):
    """Of regions, of which the members pick one."""
    top = wide("top")
    outer, inner = gammas("outer"), gammas("inner")
    with numpyro.plate("regions", 2):
        region = numpyro.sample("region", normal(top, outer))
    members(region[REGION], inner, y, nested)


@pytest.mark.parametrize("model", [joint_population, normal_gammas, regions])
def test_data_pick_groups_or_are_in_their_plates(model):
    """The groups are one global block, or latent vectors of their plate."""
    y = Y[: 3 * G]
    picked, inside = (fitted(model, y, nested) for nested in (False, True))
    assert not picked[0].structure.locals
    assert list(inside[0].structure.locals) == ["mu"]
    np.testing.assert_allclose(picked[2][-1], inside[2][-1], rtol=1e-9)
    found, expected = (own[1]["top_auto_natural"] for own in (picked, inside))
    for pair in zip(*map(jax.tree.leaves, (found, expected))):
        np.testing.assert_allclose(*pair, rtol=1e-6)


# weights by group beside a path


T, SEQUENCES = 3, 4


def loadings_by_group(y, group, known=None):
    """Paths with learnt dynamics, seen through the loadings of their group."""
    prior = ns.MatrixNormalInverseWishart(
        0.8 * jnp.eye(D), jnp.eye(D), 5.0, 0.5 * jnp.eye(D)
    )
    F, Q = ns.sample("dynamics", prior)
    if known is None:
        scale = numpyro.sample("spread", dist.Gamma(2.0, 1.0)) ** -0.5
        top = numpyro.sample("top", dist.Normal(jnp.zeros((3, D)), 2.0).to_event(2))
        mean = numpyro.sample("mean", dist.Normal(jnp.zeros(3), 3.0).to_event(1))
    else:
        top, mean, scale = known
    noise = gammas("noise", 3)
    with numpyro.plate("groups", 2):
        C = numpyro.sample("C", dist.Normal(top, scale).to_event(2))
        d = numpyro.sample("d", dist.Normal(mean, 0.7).to_event(1))
    with numpyro.plate("sequences", SEQUENCES):
        chain = ns.LinearGaussianChain(jnp.zeros(D), jnp.eye(D), F, Q, num_steps=T)
        x = numpyro.sample("x", chain)
        loc = jnp.einsum("nij,ntj->nti", C[group], x) + d[group][:, None]
        numpyro.sample("y", dist.Normal(loc, noise).to_event(2), obs=y)


@pytest.mark.slow
def test_loadings_and_offsets_by_group_beside_learnt_dynamics():
    """Of given posteriors: the bound, what is said to a population and by it."""
    group = np.arange(SEQUENCES) % 2
    y = np.cumsum(RNG.normal(0.3, 1.0, (SEQUENCES, T, 3)), 1)
    C, top = RNG.standard_normal((2, 3, D)), RNG.standard_normal((3, D))
    d, mean = RNG.standard_normal((2, 3)), RNG.standard_normal(3)
    dynamics = ns.MatrixNormalInverseWishart(
        0.7 * jnp.eye(D), 9.0 * jnp.eye(D), 9.0, 3.0 * jnp.eye(D)
    )
    below = {
        "dynamics": dynamics,
        "noise": dist.Gamma(5.0 * jnp.ones(3), 2.0).to_event(1),
        "C": dist.Normal(C, 0.3).to_event(2),
        "d": dist.Normal(d, 0.2).to_event(1),
    }
    above = {
        "spread": dist.Gamma(5.0, 3.0),
        "top": dist.Normal(top, 0.5).to_event(2),
        "mean": dist.Normal(mean, 0.4).to_event(1),
    }
    losses, params = moved(loadings_by_group, y, group, init=below | above)
    precision = 5.0 / 3.0
    known = top, mean, precision**-0.5
    expected, others = moved(loadings_by_group, y, group, known, init=below)
    for name in below:  # which do not feel how sure it is
        pair = (p[f"{name}_auto_natural"] for p in (params, others))
        for own in zip(*map(jax.tree.leaves, pair)):
            np.testing.assert_allclose(*own, rtol=1e-8, atol=1e-8)
    # the bound feels it
    more = C.size * (precision * 0.5**2 + np.log(precision) - digamma(5) + np.log(3))
    more = 0.5 * (more + d.size * 0.4**2 / 0.7**2)
    priors = dist.Gamma(2.0, 1.0), dist.Normal(0.0, 2.0), dist.Normal(0.0, 3.0)
    for own, prior in zip(above.values(), priors):
        base = own if own.event_shape == () else own.base_dist
        more = more + kl_divergence(base, prior).sum()
    np.testing.assert_allclose(losses, expected + more, rtol=1e-9)
    # populations, given what is in them
    found = params["spread_auto_natural"]
    residual = (C - top) ** 2 + 0.3**2 + 0.5**2
    np.testing.assert_allclose(found.concentration, 2.0 + 0.5 * C.size, rtol=1e-9)
    np.testing.assert_allclose(found.rate, 1.0 + 0.5 * residual.sum(), rtol=1e-9)
    for name, own, each, wide in (
        ("top", C, precision, 4.0),
        ("mean", d, 0.49**-1, 9.0),
    ):
        found, size = params[f"{name}_auto_natural"], own[0].size
        info = each * own.sum(0).reshape(-1)
        np.testing.assert_allclose(found.info_vector, info, rtol=1e-8)
        total = (1 / wide + 2 * each) * np.eye(size)
        np.testing.assert_allclose(found.precision, total, rtol=1e-8, atol=1e-12)


def moved(model, *args, **options):
    """The loss, and natural parameters after one whole natural step."""
    _, params, losses = fitted(model, *args, count=1, natural=1.0, **options)
    return losses[0], params


# numbers; rates


SCHOOLS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y=None):
    mu = numpyro.sample("mu", dist.Normal(1.0, 5.0))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 100.0))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau**-0.5))
        numpyro.sample("y", dist.Normal(theta, ERRORS), obs=y)


@pytest.fixture(scope="module")
def schools_fit():
    with jax.enable_x64(True):
        return fitted(schools, SCHOOLS, count=300)


def test_numbers_of_a_plate_that_have_a_datum_each(schools_fit):
    guide, params, losses = schools_fit
    tree, eye = Tree(), np.eye(1)
    tau = tree.noise(Gammas(2.0 * np.ones(1), 100.0 * np.ones(1), eye))
    mu = tree.vector([], Known(25.0 * eye), 1.0)
    theta = [tree.vector([(eye, mu)], tau) for _ in SCHOOLS]
    for y, x, error in zip(SCHOOLS, theta, ERRORS):
        tree.see(np.array([y]), [(eye, x)], Known(error**2 * eye))
    np.testing.assert_allclose(-losses[-1], tree.ascend(), rtol=1e-8)
    posteriors = guide.get_posterior(params)
    assert_is(posteriors, "mu", [mu])
    assert_is(posteriors, "theta", theta)


def test_what_reads_a_fit(schools_fit):
    """Draws, predictions, the report and ArviZ know of populations."""
    guide, params, losses = schools_fit
    assert "global: Gaussian of 'theta', given 'mu', 'tau'" in str(guide.structure)
    draws = guide.sample_posterior(random.key(0), params, SCHOOLS, sample_shape=(400,))
    posteriors = guide.get_posterior(params)
    for name in ("mu", "theta"):
        own = posteriors[name]
        error = np.abs(draws[name].mean(0) - own.mean) / np.sqrt(own.variance / 400)
        assert np.max(error) < 5
    predictive = Predictive(schools, guide=guide, params=params, num_samples=50)
    assert predictive(random.key(1))["y"].shape == (50, 8)
    report = ns.report(schools, guide, params, SCHOOLS, losses=losses, show=False)
    share = report.priors["theta"].share[:, 0]
    expected = (
        params["tau_auto_natural"].concentration / params["tau_auto_natural"].rate
    )
    expected = expected / (expected + ERRORS**-2)
    np.testing.assert_allclose(share, expected, rtol=1e-6)
    data = ns.to_arviz(schools, guide, params, SCHOOLS, num_samples=20)
    assert data.posterior["theta"].shape == (1, 20, 8)


def rates(y, site):
    """Counts of groups, or scales of their data, with a shared rate."""
    rate = numpyro.sample("rate", dist.Gamma(1.5, 0.5))
    with numpyro.plate("groups", G):
        own = numpyro.sample("own", dist.Gamma(3.0, 2.0 * rate))
    with numpyro.plate("data", N):
        fn = dist.Poisson if site == "counts" else lambda p: dist.Normal(0.0, p**-0.5)
        numpyro.sample("y", fn(own[GROUP]), obs=y)


@pytest.mark.parametrize("site", ["counts", "scales"])
def test_gammas_of_groups_with_a_shared_rate(site):
    y = RNG.poisson(3.0, N) if site == "counts" else Y[:, 0]
    _, params, losses = fitted(rates, y, site)
    count, total = np.bincount(GROUP), np.bincount(GROUP, y)
    if site == "counts":
        more, faster = total, count
        base = -gammaln(y + 1.0).sum()
    else:
        more, faster = 0.5 * count, 0.5 * np.bincount(GROUP, y**2)
        base = -0.5 * N * np.log(2 * np.pi)
    a, mean = 1.5 + 3.0 * G, 1.0
    for _ in range(200):
        shape, scale = 3.0 + more, 2.0 * mean + faster
        b = 0.5 + 2.0 * np.sum(shape / scale)
        mean = a / b
    found = params["own_auto_natural"]
    np.testing.assert_allclose(found.concentration, shape, rtol=1e-6)
    np.testing.assert_allclose(found.rate, scale, rtol=1e-6)
    np.testing.assert_allclose(params["rate_auto_natural"].rate, b, rtol=1e-6)
    # the bound: expected log joint density and entropies
    own, log_own = shape / scale, digamma(shape) - np.log(scale)
    log_mean = digamma(a) - np.log(b)
    bound = base + np.sum(more * log_own - faster * own)
    bound += np.sum(3 * (np.log(2) + log_mean) - gammaln(3) + 2 * log_own)
    bound += -np.sum(2 * mean * own) - kl_divergence(
        dist.Gamma(a, b), dist.Gamma(1.5, 0.5)
    )
    bound += np.sum(
        shape - np.log(scale) + gammaln(shape) + (1 - shape) * digamma(shape)
    )
    np.testing.assert_allclose(-losses[-1], bound, rtol=1e-8)


# what is refused


def population(change):
    def model(y):
        top = wide("top")
        S = wishart()
        with numpyro.plate("groups", G):
            mu = numpyro.sample("mu", change(top, S))
        seen(mu[GROUP], y)

    return error_of(model, Y)


@pytest.mark.parametrize(
    "change",
    [
        lambda top, S: dist.MultivariateNormal(top**2, S),
        lambda top, S: dist.MultivariateNormal(top, S + jnp.eye(D)),
        lambda top, S: dist.MultivariateNormal(S[0], S),
        lambda top, S: dist.Normal(top, jnp.sqrt(jnp.diag(S))).to_event(1),
        lambda top, S: dist.MultivariateNormal(top, S * jnp.exp(top[0])),
    ],
)
def test_populations_that_are_not_conjugate(change):
    message = population(change)
    assert_says(message, "Site 'mu'", "'S'", "not conjugate", "Accepted", "Write")
