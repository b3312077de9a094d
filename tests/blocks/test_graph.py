# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The general block against enumeration, and against the hand-written blocks."""

from dataclasses import replace
import itertools

import funsor
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import numpyro
from numpyro.contrib.funsor import config_enumerate, enum, log_density
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns
from numpyro_svae.blocks import gaussian
from numpyro_svae.blocks.graph import (
    GaussianStatistics,
    GaussianTerm,
    TableTerm,
    Variable,
    draw,
    eliminate,
    infer,
)
from tests.blocks.graphs import GRAPHS, Enumerated, Graph, gaussian_hmm, mixture, tree

every_graph = pytest.mark.parametrize("build", GRAPHS.values(), ids=GRAPHS.keys())


def variable_term(v: Variable, plate_sizes) -> GaussianTerm | TableTerm:
    batch = tuple(plate_sizes[plate] for plate in v.plates)
    if v.discrete:
        return TableTerm((v.name,), v.plates, np.zeros((*batch, v.size)))
    zeros = np.zeros((*batch, v.size)), np.zeros((*batch, v.size, v.size))
    return GaussianTerm((v.name,), (), v.plates, *zeros, np.zeros(batch))


@pytest.mark.x64
@every_graph
def test_against_enumeration(build):
    graph = build()
    exact = Enumerated(*graph.arguments)
    posterior = infer(*graph.arguments)
    close = {"rtol": 1e-8, "atol": 1e-8}
    np.testing.assert_allclose(posterior.log_normalizer, exact.log_normalizer, **close)
    np.testing.assert_allclose(
        eliminate(*graph.arguments), exact.log_normalizer, **close
    )
    for term, found in zip(graph.terms, posterior.terms):
        found = found if isinstance(found, GaussianStatistics) else [found]
        for part, expected in zip(found, exact.statistics(term)):
            np.testing.assert_allclose(part, expected, **close)
    for v in graph.variables:
        expected = exact.statistics(variable_term(v, graph.plate_sizes))
        found = posterior.variables[v.name]
        if v.discrete:
            np.testing.assert_allclose(found, expected[0], **close)
        else:
            _, mean, second = expected
            covariance = second - mean[..., :, None] * mean[..., None, :]
            np.testing.assert_allclose(found.mean, mean, **close)
            np.testing.assert_allclose(found.covariance, covariance, **close)


def sample_statistics(term, draws, graph):
    """``1{s}``, ``1{s} x`` and ``1{s} x x'`` of one draw, in the plates of the term."""
    plates = term.plates

    def spread(name):
        v = graph.by_name[name]
        value = draws[name]
        kept = [plates.index(plate) for plate in v.plates]
        value = jnp.moveaxis(value, range(len(kept)), np.argsort(np.argsort(kept)))
        shape = [
            graph.plate_sizes[plate] if plate in v.plates else 1 for plate in plates
        ]
        value = value.reshape(*shape, *value.shape[len(kept) :])
        full = tuple(graph.plate_sizes[plate] for plate in plates)
        return jnp.broadcast_to(value, full + value.shape[len(full) :])

    batch = tuple(graph.plate_sizes[plate] for plate in plates)
    indicator = jnp.ones(batch)
    for name in term.states:
        onehot = jax.nn.one_hot(spread(name), graph.by_name[name].size)
        middle = (1,) * (indicator.ndim - len(batch))
        onehot = onehot.reshape(*batch, *middle, -1)
        indicator = indicator[..., None] * onehot
    if isinstance(term, TableTerm):
        return [indicator]
    x = jnp.concatenate([spread(name) for name in term.variables], -1)
    x = x.reshape(batch + (1,) * len(term.states) + x.shape[-1:])
    first = indicator[..., None] * x
    return [indicator, first, first[..., None] * x[..., None, :]]


@pytest.mark.x64
@every_graph
def test_samples_have_the_expected_statistics(build):
    graph, count = build(), 5_000

    @jax.jit
    @jax.vmap
    def statistics(key):
        draws = draw(key, *graph.arguments)
        return [sample_statistics(term, draws, graph) for term in graph.terms]

    exact = Enumerated(*graph.arguments)
    sampled = jax.device_get(statistics(jax.random.split(jax.random.key(0), count)))
    for term, parts in zip(graph.terms, sampled):
        for part, expected in zip(parts, exact.statistics(term)):
            error = np.std(part, 0) / np.sqrt(count)
            assert np.all(np.abs(np.mean(part, 0) - expected) < 5 * error + 1e-12)


