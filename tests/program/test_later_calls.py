# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Later calls are right, or refused, where arguments make another program."""

from functools import partial
import pickle

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import digamma
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
import pytest

import numpyro_svae as ns
import numpyro_svae.guide
from numpyro_svae.program.run.operations import named, text_of

Y = np.random.default_rng(0).normal(size=(6, 2))


def factors(
    y, power=1, swapped=False, shift=0.0, scale=1.0, u=None, mask=True, more=None
):
    """Two factors with learnt loadings, and what flags and numbers make of them."""
    prior = dist.MatrixNormal(jnp.zeros((2, 2)), jnp.eye(2), jnp.eye(2))
    loadings = numpyro.sample("loadings", prior)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        location = (z[..., ::-1] if swapped else z) ** power @ loadings.T + shift
        location = location if u is None else location + u
        noise = dist.Normal(location, scale).to_event(1)
        numpyro.sample("y", noise.mask(mask), obs=y)
        if more is not None:
            numpyro.sample("more", dist.Normal(z, 1.0).to_event(1), obs=more)


def begun(guide, *args, **kwargs):
    """The parameters that a guide begins with."""
    with trace() as messages, seed(rng_seed=0):
        guide(*args, **kwargs)
    return {n: m["value"] for n, m in messages.items() if m["type"] == "param"}


def set_up(*args, **kwargs):
    """A guide that has read the factors, and its loss, without parameters of its own:
    its posteriors start in the same place for all arguments."""
    first = dist.MatrixNormal(jnp.eye(2), jnp.eye(2), jnp.eye(2))
    guide = ns.AutoSVAE(factors, init={"loadings": first}, num_starts=1)
    params = begun(guide, *args, **kwargs)
    return guide, partial(ns.SVAE_ELBO().loss, random.key(0), params, factors, guide)


@pytest.fixture(scope="module")
def plain():
    """The guide and the loss of the factors without anything beside."""
    return set_up(Y)


@pytest.mark.parametrize(
    "later, match",
    [
        ({"power": 2}, "'y'.*in a way that is not conjugate"),
        ({"swapped": True}, "'y': .* in another way; .* in its own way"),
        ({"shift": 2.0}, "'y': .* known beside it; when.*was conjugate factor of"),
        ({"u": np.ones((6, 2))}, "'y': .* known beside it.*SVI.init"),
        ({"more": Y}, "'more': .*factor of 'z'.*; when .* it was of no latent site"),
    ],
)
def test_what_was_not_read_is_refused(plain, later, match):
    """It would be taken for what was read: the loss would be that of another model."""
    _, loss = plain
    for call in (loss, jax.jit(partial(loss, **later))):
        with pytest.raises(ValueError, match=match):
            call(Y) if call is not loss else call(Y, **later)


def test_a_call_for_less_has_the_loss_of_its_own_guide():
    """What is known beside a factor is read at each call, and is zero in some."""
    _, own = set_up(Y)
    _, loss = set_up(Y, u=np.ones((6, 2)))
    np.testing.assert_allclose(loss(Y), own(Y), rtol=1e-5)
    _, narrow = set_up(Y, scale=0.5)
    np.testing.assert_allclose(own(Y, scale=0.5), narrow(Y, scale=0.5), rtol=1e-5)
    _, of_arrays = set_up(Y, shift=jnp.zeros(()))  # a number that may change
    _, shifted = set_up(Y, shift=2.0)
    np.testing.assert_allclose(
        of_arrays(Y, shift=jnp.full((), 2.0)), shifted(Y, shift=2.0), rtol=1e-5
    )


