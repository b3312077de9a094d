# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Data that pick what there is not are refused; JAX would take what is nearest."""

import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
from numpyro.infer import SVI
import pytest

import numpyro_svae as ns

Y = np.linspace(-1.0, 1.0, 6)
LABELS = np.array([0, 1, 2, 5, 1, 0])
ROWS = jnp.array([[0.9, 0.1], [0.2, 0.8]])


def groups(labels, y, take=lambda x, at: x[at]):
    with numpyro.plate("groups", 3):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(take(mu, labels), 1.0), obs=y)


def one_too_many(labels, y):
    groups(labels, y, lambda mu, at: mu[3] + 0.0 * at)


def rows_of_a_table(labels, y):
    with numpyro.plate("groups", 3):
        probs = numpyro.sample("probs", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Categorical(probs[labels]), obs=(y > 0) * 1)


def columns(labels, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    with numpyro.plate("data", len(y)):
        loc = w[:, labels].T
        numpyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=jnp.c_[y, y])


def known_states(labels, y, known=None):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("groups", 3):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", len(y)):
        fn = dist.Categorical(weights)
        z = numpyro.sample("z", fn, obs=labels, obs_mask=known)
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def states_in_part(labels, y):
    known_states(labels, y, np.arange(6) < 5)


def path(labels, y):
    with numpyro.plate("groups", 3):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(3)))
    fn = ns.DiscreteMarkovChain(jnp.ones(3) / 3, rows, num_steps=6)
    numpyro.sample("z", fn, obs=labels)


def padded(lengths, y):
    fn = ns.DiscreteMarkovChain(jnp.ones(2) / 2, ROWS, 4, lengths=lengths)
    with numpyro.plate("sequences", 6):
        z = numpyro.sample("z", fn)
        exists = jnp.arange(4) < lengths[:, None]
        fn = dist.Normal(z * 1.0, 1.0).mask(exists).to_event(1)
        numpyro.sample("y", fn, obs=jnp.zeros((6, 4)))


def more_states(labels, y):
    probs = jnp.ones(3) / 3
    with numpyro.plate("members", 2):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(probs))
        numpyro.sample("y", dist.Poisson(rate[z]), obs=labels)


def more_states_than_numbers(labels, y):
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(jnp.ones(3) / 3))
        numpyro.sample("y", dist.Normal(jnp.array([-1.0, 1.0])[z], 1.0), obs=y)


AN_INDEX = r"found the index 5 at \(3,\), the first of 1 .* axis of size 3.* up to 2"
A_LABEL = r"found the label 5 at \(3,\), .*from 0 to 2"
WRONG = {
    groups: rf"'mu': {AN_INDEX}",
    one_too_many: r"'mu': found the index 3 of an axis of size 3",
    rows_of_a_table: rf"'probs': {AN_INDEX}",
    columns: rf"'w': {AN_INDEX}",
    known_states: rf"'z': {A_LABEL}",
    states_in_part: rf"'z_observed': {A_LABEL}",
    path: rf"'z': {A_LABEL}",
    more_states: r"'z': found the index 2 .* size 2, of 'rate', in the last",
    more_states_than_numbers: r"'z': found the index 2 .* size 2, of known numbers",
    padded: r"'z': found the length 5 at \(3,\), .*from 0 to 4",
}


def read(model, *args):
    guide = ns.AutoSVAE(model, num_starts=1)
    with trace() as messages, seed(rng_seed=0):
        guide(*args)
    params = {n: m["value"] for n, m in messages.items() if m["type"] == "param"}
    return guide, params


@pytest.mark.parametrize("model", WRONG, ids=lambda model: model.__name__)
def test_what_is_out_of_range_is_named(model):
    with pytest.raises(ValueError, match=WRONG[model]):
        read(model, LABELS, Y)


def test_new_data_are_looked_at_too():
    guide, params = read(groups, LABELS % 3, Y)
    with pytest.raises(ValueError, match=WRONG[groups]):
        ns.log_likelihood(groups, guide, params, random.key(0), LABELS, Y)
    with pytest.raises(ValueError, match="found the index -4 at"):
        guide.posterior_local(params, LABELS % 3 - 4, Y)


@pytest.mark.parametrize("model", [groups, known_states])
def test_steps_outside_of_jit_look_at_their_data(model):
    guide = ns.AutoSVAE(model, num_starts=1)
    svi = SVI(model, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
    state = svi.init(random.key(0), LABELS % 3, Y)
    for call in svi.update, svi.evaluate:
        with pytest.raises(ValueError, match=WRONG[model]):
            call(state, LABELS, Y)


def test_what_comes_after_the_data_is_looked_at_too():
    def seasons(labels, y):
        with numpyro.plate("seasons", 3):
            mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        one = jnp.eye(1)
        chain = ns.LinearGaussianChain(jnp.zeros(1), one, one, one, num_steps=len(y))
        x = numpyro.sample("x", chain)
        seen = dist.Normal(x[:, 0] + mu[labels], 1.0).to_event(1)
        numpyro.sample("y", seen, obs=y)

    guide, params = read(seasons, LABELS % 3, Y)
    args = seasons, guide, params, random.key(0), LABELS % 3, Y
    after = {"labels": np.arange(8) % 7}  # more than there are data
    with pytest.raises(ValueError, match="future_inputs: Site 'mu': found the index 3"):
        ns.forecast(*args, horizon=8, future_inputs=after)
    late = {"labels": np.array([0] * 7 + [3])}
    with pytest.raises(ValueError, match="future_inputs: Site 'mu': found the index 3"):
        ns.log_score(*args, future={"y": np.zeros(8)}, future_inputs=late)


def test_what_asks_for_the_nearest_has_it():
    def nearest(mu, at):
        return mu.at[at].get(mode="clip")

    read(lambda labels, y: groups(labels, y, nearest), LABELS, Y)
    read(groups, LABELS % 3 - 3, Y)  # from the end
    jax.eval_shape(lambda labels: read(groups, labels, Y)[1], LABELS)  # is not known


def test_a_prior_that_nothing_can_be_drawn_from_is_refused():
    def model(y):
        real = dist.constraints.real
        mu = numpyro.sample("mu", dist.ImproperUniform(real, (), ()))
        with numpyro.plate("data", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with pytest.raises(
        ValueError, match=r"'mu': found ImproperUniform.*Normal\(0, s\)"
    ):
        read(model, Y)
