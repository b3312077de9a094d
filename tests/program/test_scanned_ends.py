# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sequences that end within a scan mean what they mean with ``lengths`` at one site."""

from functools import cache
from itertools import product

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
from numpyro.contrib.funsor import config_enumerate, enum
from numpyro.contrib.funsor.infer_util import log_density
import numpyro.distributions as dist
from numpyro.handlers import mask, seed
from numpyro.infer import Trace_ELBO
import pytest

import numpyro_svae as ns
from numpyro_svae.diagnostics.fit import read_fit
from numpyro_svae.forecasting.course import Course
from tests.data import make_svi, steps

pytestmark = pytest.mark.filterwarnings("ignore:Found plate", "ignore:shape requires")

N, T, K, D = 3, 6, 3, 2
RNG = np.random.default_rng(0)
Y = RNG.standard_normal((N, T, D))
LENGTHS, OTHERS = np.array([6, 2, 4]), np.array([3, 6, 1])
ROWS = RNG.dirichlet(np.ones(K), K)
LEVEL = np.array([-1.0, 0.5, 2.0])
TURNS = np.array([[[0.9, 0.3], [-0.3, 0.9]], [[0.6, -0.4], [0.4, 0.6]], np.eye(2)])


def exists(lengths, count):
    return jnp.arange(count) < lengths[:, None]


def picture(x):
    return dist.Normal(x, 0.5).to_event(1)


def means():
    with numpyro.plate("states", K):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(K)))
        return rows, numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([D]).to_event(1))


def dynamics():
    prior = ns.MatrixNormalInverseWishart(0.5 * jnp.eye(D), jnp.eye(D), 5.0, jnp.eye(D))
    return ns.sample("dynamics", prior)


def states(y, lengths):
    """States that start at a known one, as in NumPyro's own example."""
    rows, mu = means()

    def step(carry, y):
        z, t = carry
        with numpyro.plate("sequences", N), mask(mask=t < lengths):
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            numpyro.sample("y", picture(mu[z]), obs=y)
        return (z, t + 1), None

    scan(step, (jnp.zeros(N, int), 0), jnp.swapaxes(y, 0, 1))


def states_at_once(y, lengths):
    rows, mu = means()
    count = y.shape[1]
    with numpyro.plate("sequences", N):
        first = jnp.eye(K)[0]
        fn = ns.DiscreteMarkovChain(first, rows, count + 1, lengths=lengths + 1)
        z = numpyro.sample("z", fn)
        seen = picture(mu[z[:, 1:]]).mask(exists(lengths, count))
        numpyro.sample("y", seen.to_event(1), obs=y)


def path(y, lengths):
    """A path whose masks are on its distributions, and come with the steps."""
    F, Q = dynamics()
    with numpyro.plate("sequences", N):
        x = numpyro.sample("first", dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D)))
        numpyro.sample("y_first", picture(x), obs=y[:, 0])

    def step(x, given):
        y, here = given
        with numpyro.plate("sequences", N):
            fn = dist.MultivariateNormal(x @ F.T, Q).mask(here)
            x = numpyro.sample("x", fn)
            numpyro.sample("y", picture(x).mask(here), obs=y)
        return x, None

    later = exists(lengths, y.shape[1])[:, 1:]
    scan(step, x, (jnp.swapaxes(y, 0, 1)[1:], later.T))


def path_at_once(y, lengths):
    F, Q = dynamics()
    start = jnp.zeros(D), jnp.eye(D)
    with numpyro.plate("sequences", N):
        count = {"num_steps": y.shape[1], "lengths": lengths}
        x = numpyro.sample("x", ns.LinearGaussianChain(*start, F, Q, **count))
        seen = picture(x).mask(exists(lengths, y.shape[1]))
        numpyro.sample("y", seen.to_event(1), obs=y)


def bent(x):
    return jnp.sin(x) + 0.2 * x


def curve(y, lengths):
    """A path with steps that are not linear, and a likelihood that is sampled."""
    with numpyro.plate("sequences", N):
        x = numpyro.sample("first", dist.Normal(jnp.zeros(D), 1.0).to_event(1))

    def step(carry, y):
        x, t = carry
        with numpyro.plate("sequences", N), mask(mask=t + 1 < lengths):
            x = numpyro.sample("x", dist.Normal(bent(x), 0.3).to_event(1))
            numpyro.sample("y", dist.Laplace(jnp.tanh(x), 0.5).to_event(1), obs=y)
        return (x, t + 1), None

    scan(step, (x, 0), jnp.swapaxes(y, 0, 1)[1:])