def test_an_exposure_may_be_one_later():
    """Rates times a number are read one by one; times one, they are as they are."""

    def model(y, exposure):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Poisson(rate * exposure), obs=y)

    y, guides = jnp.array([1, 2, 0]), [ns.AutoSVAE(model) for _ in range(2)]
    params = begun(guides[0], y, 1.0)
    begun(guides[1], y, 2.0)
    one, two = (
        partial(ns.SVAE_ELBO().loss, random.key(0), params, model, guide, y)
        for guide in guides
    )
    np.testing.assert_allclose(two(1.0), one(1.0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"'y': .*in another way.*jnp.asarray"):
        one(2.0)


def test_a_label_may_say_nothing_later():
    """Two labels that both move a mean, and then one of them alone."""

    def model(y, both):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Categorical(jnp.ones(2) / 2))
            w = numpyro.sample("w", dist.Categorical(jnp.ones(2) / 2))
            mean = mu[z] + 0.3 * w if both else mu[z]
            numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    y, guides = Y[:, 0], [ns.AutoSVAE(model, num_starts=1) for _ in range(2)]
    params = begun(guides[0], y, True)
    begun(guides[1], y, False)
    found, expected = (
        ns.SVAE_ELBO().loss(random.key(0), params, model, guide, y, False)
        for guide in guides
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"'w': .*, it was .*; on which nothing"):
        guides[1].posterior_local(params, y, True)