def test_the_shape_and_type_of_a_draw():
    graph = mixture()
    draws = jax.jit(lambda key: draw(key, *graph.arguments))(jax.random.key(0))
    assert {name: x.shape for name, x in draws.items()} == {
        "z": (3,),
        "parent": (),
        "scale": (2,),
        "x": (3, 2),
    }
    assert jnp.issubdtype(draws["z"].dtype, jnp.integer)
    assert draws["x"].dtype == jnp.float32


@pytest.mark.x64
def test_a_draw_is_reparameterised():
    """The pathwise gradient of the mean of a square is that of its expectation."""
    variables, plate_sizes, terms = tree().arguments
    keys = jax.random.split(jax.random.key(0), 5_000)

    def with_info(info):
        return (replace(terms[0], info=info), *terms[1:])

    def expected(info):
        mean, covariance = infer(variables, plate_sizes, with_info(info)).variables["d"]
        return mean @ mean + jnp.trace(covariance)

    def one(key, info):
        return jnp.sum(draw(key, variables, plate_sizes, with_info(info))["d"] ** 2)

    info = jnp.asarray(terms[0].info)
    gradients = jax.jit(jax.vmap(jax.grad(one, 1), (0, None)))(keys, info)
    gradients = jax.device_get(gradients)
    error = np.std(gradients, 0) / np.sqrt(len(keys))
    difference = np.mean(gradients, 0) - jax.grad(expected)(info)
    assert np.all(np.abs(difference) < 5 * error)


@pytest.mark.x64
@pytest.mark.parametrize("build", [mixture, gaussian_hmm])
def test_gradients_of_the_statistics(build):
    variables, plate_sizes, terms = build().arguments
    terms = jax.tree.map(jnp.asarray, terms)

    def outputs(terms):
        return infer(variables, plate_sizes, terms)

    check_grads(outputs, (terms,), order=1, modes=["rev"])


@pytest.mark.x64
def test_impossible_states():
    """A state that is ruled out at every step leaves finite values and gradients."""
    graph = gaussian_hmm()
    for term in graph.terms:
        if isinstance(term, TableTerm):
            term.logits[..., 1] = -np.inf
    exact = Enumerated(*graph.arguments)
    posterior = infer(*graph.arguments)
    np.testing.assert_allclose(posterior.log_normalizer, exact.log_normalizer)
    for term, found in zip(graph.terms, posterior.terms):
        found = found if isinstance(found, GaussianStatistics) else [found]
        for part, expected in zip(found, exact.statistics(term)):
            np.testing.assert_allclose(part, expected, rtol=1e-8, atol=1e-8)

    def objective(terms):
        q = infer(graph.variables, {}, terms)
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(q))

    terms = jax.tree.map(jnp.asarray, tuple(graph.terms))
    gradient = jax.jit(jax.grad(objective))(terms)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    draws = jax.vmap(lambda key: draw(key, *graph.arguments))
    assert not np.any(draws(jax.random.split(jax.random.key(0), 50))["z2"] == 1)
    nothing = TableTerm(("z0",), (), np.full(3, -np.inf))
    assert eliminate(graph.variables, {}, (*terms, nothing)) == -np.inf


@pytest.mark.x64
def test_one_state_and_one_member():
    graph = Graph(Variable("z", 1, True, ("n",)), Variable("x", 1, plates=("n",)), n=1)
    graph.link("x", states=("z",), plates=("n",)).table("z", plates=("n",))
    exact = Enumerated(*graph.arguments)
    posterior = infer(*graph.arguments)
    np.testing.assert_allclose(posterior.log_normalizer, exact.log_normalizer)
    np.testing.assert_allclose(posterior.variables["z"], [[1.0]])


@pytest.mark.x64
def test_jit_and_vmap():
    variables, plate_sizes, terms = tree().arguments
    factors = np.array([1.0, 2.0, 3.0])
    batch = jax.tree.map(lambda x: np.multiply.outer(factors, x), terms)

    @jax.jit
    @jax.vmap
    def posteriors(terms):
        return infer(variables, plate_sizes, terms)

    together = posteriors(batch)
    for i in range(len(factors)):
        one = jax.tree.map(lambda x, i=i: x[i], batch)
        alone = infer(variables, plate_sizes, one)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
            np.testing.assert_allclose(a[i], b, rtol=1e-10, atol=1e-10)


