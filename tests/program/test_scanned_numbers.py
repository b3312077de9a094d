# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Latent numbers in the body of a scan are vectors of one entry there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from tests.data import make_svi

# NumPyro's replay takes the shape of everything in the trace of a guide.
pytestmark = pytest.mark.filterwarnings("ignore:shape requires ndarray")

N, T = 3, 8
_RNG = np.random.default_rng(0)
SERIES = np.cumsum(_RNG.standard_normal((T, N)), 0)
LENGTHS = np.array([T, 5, 3])
ROWS = jnp.array([[0.9, 0.1], [0.3, 0.7]])


class Spelling(NamedTuple):
    """Numbers as they are written.

    :param site: what is around a Normal distribution of some of them.
    :param value: the numbers of a value of a site.
    :param known: a value that is known.
    """

    site: Callable[[Any], Any]
    value: Callable[[Any], Any]
    known: Callable[[Any], Any]


NUMBERS = Spelling(lambda fn: fn, lambda x: x, lambda x: x)
VECTORS = Spelling(
    lambda fn: fn.to_event(1), lambda x: x[..., 0], lambda x: jnp.asarray(x)[..., None]
)


def level(how: Spelling, y: Any, lengths: Any) -> None:
    """Autoregressive levels that end, with a learnt weight and noises of their own."""
    with numpyro.plate("all", 1):
        weight = numpyro.sample("weight", dist.Normal(0.9, 0.5))
    precision = numpyro.sample("precision", dist.Gamma(2.0, 1.0))

    def step(carry: Any, y: Any) -> tuple[Any, None]:
        x, t = carry
        with (
            numpyro.plate("series", N),
            numpyro.handlers.mask(mask=t < jnp.asarray(lengths) - 1),
        ):
            fn = dist.Normal(weight * x, how.known(precision**-0.5 * jnp.ones(N)))
            x = numpyro.sample("x", how.site(fn))
            numpyro.sample("y", dist.Normal(how.value(x), 0.3), obs=y)
        return (x, t + 1), None

    scan(step, (how.known(jnp.ones(N)), 0), y)


def regimes(how: Spelling, y: Any, lengths: Any) -> None:
    """A level whose steps and counts depend on a state."""

    def step(carry: Any, y: Any) -> tuple[Any, None]:
        z, x = carry
        z = numpyro.sample("z", dist.Categorical(ROWS[z]))
        weight = how.known(jnp.array([0.9, -0.5])[z])
        x = numpyro.sample("x", how.site(dist.Normal(weight * x, 0.4)))
        rate = jnp.exp(0.3 * how.value(x) + jnp.array([0.0, 1.0])[z])
        numpyro.sample("y", dist.Poisson(rate), obs=y)
        return (z, x), None

    z = numpyro.sample("z_first", dist.Categorical(jnp.ones(2) / 2))
    fn = dist.Normal(how.known(0.5), 2.0)
    scan(step, (z, numpyro.sample("x_first", how.site(fn))), jnp.abs(y[:, 0]) // 1)


def curve(how: Spelling, y: Any, lengths: Any) -> None:
    """A level whose steps are not linear."""

    def step(x: Any, y: Any) -> tuple[Any, None]:
        x = numpyro.sample("x", how.site(dist.Normal(2.0 * jnp.sin(x), 0.4)))
        numpyro.sample("y", dist.Normal(how.value(x), 0.5), obs=y)
        return x, None

    fn = how.site(dist.Normal(how.known(0.0), 2.0))
    scan(step, numpyro.sample("x_first", fn), y[:, 0])


def jumps(how: Spelling, y: Any, lengths: Any) -> None:
    """A level that begins where it is known, and a jump at each step."""

    def step(x: Any, y: Any) -> tuple[Any, None]:
        x = numpyro.sample("x", how.site(dist.Normal(x, 0.5)))
        jump = numpyro.sample("jump", how.site(dist.Normal(how.known(0.0), 0.4)))
        numpyro.sample("y", dist.Normal(how.value(x + jump), 0.3), obs=y)
        return x, None

    scan(step, how.known(0.0), y[:, 0])


def alike(numbers: Any, vectors: Any) -> None:
    """Vectors of one entry are the numbers."""
    assert vectors.shape == (*numbers.shape, 1)
    np.testing.assert_allclose(numbers, vectors[..., 0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("program", [regimes, curve, jumps])
def test_numbers_are_read_as_vectors_of_one_entry(program, x64):
    found = []
    for how in (NUMBERS, VECTORS):
        model, data = partial(program, how), (SERIES, LENGTHS)
        guide = ns.AutoSVAE(model, num_starts=1)

        @jax.jit
        def infer(model=model, guide=guide, data=data):
            loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, model, guide, *data)
            return loss, guide.posterior_local({}, *data)["x"].mean

        found.append(infer())
    for own, other in zip(*found):
        np.testing.assert_allclose(own, other, rtol=1e-7, atol=1e-9)


def learnt(how: Spelling) -> tuple[Any, ...]:
    """Losses of some steps with the levels, and draws of the guide and of what comes
    after the data."""
    model, data, key = partial(level, how), (SERIES, LENGTHS), random.PRNGKey(1)
    guide = ns.AutoSVAE(model, num_starts=1)
    result = make_svi(model, guide).run(key, 3, *data, progress_bar=False)
    given = model, guide, result.params
    drawn = guide.sample_posterior(key, result.params, *data)
    ahead = ns.forecast(*given, key, *data, horizon=2, num_samples=4)
    state = ns.filter(*given, SERIES, np.full(N, T + 1)).update(y=SERIES[-1])
    later = state.forecast(key, horizon=2, num_samples=4)
    return result.losses, drawn, ahead, later, state.marginals["x"].mean


def test_numbers_have_their_shape_in_draws_forecasts_and_filters(x64):
    numbers, vectors = learnt(NUMBERS), learnt(VECTORS)
    np.testing.assert_allclose(numbers[0], vectors[0], rtol=1e-9)
    assert numbers[1]["x"].shape == (T, N) and numbers[2]["x"].shape == (4, 2, N)
    for own, others in zip(numbers[1:4], vectors[1:4]):
        assert own.keys() == others.keys()
        alike(own["x"], others["x"])
    np.testing.assert_allclose(numbers[4], vectors[4], rtol=1e-9)


def test_a_local_level_has_the_evidence_of_its_gaussian(x64):
    def model(y):
        def step(x, y):
            x = numpyro.sample("x", dist.Normal(x, 0.5))
            numpyro.sample("y", dist.Normal(x, 0.3), obs=y)
            return x, None

        scan(step, numpyro.sample("first", dist.Normal(1.0, 2.0)), y)

    y, guide = SERIES[:, 0], ns.AutoSVAE(model)
    found = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, model, guide, y)
    steps = np.arange(1, T + 1)
    cov = 4.0 + 0.25 * np.minimum(steps[:, None], steps) + 0.09 * np.eye(T)
    expected = dist.MultivariateNormal(jnp.ones(T), cov).log_prob(y)
    np.testing.assert_allclose(found, -expected, rtol=1e-9)


def test_a_first_vector_before_numbers_is_named():
    def model(y):
        def step(x, y):
            x = numpyro.sample("x", dist.Normal(x, 0.5))
            numpyro.sample("y", dist.Normal(x, 0.3), obs=y)
            return x, None

        scan(step, numpyro.sample("first", dist.Normal(jnp.zeros(N)).to_event(1)), y)

    message = r"'first', 'x': found events of shapes \[\(3,\), \(\)\].*'x'"
    with pytest.raises(ValueError, match=message):
        ns.AutoSVAE(model).posterior_local({}, SERIES)
