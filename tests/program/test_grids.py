# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Numbers in plates of several dimensions are those that an index picks."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask, uncondition
from numpyro.infer import Predictive, Trace_ELBO, log_likelihood
import pytest
from scipy import stats

import numpyro_svae as ns
from tests.data import make_svi, steps

N = 4  # a square, whose rows could be taken for columns
ROW, COLUMN = np.divmod(np.arange(N * N), N)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, N))
Y = np.arange(N)[:, None] - 2.0 * np.arange(N) + 0.3 * X**2
SEEN = RNG.random((N, N)) < 0.8
COUNTS = RNG.poisson(3.0 * np.arange(1, N + 1)[:, None], (N, N))
CUBE = RNG.standard_normal((4, 3, 2))
C, B, A = (i.ravel() for i in np.indices(CUBE.shape))
B2, A2 = (i.ravel() for i in np.indices((3, 2)))


def rows():
    return numpyro.plate("rows", N, dim=-2)


def columns():
    return numpyro.plate("columns", N, dim=-1)


def normal(name, loc, scale):
    return numpyro.sample(name, dist.Normal(loc, scale))


def observe(loc, scale, y):
    numpyro.sample("y", dist.Normal(loc, scale), obs=y)


def scale():
    return 1 / jnp.sqrt(numpyro.sample("t", dist.Gamma(2.0, 2.0)))


def crossed():
    mu, s = normal("mu", 0.0, 1.0), scale()
    with rows():
        m = normal("m", 0.0, s)
    with columns():
        b = normal("b", 0.0, 2.0)
    with rows(), columns(), mask(mask=SEEN):
        observe(mu + m + b, 0.5, Y)


def crossed_by_index():
    mu, s = normal("mu", 0.0, 1.0), scale()
    with numpyro.plate("rows", N):
        m = normal("m", 0.0, s)
    with numpyro.plate("columns", N):
        b = normal("b", 0.0, 2.0)
    with numpyro.plate("data", N * N), mask(mask=SEEN.ravel()):
        observe(mu + m[ROW] + b[COLUMN], 0.5, Y.ravel())


def nested():
    mu, s = normal("mu", 0.0, 1.0), scale()
    with numpyro.plate("of a", 2, dim=-1):
        a = normal("a", mu, 1.0)
        with numpyro.plate("of b", 3, dim=-2):
            b = normal("b", a, s)
            with numpyro.plate("of c", 4, dim=-3):
                observe(normal("c", b, 1.0), 0.5, CUBE)


def nested_by_index():
    mu, s = normal("mu", 0.0, 1.0), scale()
    with numpyro.plate("of a", 2):
        a = normal("a", mu, 1.0)
    with numpyro.plate("of b", 6):
        b = normal("b", a[A2], s)
    with numpyro.plate("of c", 24):
        c = normal("c", b[2 * B + A], 1.0)
    with numpyro.plate("data", 24):
        observe(c[np.arange(24)], 0.5, CUBE.ravel())


def slopes():
    with rows():
        m, s = normal("m", 0.0, 1.0), normal("s", 0.0, 1.0)
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with columns():
            observe(m + s * X, 0.5, Y)
            numpyro.sample("counts", dist.Poisson(rate), obs=COUNTS)


def slopes_by_index():
    with numpyro.plate("rows", N):
        m, s = normal("m", 0.0, 1.0), normal("s", 0.0, 1.0)
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", N * N):
        observe(m[ROW] + s[ROW] * X.ravel(), 0.5, Y.ravel())
        numpyro.sample("counts", dist.Poisson(rate[ROW]), obs=COUNTS.ravel())


def cells():
    with rows(), columns():
        observe(normal("cell", 0.5 * X, 1.0), 0.5, Y)


def subsampled():
    with numpyro.plate("rows", N, subsample_size=2, dim=-2):
        m = normal("m", 0.0, 1.0)
        with columns():
            observe(m, 0.5, Y[:2])


def learnt(model, **init):
    guide = ns.AutoSVAE(model, num_starts=1, **init)
    params, losses = steps(make_svi(model, guide, natural=0.5), 4)
    return guide, params, losses