def test_covariances_in_single_precision_far_from_zero():
    """Means of a hundred standard deviations cost the covariance nothing."""
    variables, plate_sizes, terms = tree().arguments

    def moved(term):
        return replace(term, info=term.info + term.precision.sum(-1) * 100.0)

    terms = tuple(map(moved, terms))
    single = infer(variables, plate_sizes, terms)
    with jax.enable_x64(True):
        double = infer(variables, plate_sizes, terms)
    for name, (mean, covariance) in single.variables.items():
        exact = double.variables[name]
        np.testing.assert_allclose(covariance, exact.covariance, rtol=3e-5, atol=1e-6)
        np.testing.assert_allclose(mean, exact.mean, rtol=1e-5)


@pytest.mark.x64
def test_agrees_with_independent_gaussians():
    rng = np.random.default_rng(0)
    loc = jnp.asarray(rng.normal(size=(4, 3)))
    half = rng.normal(size=(4, 3, 3))
    covariance = jnp.asarray(half @ np.swapaxes(half, -1, -2) + np.eye(3))
    potential = ns.GaussianPotential(rng.normal(size=(4, 3)), rng.uniform(size=(4, 3)))
    expected = gaussian.condition(loc, covariance, potential)
    precision = np.linalg.solve(covariance, np.eye(3))
    h = np.squeeze(precision @ loc[..., None], -1)
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
    names = ("x",), (), ("n",)
    prior = GaussianTerm(*names, h, precision, -0.5 * (np.sum(h * loc, -1) + log_det))
    h, J = potential.info_vector, potential.full_precision()
    message = GaussianTerm(*names, h, J, np.zeros(4))
    found = infer([Variable("x", 3, plates=("n",))], {"n": 4}, [prior, message])
    total = jnp.sum(expected.log_normalizer)
    np.testing.assert_allclose(found.log_normalizer, total, rtol=1e-10)
    np.testing.assert_allclose(found.variables["x"].mean, expected.mean)
    np.testing.assert_allclose(found.variables["x"].covariance, expected.covariance)


def chain_terms(mu, P, F, Q, h, J):
    """Prior and potentials of a Gaussian chain, as terms of a graph."""

    def regression(names, weight, bias, noise):
        a = np.concatenate([-weight, np.eye(len(bias))], 1)
        half = np.linalg.solve(noise, a)
        info = half.T @ bias
        quadratic = bias @ np.linalg.solve(noise, bias)
        constant = -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * noise)[1])
        return GaussianTerm(names, (), (), info, a.T @ half, constant)

    size, names = len(mu), [f"x{t}" for t in range(len(h))]
    terms = [regression((names[0],), np.zeros((size, 0)), mu, P)]
    for pair in itertools.pairwise(names):
        terms.append(regression(pair, F, np.zeros(size), Q))
    for t, name in enumerate(names):
        terms.append(GaussianTerm((name,), (), (), h[t], np.diag(J[t]), 0.0))
    return [Variable(name, size) for name in names], {}, terms


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_agrees_with_a_gaussian_chain(dtype):
    rng = np.random.default_rng(0)
    steps, size = 4, 2
    mu, P, Q = rng.normal(size=size), np.eye(size), 0.3 * np.eye(size)
    F = 0.9 * np.eye(size) + 0.2 * rng.normal(size=(size, size))
    h, J = rng.normal(size=(steps, size)), rng.uniform(size=(steps, size))
    with jax.enable_x64(dtype == jnp.float64):
        chain = ns.LinearGaussianChain(mu, P, F, Q, num_steps=steps)
        expected, log_normalizer = chain.condition(ns.GaussianPotential(h, J))
        found = infer(*chain_terms(mu, P, F, Q, h, J))
        tolerance = 1e-10 if dtype == jnp.float64 else 2e-5
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(found.log_normalizer, log_normalizer, **close)
        means, covariances = zip(*(found.variables[f"x{t}"] for t in range(steps)))
        np.testing.assert_allclose(jnp.stack(means), expected.mean, **close)
        covariances = jnp.stack(covariances)
        np.testing.assert_allclose(covariances, expected.covariance, **close)
        assert found.log_normalizer.dtype == dtype


def message(*arguments) -> str:
    with pytest.raises(ValueError) as error:
        eliminate(*arguments)
    return str(error.value)


X = Variable("x", 2, plates=("n",))
Z = Variable("z", 3, True)
X_TERM = GaussianTerm(
    ("x",), (), ("n",), np.ones((4, 2)), np.ones((4, 1, 1)) * np.eye(2), np.zeros(4)
)