def test_what_one_datum_has_may_differ_between_several():
    """With one, loadings that data scale are the same for all; the text is the same."""

    def model(y, sizes):
        loadings = numpyro.sample(
            "loadings", dist.MatrixNormal(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        )
        with numpyro.plate("data", len(y)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            x = z * sizes[:, None]
            numpyro.sample("y", dist.Normal(x @ loadings.T + x, 1.0).to_event(1), obs=y)

    guide, sizes = ns.AutoSVAE(model, num_starts=1), np.linspace(0.5, 2.0, 6)
    begun(guide, Y[:1], sizes[:1])
    with pytest.raises(ValueError, match=r"'y': .*in another way.*SVI.init"):
        guide.posterior_local({}, Y, sizes)


def labelled(y, z=None):
    """A mixture whose labels may be known."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("states", 2):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights), obs=z)
        numpyro.sample("y", dist.Normal(mu[z], 2.0), obs=y)


def test_labels_that_come_without_data_have_a_guide_of_their_own():
    """They would be drawn from their prior, whatever the data say."""
    y, z = jnp.array([-2.0, -1.0, 3.0]), jnp.array([0, 0, 1])
    guide, second = ns.AutoSVAE(labelled), ns.AutoSVAE(labelled)
    params = begun(guide, y, z)
    for call in (guide.posterior_local, jax.jit(guide.posterior_local)):
        with pytest.raises(ValueError, match=r"'z': found no data.*and 'y' depends on"):
            call(params, y)
    found = guide.get_posterior(params)
    mu, alpha = found["mu"], found["weights"].concentration
    gaps = (y[:, None] - mu.mean) ** 2 + mu.variance
    own = second.posterior_local(params, y)["z"]
    expected = jax.nn.softmax(digamma(alpha) - gaps / 8)
    np.testing.assert_allclose(own.probs, expected, rtol=1e-5)


def test_steps_of_a_scan_that_are_not_seen_later_are_refused():
    """A state that is carried on, and a label of each step."""

    def model(y=None, z=None, carried=True):
        with numpyro.plate("states", 2):
            rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(2)))

        def step(state, seen):
            y, z = seen
            row = rows[state if carried else 0]
            z = numpyro.sample("z", dist.Categorical(row), obs=z)
            location = 0.0 if carried else 2.0 * z
            numpyro.sample("y", dist.Normal(location, 1.0), obs=y)
            return (z if carried else state), None

        scan(step, 0, (y, z), length=3)

    y, z = jnp.array([0.1, -1.0, 2.0]), jnp.array([0, 1, 1])
    for carried, name in ((True, "the next step"), (False, "y")):
        guide = ns.AutoSVAE(model)
        call = partial(guide.posterior_local, begun(guide, y, z, carried))
        with pytest.raises(ValueError, match=f"'z': found no data.*'{name}' depends"):
            call(y, None, carried)
    assert call(None, z, carried) == {}


def seen_twice(a=None, b=None, size=3, power=1):
    """A vector that two kinds of data tell of, of which either may not be there."""
    with numpyro.plate("data", size):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        numpyro.sample("a", dist.Normal(z**power, 0.5).to_event(1), obs=a)
        numpyro.sample("b", dist.Normal(2 * z, 0.5).to_event(1), obs=b)


@pytest.mark.filterwarnings("ignore:Found vars in model")
def test_a_call_without_some_of_the_data_has_the_evidence_of_the_others():
    """What is drawn has no term. The density of each datum, summed over its vector."""
    a, b = np.array([[0.3], [-1.0], [2.0]]), np.array([[0.5], [-1.0], [3.0]])
    guide = ns.AutoSVAE(seen_twice)
    begun(guide, a, b)
    loss = partial(ns.SVAE_ELBO().loss, random.key(0), {}, seen_twice, guide)
    for given, gain, scale in ((a, 1, 1.25), (b, 2, 4.25)):
        found = loss(**{"ab"[gain - 1]: given})
        evidence = dist.Normal(0.0, scale**0.5).log_prob(given).sum()
        np.testing.assert_allclose(found, -evidence, rtol=1e-5)
    np.testing.assert_allclose(loss(), 0.0, atol=1e-6)
    with pytest.raises(ValueError, match=r"'a': .* sends its gradient to 'z'; when"):
        loss(a=a, power=2)
    np.testing.assert_allclose(loss(b=b, power=2), loss(b=b), rtol=1e-6)


def test_calls_with_the_same_text_are_not_read_again(plain, monkeypatch):
    """More data, a mask and other values of what is known make no other program."""
    _, loss = plain

    def read_again(*args):
        pytest.fail("the program was read again")

    monkeypatch.setattr(numpyro_svae.guide, "read_program", read_again)
    assert np.isfinite(loss(Y[:3]))
    assert np.isfinite(loss(Y, mask=np.arange(6) < 4))
    assert np.isfinite(jax.jit(loss)(np.vstack([Y, Y])))


def test_a_guide_from_a_file_looks_too(plain):
    """It knows the call that it was set up with."""
    guide, loss = plain
    read = pickle.loads(pickle.dumps(guide))
    _, params, *_ = loss.args
    with pytest.raises(ValueError, match="known beside it"):
        ns.SVAE_ELBO().loss(random.key(0), params, factors, read, Y, shift=2.0)


def test_a_chain_of_a_scan_keeps_its_steps():
    """A drift, or a step that is not linear, is not that of the chain that was read."""

    def model(y, drift=0.0, sine=False):
        noise = numpyro.sample("noise", dist.InverseGamma(2.0, 1.0))
        first = numpyro.sample("first", dist.Normal(jnp.zeros(1), 1.0).to_event(1))

        def step(x, seen):
            mean = drift + (jnp.sin(x) if sine else 0.9 * x)
            x = numpyro.sample("x", dist.Normal(mean, jnp.sqrt(noise)).to_event(1))
            numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=seen)
            return x, None

        scan(step, first, y)

    guide = ns.AutoSVAE(model, num_starts=1)
    with seed(rng_seed=0):
        guide(Y[:, :1])
    for later in ({"drift": 0.5}, {"sine": True}):
        with pytest.raises(ValueError, match=r"'x': .*when the guide was set up"):
            guide.posterior_local({}, Y[:, :1], **later)


def test_a_text_has_operations_and_constants_and_no_shapes():
    """Numbers, constants and what is operated on tell functions apart."""

    def text(function, size=3):
        like = jax.ShapeDtypeStruct((size, 2), jnp.float32)
        return text_of(lambda x: function(named(x, "x"), named(2 * x, "y")), like)

    of = [
        lambda x, y: 2 * x,
        lambda x, y: 3 * x,
        lambda x, y: 2 * y,
        lambda x, y: x**2,
        lambda x, y: x**3,
        lambda x, y: x + np.arange(2.0, dtype=np.float32),
        lambda x, y: x + np.arange(1.0, 3.0, dtype=np.float32),
        lambda x, y: jax.jit(jnp.sin)(x),
        lambda x, y: jax.jit(jnp.cos)(x),
    ]
    assert len({*map(text, of)}) == len(of)
    assert [text(function, 5) for function in of] == [*map(text, of)]
    unneeded = text(lambda x, y: (jnp.sin(y), 2 * x)[1])
    assert unneeded == text(of[0])