def curve_at_once(y, lengths):
    eye, count = jnp.eye(D), {"num_steps": y.shape[1], "lengths": lengths}
    with numpyro.plate("sequences", N):
        fn = ns.NonlinearGaussianChain(jnp.zeros(D), eye, _bent, 0.09 * eye, **count)
        x = numpyro.sample("x", fn)
        seen = dist.Laplace(jnp.tanh(x[:, 1:]), 0.5).to_event(1)
        here = exists(lengths, y.shape[1])[:, 1:]
        numpyro.sample("y", seen.mask(here).to_event(1), obs=y[:, 1:])


def _bent(x, u):
    return bent(x)


def regimes(y, lengths):
    """States that pick the dynamics of a path, with one mask around both."""
    with numpyro.plate("sequences", N):
        z = numpyro.sample("z_first", dist.Categorical(jnp.ones(K) / K))
        x = numpyro.sample("first", dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D)))

    def step(carry, y):
        z, x, t = carry
        with numpyro.plate("sequences", N), mask(mask=t < lengths):
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[z]))
            moved = (jnp.asarray(TURNS)[z] @ x[..., None])[..., 0]
            x = numpyro.sample("x", dist.MultivariateNormal(moved, 0.2 * jnp.eye(D)))
            numpyro.sample("y", picture(x), obs=y)
        return (z, x, t + 1), None

    scan(step, (z, x, 1), jnp.swapaxes(y, 0, 1)[1:])


def regimes_at_once(y, lengths):
    eye, count = jnp.eye(D), {"num_steps": y.shape[1], "lengths": lengths}
    with numpyro.plate("sequences", N):
        fn = ns.DiscreteMarkovChain(jnp.ones(K) / K, jnp.asarray(ROWS), **count)
        z = numpyro.sample("z", fn)
        turns = jnp.asarray(TURNS)[z[:, 1:]]
        fn = ns.LinearGaussianChain(jnp.zeros(D), eye, turns, 0.2 * eye, **count)
        x = numpyro.sample("x", fn)
        seen = picture(x[:, 1:]).mask(exists(lengths, y.shape[1])[:, 1:])
        numpyro.sample("y", seen.to_event(1), obs=y[:, 1:])


def recognition(y, lengths):
    potential = ns.GaussianPotential.from_loc_scale(y, jnp.ones(D))
    return {"x": potential.mask(exists(lengths, y.shape[1]))}


PAIRS = {
    "states": (states, states_at_once, None),
    "path": (path, path_at_once, None),
    "curve": (curve, curve_at_once, None),
    "encoded": (curve, curve_at_once, recognition),
    "regimes": (regimes, regimes_at_once, None),
}


def moments(guide, params, *args):
    found = guide.posterior_local(params, *args)
    return {n: q.probs if q.is_discrete else q.mean for n, q in found.items()}


def last_states(model, guide, params, *args):
    """The states that forecasts begin with."""
    course = Course.of(read_fit(model, guide, params, args, {}), random.key(2), 2)
    return list(jax.vmap(course.last_states)(course.draws).values())


@cache
def fitted(name):
    """Both spellings, after two steps, with their losses."""
    *models, say = PAIRS[name]
    found = []
    for model in models:
        guide = ns.AutoSVAE(model, say, num_starts=1)
        svi = make_svi(model, guide, natural=0.5)
        found.append(
            (model, guide, *steps(svi, 2, jnp.asarray(Y), jnp.asarray(LENGTHS)))
        )
    return found


def alike(found, rtol=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, 1e-9), *found)


@pytest.mark.x64
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("encoded", "regimes")))
        for name in PAIRS
    ],
)
def test_a_mask_of_ends_is_the_lengths_of_the_chain(name, x64):
    found = []
    for model, guide, params, losses in fitted(name):

        @jax.jit
        def of(lengths, model=model, guide=guide, params=params):
            args = params, model, guide, jnp.asarray(Y), lengths
            loss = Trace_ELBO().loss(random.key(1), *args)
            last = None  # that of a curve is found as that of a path is
            if PAIRS[name][0] is not curve:
                last = last_states(model, guide, params, *args[3:])
            return loss, last, moments(guide, params, *args[3:])

        found.append((losses, of(jnp.asarray(LENGTHS)), of(jnp.asarray(OTHERS))))
    alike(found)