def test_errors_of_variables():
    assert "['x']: found more than once" in message([X, X], {"n": 4}, [X_TERM])
    assert "'x': found plates ('n',)" in message([X], {"m": 4}, [X_TERM])
    wrong = Variable("z", 0, True)
    assert "'z': found size 0" in message([X, wrong], {"n": 4}, [X_TERM])
    assert "variable 'x': found in no Gaussian term" in message([X], {"n": 4}, [])


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"plates": ("m",)}, "term 1: found plates ('m',); accepted are different"),
        ({"variables": ("z",)}, "term 1: found variables ('z',); accepted are diff"),
        ({"states": ("x",)}, "term 1: found states ('x',); accepted are different d"),
        ({"plates": ()}, "term 1: found plates () with 'x' in plates ('n',)"),
        ({"states": ("z",)}, "term 1, info: found shape (4, 2); accepted is (4, 3, 2)"),
        ({"info": np.ones((4, 3))}, "term 1, info: found shape (4, 3); accepted is"),
        ({"precision": np.ones((4, 2))}, "term 1, precision: found shape (4, 2)"),
        ({"constant": 0.0}, "term 1, constant: found shape (); accepted is (4,)"),
    ],
)
def test_errors_of_terms(change, expected):
    terms = [X_TERM, replace(X_TERM, **change)]
    assert expected in message([X, Z], {"n": 4}, terms)


def test_errors_of_tables():
    table = TableTerm(("z",), ("n",), np.zeros((3, 4)))
    found = message([X, Z], {"n": 4}, [X_TERM, table])
    assert "term 1, logits: found shape (3, 4); accepted is (4, 3)" in found


def test_a_mixture_that_would_collapse():
    """Members select a Gaussian that they share, so that K^N components remain."""
    graph = Graph(Variable("z", 2, True, ("n",)), Variable("mu", 1), n=3)
    graph.link("mu").link("mu", states=("z",), plates=("n",))
    found = message(*graph.arguments)
    assert "'z' (discrete, plates ('n',)) waits for ['mu']" in found
    assert "'mu' (Gaussian, no plates) waits for ['z']" in found
    assert "select no Gaussian outside" in found


def test_crossing_plates():
    graph = Graph(
        Variable("row", 1, plates=("a",)), Variable("col", 1, plates=("b",)), a=2, b=3
    )
    graph.link("row", "col", plates=("a", "b"))
    assert "no factor joins variables of two plates" in message(*graph.arguments)


def test_a_table_that_is_too_large():
    names = [f"z{i}" for i in range(22)]
    graph = Graph(*(Variable(name, 2, True) for name in names), Variable("x", 1))
    graph.link("x")
    for name in names:
        graph.link("x", states=(name,))
    assert "needs a table of 4194304 entries" in message(*graph.arguments)


@pytest.mark.x64
def test_plates_of_a_latent_that_only_members_inform():
    """Every term of the shared latent is in a plate that the latent is not in."""
    graph = Graph(Variable("shared", 2), Variable("z", 2, True), n=3)
    graph.link("shared", plates=("n",)).table("z", plates=("n",))
    exact = Enumerated(*graph.arguments)
    posterior = infer(*graph.arguments)
    np.testing.assert_allclose(posterior.log_normalizer, exact.log_normalizer)
    term = variable_term(graph.by_name["shared"], graph.plate_sizes)
    mean = exact.statistics(term)[1]
    np.testing.assert_allclose(posterior.variables["shared"].mean, mean)


@pytest.mark.x64
def test_a_plate_without_members():
    graph = Graph(Variable("x", 2, plates=("n",)), Variable("w", 2), n=0)
    graph.link("w").link("w", "x", plates=("n",))
    exact = Enumerated(*graph.arguments)
    posterior = infer(*graph.arguments)
    np.testing.assert_allclose(posterior.log_normalizer, exact.log_normalizer)
    assert draw(jax.random.key(0), *graph.arguments)["x"].shape == (0, 2)


def test_numpyro_enumerates_as_before():
    """NumPyro and the block share funsor's one backend."""

    def model():
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.2, 0.8])))
        numpyro.sample("y", dist.Normal(jnp.array([0.0, 3.0])[z], 1.0), obs=1.0)

    def density():
        return log_density(enum(config_enumerate(model), -1), (), {}, {})[0]

    before = density()
    eliminate(*tree().arguments)
    np.testing.assert_array_equal(density(), before)
    assert funsor.get_backend() == "jax"
