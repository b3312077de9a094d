# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What ArviZ, of either line, makes of each structure.

Guides are at their starts: nothing here is about a fit.
"""

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
import pytest
from scipy.stats import norm

import numpyro_svae as ns
from tests.guide.conftest import DRAWS
from tests.guide.test_to_arviz import IS_1, group

RNG = np.random.default_rng(0)
EYE = jnp.eye(2)


def labelled_mixture(y, labels, known):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("clusters", 2):
        prior = ns.NormalInverseWishart(jnp.zeros(2), 0.1, 4.0, EYE)
        mu, Sigma = ns.sample("cluster", prior)
    with numpyro.plate("data", len(y)):
        fn = dist.Categorical(weights)
        z = numpyro.sample("z", fn, obs=labels, obs_mask=known)
        numpyro.sample("y", dist.MultivariateNormal(mu[z], Sigma[z]), obs=y)


def hmm(y, seen):
    with numpyro.plate("states", 2):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("sequences", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(jnp.ones(2) / 2, rows, 4))
        numpyro.sample("y", dist.Normal(mu[z], 1.0).mask(seen).to_event(1), obs=y)


def subsampled_counts(y, batch_size=None):
    """Global sites alone, and a plate of which a step sees a part."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    size = numpyro.sample("size", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", len(y), subsample_size=batch_size) as index:
        numpyro.sample("y", dist.Poisson(rate), obs=y[index, 0])
        numpyro.sample("w", dist.Exponential(size), obs=y[index, 1] + 0.5)


def switching(y_0, y):
    prior = ns.MatrixNormalInverseWishart(0.9 * EYE, EYE, 4.0, 0.1 * EYE)
    with numpyro.plate("states", 2):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(2)))
        F, Q = ns.sample("dynamics", prior)
    plate = numpyro.plate("sequences", y.shape[1])
    with plate:
        z = numpyro.sample("z_0", dist.Categorical(jnp.ones(2) / 2))
        x = numpyro.sample("x_0", dist.MultivariateNormal(jnp.zeros(2), EYE))
        numpyro.sample("y_0", dist.Normal(x, 0.5).to_event(1), obs=y_0)

    def step(carry, y):
        z, x = carry
        with plate:
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            loc = (F[z] @ x[..., None])[..., 0]
            x = numpyro.sample("x", dist.MultivariateNormal(loc, Q[z]))
            numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)
        return (z, x), None

    scan(step, (z, x), y)


def at_start(model, *args, **options):
    """A guide as it starts, without a step."""
    guide = ns.AutoSVAE(model, num_starts=1, **options)
    with trace() as messages, seed(rng_seed=0):
        guide(*args)
    params = {n: m["value"] for n, m in messages.items() if m["type"] == "param"}
    return model, guide, params, *args


def mixture_at_start():
    y, known = RNG.standard_normal((8, 2)), np.arange(8) < 3
    return at_start(labelled_mixture, y, np.arange(8) % 2, known)


def hmm_at_start():
    seen = np.arange(4) < np.array([4, 4, 2, 3, 4, 4])[:, None]
    return at_start(hmm, RNG.standard_normal((6, 4)), seen)


def counts_at_start():
    return at_start(subsampled_counts, jnp.asarray(RNG.poisson(3.0, (8, 2))), 4)


def switching_at_start():
    y = RNG.standard_normal((4, 6, 2)).astype(np.float32)
    return at_start(switching, y[0], y[1:])


# The entries that count, by observed site.
STRUCTURES = {
    "mixture": (mixture_at_start, {"y": (8, 2), "z_observed": (3,)}),
    "chain of vectors": (None, {"y": (4, 5, 3)}),
    "chain of states": (hmm_at_start, {"y": (21,)}),
    "counts": (counts_at_start, {"y": (8,), "w": (8,)}),
    "scan": (switching_at_start, {"y_0": (6, 2), "y": (3, 6, 2)}),
}
MARKS = {"scan": [pytest.mark.slow]}
NAMES = [pytest.param(name, marks=MARKS.get(name, [])) for name in STRUCTURES]


@pytest.fixture(params=NAMES)
def structure(request):
    """What ArviZ is given of a structure, for ``loo_pit`` too, and its entries."""
    make, entries = STRUCTURES[request.param]
    if make is None:
        lds = request.getfixturevalue("lds")
        fitted = lds.model, lds.guide, lds.params, *lds.args
        options = {"num_samples": DRAWS, "num_particles": 4}
        idata = request.getfixturevalue("lds_data")
    else:
        fitted, options = make(), {"num_samples": DRAWS, "num_particles": 1}
        idata = ns.to_arviz(*fitted, **options)
    return idata, ns.to_arviz(*fitted, **options, loo_pit=True), entries


def pit_of(idata, name):
    if IS_1:
        from arviz_stats import loo_pit

        return loo_pit(idata, var_names=name)[name].values
    return az.loo_pit(idata, y=name)


@pytest.mark.filterwarnings("ignore")
def test_arviz_works_on_each_structure(structure):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    idata, left_out, entries = structure
    names = [n for n in group(idata, "posterior").data_vars if n not in ("x", "z")]
    summary = az.summary(idata, var_names=names)
    assert np.isfinite(summary["mean"].to_numpy().astype(float)).all()
    loo = az.loo(idata)
    assert np.isfinite(loo.elpd if IS_1 else loo.elpd_loo)
    assert len(az.compare({"one": idata, "two": idata})) == 2
    if IS_1:
        sensitivity = [az.psense_summary(idata, var_names=names)["prior"]]
        az.plot_ppc_dist(idata, var_names=["y"], num_samples=5)
        az.plot_loo_pit(left_out, var_names=["y"])
    else:
        found = az.psens(idata, component="prior", var_names=names)
        sensitivity = [np.ravel(found[name]) for name in names]
        az.plot_ppc(idata, var_names=["y"], num_pp_samples=5)
        az.plot_loo_pit(left_out, y="y")
    assert np.isfinite(np.concatenate(sensitivity).astype(float)).all()
    for name, shape in entries.items():
        pit = pit_of(left_out, name)
        assert pit.shape == shape and np.all((pit >= 0) & (pit < 1 + 1e-5))
    pyplot.close("all")
    if "y_0" in entries:  # time leads in a scan
        assert group(idata, "observed_data")["y"].dims[:2] == ("time", "sequences")


def levels(y, group):
    """Vectors about levels of their own, whose variances add up to that of an entry."""
    with numpyro.plate("groups", 1):
        mu = numpyro.sample("mu", dist.MultivariateNormal(jnp.zeros(2), 4.0 * EYE))
    with numpyro.plate("data", len(y)):
        x = numpyro.sample("x", dist.MultivariateNormal(mu[group], EYE))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)


@pytest.mark.filterwarnings("ignore")
def test_transforms_of_data_that_are_left_out_have_a_closed_form():
    y = np.random.default_rng(1).standard_normal((8, 2)).astype(np.float32)
    variance = 1.25
    precision = 1 / 4 + len(y) / variance
    posterior = dist.MultivariateNormal(
        y.sum(0, keepdims=True) / variance / precision, EYE / precision
    )
    given = y, np.zeros(8, int)
    fitted = at_start(levels, *given, init={"mu": posterior})
    options = {"num_samples": 4000, "num_particles": 1}
    found = pit_of(ns.to_arviz(*fitted, **options, loo_pit=True), "y")

    precision = 1 / 4 + (len(y) - 1) / variance
    mean = (y.sum(0) - y) / variance / precision
    expected = norm(mean, np.sqrt(1 / precision + variance)).cdf(y)
    np.testing.assert_allclose(found, expected, atol=0.03)