@pytest.mark.x64
@pytest.mark.parametrize("name", ["states", "path"])
def test_likelihoods_and_smoothed_states_know_the_ends(name, x64):
    found = []
    for *given, _ in fitted(name):
        own, options = [], {"num_samples": 2, "num_particles": 3}
        for n in LENGTHS, OTHERS:
            args = jnp.asarray(Y), jnp.asarray(n)
            own.append(ns.log_likelihood(*given, random.key(1), *args, **options))
        smooth = ns.smooth(*given, *args)
        own.append([value.values for _, value in sorted(smooth.items())])
        found.append(own)
    alike(found)


@pytest.mark.x64
@pytest.mark.parametrize("name", ["states", "path"])
def test_filters_go_on_from_the_ends(name, x64):
    found = []
    y, lengths = jnp.asarray(Y), jnp.asarray(LENGTHS)
    for model, guide, params, _ in fitted(name):
        state = ns.filter(model, guide, params, y, lengths)
        seen = state.update(y=y[:, 0])
        after = seen.update()
        found.append((state.beliefs, seen.bound, seen.beliefs, after.beliefs))
    alike(found)


def known(y, lengths=None):
    """States of known rows, of which some sequences see none."""

    def step(carry, y):
        z, t = carry
        here = True if lengths is None else t < lengths
        with numpyro.plate("sequences", N), mask(mask=here):
            z = numpyro.sample("z", dist.Categorical(jnp.asarray(ROWS)[z]))
            numpyro.sample("y", dist.Normal(jnp.asarray(LEVEL)[z], 0.7), obs=y)
        return (z, t + 1), None

    scan(step, (jnp.ones(N, int), 0), y.T)


def evidence(y, length):
    total = 0.0
    for each in product(range(K), repeat=length):
        before, states = np.array([1, *each[:-1]][:length], int), np.array(each, int)
        terms = dist.Normal(LEVEL[states], 0.7).log_prob(y[:length])
        total += np.prod(ROWS[before, states]) * np.exp(terms.sum())
    return np.log(total)


@pytest.mark.x64
def test_the_bound_of_known_parameters_is_the_evidence_of_what_there_is(x64):
    """With the ends of later calls, no ends, and nothing but a first state."""
    y = jnp.asarray(Y[..., 0])
    guide = ns.AutoSVAE(known)
    for lengths in (LENGTHS, np.array([0, 6, 3]), None):
        given = (y,) if lengths is None else (y, jnp.asarray(lengths))
        loss = ns.SVAE_ELBO().loss(random.PRNGKey(0), {}, known, guide, *given)
        ends = [T] * N if lengths is None else lengths
        goal = np.array([evidence(own, int(n)) for own, n in zip(Y[..., 0], ends)])
        np.testing.assert_allclose(loss, -goal.sum(), rtol=1e-9)
        if lengths is None:
            return
        args = known, guide, {}, random.key(0), *given
        found = ns.log_likelihood(*args, num_particles=3)
        np.testing.assert_allclose(found.value, goal, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.effective_sample_size, 3)
        # NumPyro sums over the labels of steps that are masked, one of K each.
        summed = enum(config_enumerate(seed(known, 0)), -2)
        theirs, _ = log_density(summed, given, {}, {})
        constant = np.log(K) * (T - lengths).sum()
        np.testing.assert_allclose(theirs - constant, goal.sum(), rtol=1e-9)


def test_what_comes_after_the_ends_is_as_likely_as_by_enumeration():
    """Also beyond the steps that there are, and after a known first state alone."""
    y, lengths = jnp.asarray(Y[..., 0]), np.array([4, 6, 0])
    guide, later = ns.AutoSVAE(known), np.linspace(-1.0, 2.0, 9).reshape(3, N)
    args = known, guide, {}, random.key(0), y, jnp.asarray(lengths)
    found = ns.log_score(*args, future={"y": jnp.asarray(later)}, num_samples=4000)
    for n, length in enumerate(lengths):
        own = Y[n, :length, 0]
        before = evidence(own, length)
        for step in range(2):
            after = np.append(own, later[: step + 1, n])
            goal = unseen(after, length, step) - before
            np.testing.assert_allclose(found["y"][step, n], goal, atol=0.06)