PROGRAMS = {
    "crossed": (crossed, crossed_by_index),
    "nested": (nested, nested_by_index),
    "slopes": (slopes, slopes_by_index),
}


@pytest.mark.x64
@pytest.mark.parametrize("program", PROGRAMS)
def test_broadcasting_is_picking(program):
    (guide, params, losses), other = map(learnt, PROGRAMS[program])
    np.testing.assert_allclose(losses, other[2], rtol=1e-9)
    found, expected = guide.get_posterior(params), other[0].get_posterior(other[1])
    draws = Predictive(guide, params=params, num_samples=3)(random.PRNGKey(0))
    sites = numpyro.handlers.trace(numpyro.handlers.seed(guide.model, 0)).get_trace()
    for name, posterior in expected.items():
        for part in ("mean", "variance"):
            own = getattr(found[name], part)
            assert own.shape == np.shape(sites[name]["value"])
            other_part = np.ravel(getattr(posterior, part))
            np.testing.assert_allclose(np.ravel(own), other_part, rtol=1e-9)
        assert draws[name].shape == (3, *np.shape(sites[name]["value"]))


@pytest.mark.x64
def test_numbers_of_cells_have_the_evidence():
    loss = learnt(cells)[2][-1]
    evidence = stats.norm(0.5 * X, np.sqrt(1.25)).logpdf(Y).sum()
    long = steps(make_svi(cells, ns.AutoSVAE(cells, num_starts=1), natural=1.0), 3)
    assert loss > -evidence
    np.testing.assert_allclose(long[1][-1], -evidence, rtol=1e-9)


@pytest.mark.x64
def test_what_is_done_with_a_fit():
    guide, params, _ = learnt(crossed)
    draws = Predictive(guide, params=params, num_samples=3)(random.PRNGKey(0))
    predicted = Predictive(uncondition(crossed), draws)(random.PRNGKey(1))
    assert predicted["y"].shape == (3, N, N)
    assert log_likelihood(crossed, draws)["y"].shape == (3, N, N)
    given = random.PRNGKey(2), params, crossed, guide
    here = ns.SVAE_ELBO().loss(*given)
    drawn = jax.jit(lambda: Trace_ELBO(num_particles=3000).loss(*given))()
    np.testing.assert_allclose(drawn, here, atol=0.3)
    begun = make_svi(crossed, ns.AutoSVAE(crossed, init=guide.get_posterior(params)))
    again = begun.get_params(begun.init(random.PRNGKey(0)))
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(again)):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_numbers_of_subsampled_plates_are_named():
    with pytest.raises(ValueError, match=r"Site 'm'.*a\[group\]"):
        make_svi(subsampled, ns.AutoSVAE(subsampled)).init(random.PRNGKey(0))


def test_whole_numbers_and_other_sizes_meet_numbers_in_two_plates():
    """The former are looked at in each call, and the latter are refused by name."""

    def model(counts, size=3):
        with numpyro.plate("rows", size, dim=-2):
            a = normal("a", 0.0, 1.0)
        with numpyro.plate("columns", 2):
            b = normal("b", 0.0, 1.0)
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        times = jnp.arange(1, size + 1)[:, None]
        with numpyro.plate("rows", size, dim=-2), numpyro.plate("columns", 2):
            numpyro.sample("counts", dist.Poisson(rate * times), obs=counts)
            observe(a + b, 1.0, 1.0 * counts)

    guide, counts = (
        ns.AutoSVAE(model, num_starts=1),
        jnp.array([[1, 2], [0, 0], [3, 5]]),
    )
    params, _ = steps(make_svi(model, guide, natural=1.0), 1, counts)
    found = guide.get_posterior(params)["rate"].mean
    expected = (2.0 + counts.sum(0)) / (1.0 + 6.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert guide.posterior_local(params, counts)["a"].mean.shape == (3, 1)
    with pytest.raises(ValueError, match=r"'a': found a batch of shape \(4, 1\)"):
        guide.posterior_local(params, jnp.ones((4, 2), int), 4)
