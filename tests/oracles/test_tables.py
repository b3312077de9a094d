# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Tables of which data pick the rows, or entries stand among known ones, against sums
over all paths."""

from collections.abc import Callable
from functools import partial
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.distributions.kl import kl_divergence
import pytest
from scipy.special import gammaln, logsumexp

import numpyro_svae as ns
from tests.data import make_svi, steps

N, T = 4, 4
SUBJECT, PHASE = jnp.array([0, 2, 0, 1]), jnp.array([1, 0, 1])
Y = jnp.asarray(np.random.default_rng(0).normal(0.8, 1.0, (N, T)))
LEVELS = jnp.array([0.0, 2.0, 3.0])


def evens(rows, size=2):
    """Known rows; their logs where logs are given, which are of numbers below zero."""
    known = jnp.full((size, size), 1 / size)
    return jnp.where(jnp.sum(rows) < 0, jnp.log(known), known)


class Case(NamedTuple):
    """A program with one block of rows, and how its table follows from their logs.

    :param shape: of the block.
    :param place: maps rows to transitions, or logs of rows to logs of transitions.
    :param initial: the same, for the first state.
    :param size: number of states.
    :param beta: whether the block is a Beta.
    :param scanned: whether the chain is spelled as a scan.
    """

    shape: tuple[int, ...]
    place: Callable = evens
    initial: Callable = lambda rows: evens(rows)[0]
    size: int = 2
    beta: bool = False
    scanned: bool = False


def in_band(rows, zero=0.0, one=1.0):
    """A left-to-right matrix: stay, or go on to the next state; the last one stays."""
    matrix = jnp.full((3, 3), zero, rows.dtype).at[2, 2].set(one)
    i = jnp.arange(2)
    return matrix.at[i, i].set(rows[:, 0]).at[i, i + 1].set(rows[:, 1])


def switched(rows):
    """Rows with the probability to stay first."""
    return jnp.stack([rows[0], rows[1, ::-1]])


def broken(rows):
    """Three probabilities, or their logs, from two sticks."""
    (first, second), (rest, end) = jnp.moveaxis(rows, (-1, -2), (0, 1))
    found = jnp.stack([first, rest * second, rest * end], -1)
    logs = jnp.stack([first, rest + second, rest + end], -1)
    return jnp.where(jnp.sum(rows) < 0, logs, found)


CASES = {
    "by-subject": Case((6, 2), lambda r: r.reshape(3, 2, 2)[SUBJECT][:, None]),
    "by-both": Case((3, 2, 2, 2), lambda r: r[SUBJECT[:, None], PHASE]),
    "left-to-right": Case((2, 2), in_band, lambda r: evens(r, 3)[0], size=3),
    "beta": Case((2, 2), switched, beta=True),
    "sticks": Case((3, 2, 2), broken, lambda r: broken(r)[0], 3, beta=True),
    "first": Case((3, 2), initial=lambda r: r[SUBJECT]),
    "tied": Case((2,), lambda r: jnp.stack([r, r[::-1]]), lambda r: r),
    "scan": Case((4, 2), lambda r: r.reshape(2, 2, 2)[PHASE], scanned=True),
}


def program(case, y):
    """Sequences of noisy states."""
    *plates, size = case.shape
    prior = dist.Beta(0.8, 0.8) if case.beta else dist.Dirichlet(jnp.full(size, 0.8))
    with numpyro.plate_stack("members", plates):
        rows = numpyro.sample("rows", prior)
    if case.beta:
        rows = jnp.stack([rows, 1 - rows], -1)
    matrix, first = case.place(rows), case.initial(rows)
    if case.scanned:
        return scanned(first, matrix, y)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(first, matrix, T))
        numpyro.sample("y", dist.Normal(LEVELS[z], 1.0).to_event(1), obs=y)


def scanned(first, matrix, y):
    """The same with a scan."""
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z_0", dist.Categorical(first))
        numpyro.sample("y_0", dist.Normal(LEVELS[z], 1.0), obs=y[:, 0])

    def body(z, given):
        rows, y = given
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            numpyro.sample("y", dist.Normal(LEVELS[z], 1.0), obs=y)
        return z, None

    scan(body, z, (matrix, y[:, 1:].T))


def log_evidence(case, y, logs):
    """The log of the sum over all paths, at logs of the rows."""
    place = case.place
    if place is in_band:
        place = partial(in_band, zero=-1e5, one=0.0)
    table = jnp.broadcast_to(place(logs), (N, T - 1, case.size, case.size))
    first = jnp.broadcast_to(case.initial(logs), (N, case.size))
    seen = dist.Normal(LEVELS[: case.size], 1.0).log_prob(y[..., None])
    paths = np.array(list(itertools.product(range(case.size), repeat=T)))
    terms = first[:, paths[:, 0]]
    terms = terms + sum(seen[:, t, paths[:, t]] for t in range(T))
    terms = terms + sum(table[:, t, paths[:, t], paths[:, t + 1]] for t in range(T - 1))
    return jnp.sum(jax.nn.logsumexp(terms, -1))


@pytest.mark.filterwarnings("ignore:shape requires ndarray")  # of a scan
@pytest.mark.parametrize("name", CASES)
def test_rows_are_updated_by_the_expected_counts(name, x64):
    case = CASES[name]
    counts = jnp.asarray(np.random.default_rng(1).uniform(1.0, 4.0, case.shape))
    start = (
        dist.Beta(counts[..., 0], counts[..., 1])
        if case.beta
        else dist.Dirichlet(counts)
    )
    guide = ns.AutoSVAE(partial(program, case), init={"rows": start})
    params, losses = steps(make_svi(guide.model, guide), 1, Y)
    found = guide.get_posterior(params)["rows"]
    if case.beta:
        found = dist.Dirichlet(
            jnp.stack([found.concentration1, found.concentration0], -1)
        )
    prior, start = dist.Dirichlet(jnp.full(case.shape, 0.8)), dist.Dirichlet(counts)
    total = jnp.sum(counts, -1, keepdims=True)
    logs = jax.scipy.special.digamma(counts) - jax.scipy.special.digamma(total)
    value, seen = jax.value_and_grad(partial(log_evidence, case, Y))(logs)
    np.testing.assert_allclose(found.concentration, 0.8 + seen, rtol=1e-9)
    bound = value - jnp.sum(kl_divergence(start, prior))
    np.testing.assert_allclose(losses[0], -bound, rtol=1e-10)


def with_zeros(y):
    """The left-to-right matrix as rows with concentrations of zero."""
    band = jnp.eye(3) + jnp.eye(3, k=1)
    with numpyro.plate("members", 3):
        prior = dist.Dirichlet(0.8 * band, validate_args=False)
        rows = numpyro.sample("rows", prior)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(jnp.full(3, 1 / 3), rows, T))
        numpyro.sample("y", dist.Normal(LEVELS[z], 1.0).to_event(1), obs=y)


def test_categories_without_concentration_stay_impossible(x64):
    free = jnp.array([[1.5, 3.0], [2.0, 1.2]])
    losses, found = [], []
    placed = partial(program, CASES["left-to-right"])
    band = in_band(free, one=0.8)  # there is nothing to learn of a row of one
    zeros = dist.Dirichlet(band, validate_args=False)
    for model, start in ((placed, dist.Dirichlet(free)), (with_zeros, zeros)):
        guide = ns.AutoSVAE(model, init={"rows": start})
        params, seen = steps(make_svi(model, guide), 2, Y)
        losses.append(seen)
        found.append(guide.get_posterior(params)["rows"].concentration)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)
    i = np.arange(2)
    np.testing.assert_allclose(found[1][i, i], found[0][:, 0], rtol=1e-10)
    np.testing.assert_allclose(found[1][i, i + 1], found[0][:, 1], rtol=1e-10)
    assert np.all(np.asarray(found[1])[np.asarray(band) == 0] == 0)


def counts_of_words(y, group):
    """Documents of different lengths, whose group picks the probabilities."""
    with numpyro.plate("groups", 2):
        words = numpyro.sample("words", dist.Dirichlet(jnp.array([1.0, 2.0, 0.5])))
    with numpyro.plate("documents", len(y)):
        fn = dist.Multinomial(total_count=y.sum(-1), probs=words[group])
        numpyro.sample("y", fn, obs=y)


def test_documents_of_different_lengths(x64):
    """NumPyro keeps the lengths, which are data, where jit wants what is static."""
    rng = np.random.default_rng(5)
    y, group = rng.poisson(4.0, (6, 3)), np.arange(6) % 2
    guide = ns.AutoSVAE(counts_of_words)
    params, losses = steps(make_svi(counts_of_words, guide), 2, y, jnp.array(group))
    found = guide.get_posterior(params)["words"].concentration
    sums = np.stack([y[group == k].sum(0) for k in range(2)])
    np.testing.assert_allclose(found, [1.0, 2.0, 0.5] + sums, rtol=1e-12)
    assert losses[1] < losses[0]


def test_a_label_of_all_data_says_which_member_each_has(x64):
    """A change point: more states than rates, and the best product of the two."""
    y, times = np.array([2, 1, 3, 0, 7, 9, 6]), np.arange(7)

    def model(y):
        with numpyro.plate("sides", 2):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
        change = numpyro.sample("change", dist.Categorical(jnp.ones(7) / 7))
        with numpyro.plate("data", 7):
            side = (times >= change).astype(int)
            numpyro.sample("y", dist.Poisson(rate[side]), obs=y)

    guide = ns.AutoSVAE(model, num_starts=1)
    params, losses = steps(make_svi(model, guide), 60, y)
    later = times[:, None] >= np.arange(7)  # data, states
    probs = guide.posterior_local(params, y)["change"].probs
    after = later @ probs
    shares = np.stack([1 - after, after])
    found = guide.get_posterior(params)["rate"]
    np.testing.assert_allclose(found.concentration, 2 + shares @ y, rtol=1e-6)
    np.testing.assert_allclose(found.rate, 0.5 + shares.sum(-1), rtol=1e-6)

    def evidence(y):
        shape = 2.0 + np.sum(y)
        fixed = 2 * np.log(0.5) - np.sum(gammaln(y + 1.0))
        return fixed + gammaln(shape) - shape * np.log(0.5 + len(y))

    exact = [evidence(y[:at]) + evidence(y[at:]) for at in range(7)]
    gap = logsumexp(np.asarray(exact)) - np.log(7) + losses[-1]
    assert 0 < gap < 0.5