def unseen(y, seen, ahead):
    """Log evidence of the first values and of the last, without those between."""
    total, count = 0.0, len(y)
    looked = np.r_[np.arange(seen), seen + ahead]
    for each in product(range(K), repeat=count):
        before, states = np.array([1, *each[:-1]]), np.array(each)
        terms = dist.Normal(LEVEL[states[looked]], 0.7).log_prob(y[looked])
        total += np.prod(ROWS[before, states]) * np.exp(terms.sum())
    return np.log(total)


def test_numpyros_own_example_is_read():
    """Model 1 of its hidden Markov models of chorales, but for its data."""
    notes = jnp.asarray(RNG.random((N, T, 4)) < 0.4, int)

    def model_1(sequences, lengths, hidden, include_prior=True):
        count, _, tones = sequences.shape
        with mask(mask=include_prior):
            table = dist.Dirichlet(0.9 * jnp.eye(hidden) + 0.1).to_event(1)
            probs_x = numpyro.sample("probs_x", table)
            fn = dist.Beta(0.1, 0.9).expand([hidden, tones]).to_event(2)
            probs_y = numpyro.sample("probs_y", fn)

        def transition(carry, y):
            x_prev, t = carry
            here = mask(mask=(t < lengths)[..., None])
            with numpyro.plate("sequences", count, dim=-2), here:
                x = numpyro.sample("x", dist.Categorical(probs_x[x_prev]))
                with numpyro.plate("tones", tones, dim=-1):
                    fn = dist.Bernoulli(probs_y[x.squeeze(-1)])
                    numpyro.sample("y", fn, obs=y)
            return (x, t + 1), None

        start = jnp.zeros((count, 1), dtype=jnp.int32)
        scan(transition, (start, 0), jnp.swapaxes(sequences, 0, 1))

    guide, other = (ns.AutoSVAE(model_1, num_starts=1) for _ in range(2))
    given, lengths = make_svi(model_1, guide, natural=0.5), jnp.asarray(LENGTHS)
    params, losses = steps(given, 3, notes, lengths, 3)
    nonsense = jnp.where(exists(lengths, T)[..., None], notes, 1 - notes)
    svi = make_svi(model_1, other, natural=0.5)
    _, again = steps(svi, 3, nonsense, lengths, 3)
    np.testing.assert_allclose(losses, again, rtol=1e-5)  # what is stored is not seen
    assert losses[-1] < losses[0]
    probs = guide.posterior_local(params, notes, lengths, 3)["x"].probs
    assert probs.shape == (N, 1, T + 1, 3)
    args = model_1, guide, params, random.key(0), notes, lengths, 3
    after = ns.forecast(*args, horizon=2, num_samples=3)
    assert after["y"].shape == (3, 2, N, 4)


HERE = exists(jnp.asarray(LENGTHS), T)
HOLE = HERE.at[1, 4].set(True)


def masked(here, seen=None, first=None):
    """States with a mask of their own, that of what is seen, and of the first ones."""

    def model(y, given):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones((K, K))).to_event(1))
        fn = dist.Categorical(jnp.ones(K) / K)
        with numpyro.plate("sequences", N):
            start = numpyro.sample("first", fn if first is None else fn.mask(first))

        def step(z, of_step):
            y, given = of_step
            with numpyro.plate("sequences", N):
                fn = dist.Categorical(rows[z])
                z = numpyro.sample("z", fn.mask(here(given, z, rows)))
                fn = dist.Normal(jnp.asarray(LEVEL)[z], 0.7)
                counts = given if seen is None else seen
                numpyro.sample("y", fn.mask(counts), obs=y)
            return z, None

        scan(step, start, (y.T, given.T))

    return model


def plain(given, z, rows):
    return given


@pytest.mark.parametrize(
    ("model", "given", "match"),
    [
        (masked(plain), HOLE, r"'z': .*sequence \(1,\), .*again.*mask=t < lengths"),
        (masked(plain, first=np.arange(N) > 0), HERE, "'first': found a mask on the f"),
        (masked(lambda g, z, r: g & (z > 0)), HERE, "'z': .*on the latent site 'z'"),
        (
            masked(lambda g, z, r: g & (r[0, 0] < 0.5)),
            HERE,
            "'z': .*depends on the latent site 'rows'",
        ),
        (masked(plain, seen=True), HERE, "'y': .*masked in a scan, and counts.* both"),
    ],
    ids=["hole", "first", "label", "rows", "seen"],
)
def test_other_masks_of_states_are_refused(model, given, match):
    with pytest.raises(ValueError, match=match), seed(rng_seed=0):
        ns.AutoSVAE(model)(jnp.asarray(Y[..., 0]), given)


@pytest.mark.parametrize("latent", [False, True])
def test_what_is_carried_beside_the_ends_may_be_latent(latent):
    """But not what says where they are."""

    def model(y, ends):
        rows, mu = means()
        ends = ends + (mu[0, 0] > 0) if latent else ends

        def step(carry, y):
            z, left, mu = carry
            with numpyro.plate("sequences", N), mask(mask=left > 0):
                z = numpyro.sample("z", dist.Categorical(rows[z]))
                numpyro.sample("y", picture(mu[z]), obs=y)
            return (z, left - 1, mu), None

        scan(step, (jnp.zeros(N, int), ends, mu), jnp.swapaxes(y, 0, 1))

    found = []
    for each in (model, states):
        guide = ns.AutoSVAE(each, num_starts=1)
        given = make_svi(each, guide), 2, jnp.asarray(Y), jnp.asarray(LENGTHS)
        if latent:
            match = "'z': .*depends on the latent site 'mu'"
            with pytest.raises(ValueError, match=match):
                steps(*given)
            return
        found.append(steps(*given)[1])
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_masks_of_two_chains_are_one():
    def model(y, ends, apart):
        def step(carry, y):
            z, x, t = carry
            with numpyro.plate("sequences", N):
                fn = dist.Categorical(jnp.asarray(ROWS)[z])
                z = numpyro.sample("z", fn.mask(t < ends))
                fn = dist.MultivariateNormal(0.5 * x, jnp.eye(D))
                fn = fn if apart is None else fn.mask(t < apart)
                x = numpyro.sample("x", fn)
                fn = picture(x + jnp.asarray(LEVEL)[z][:, None])
                numpyro.sample("y", fn.mask(t < ends), obs=y)
            return (z, x, t + 1), None

        start = jnp.zeros(N, int), jnp.zeros((N, D)), 0
        scan(step, start, jnp.swapaxes(y, 0, 1))

    y, ends, other = jnp.asarray(Y), jnp.asarray(LENGTHS), jnp.asarray(OTHERS)
    match = r"'x': .* of sequence \(0,\), the first of 3 such, that end elsewhere"
    with pytest.raises(ValueError, match=match), seed(rng_seed=0):
        ns.AutoSVAE(model)(y, ends, other)
    match = r"'x', 'z': .*one scan with masks that differ"
    with pytest.raises(ValueError, match=match), seed(rng_seed=0):
        ns.AutoSVAE(model)(y, ends, None)


def test_entries_of_states_have_no_mask_of_their_own():
    def model(y, ends):
        def step(carry, y):
            x, t = carry
            with numpyro.plate("sequences", N):
                here = (t < ends)[:, None] & jnp.array([True, False])
                fn = dist.Normal(0.5 * x, 1.0).mask(here).to_event(1)
                x = numpyro.sample("x", fn)
                numpyro.sample("y", picture(x).mask(t < ends), obs=y)
            return (x, t + 1), None

        scan(step, (jnp.zeros((N, D)), 0), jnp.swapaxes(y, 0, 1))

    match = "'x': found a mask on some entries of the states"
    with pytest.raises(ValueError, match=match), seed(rng_seed=0):
        ns.AutoSVAE(model)(jnp.asarray(Y), jnp.asarray(LENGTHS))


def test_holes_in_later_calls_are_refused():
    """By the call, or by the compiled program when it runs."""
    model, y = masked(plain), jnp.asarray(Y[..., 0])
    guide = ns.AutoSVAE(model, num_starts=1)
    svi = make_svi(model, guide, natural=0.5)
    state = svi.init(random.PRNGKey(0), y, HERE)
    params = svi.get_params(state)
    match = r"Site 'z': .*sequence \(1,\), .*counts? again|Site 'z': .*count again"
    with pytest.raises(ValueError, match=match):
        guide.posterior_local(params, y, HOLE)
    update = jax.jit(svi.update)
    assert np.isfinite(update(state, y, HERE)[1])
    with pytest.raises(Exception, match=match):
        jax.block_until_ready(update(state, y, HOLE))
    with pytest.raises(Exception, match=match):
        args = model, guide, params, random.key(0), y, HOLE
        jax.block_until_ready(ns.forecast(*args, horizon=1, num_samples=2))
