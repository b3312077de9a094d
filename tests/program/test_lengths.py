# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What depends on a chain with lengths is masked where it has ended, or an error."""

import jax
from jax import random
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import numpyro_svae as ns

N, T = 2, 5
Y = random.normal(random.key(0), (N, T, 2))
ROWS = jnp.array([[0.8, 0.2], [0.4, 0.6]])
SHORT, FULL = jnp.array([5, 3]), jnp.array([5, 5])


def exists(lengths):
    return jnp.arange(T) < lengths[:, None]


def states(y, lengths, mask=None):
    """A table of densities that are not Gaussian."""
    with numpyro.plate("sequences", N):
        chain = ns.DiscreteMarkovChain(ROWS[0], ROWS, T, lengths=lengths)
        z = numpyro.sample("z", chain)
        fn = dist.Laplace(2.0 * z[..., None], 1.0).expand([N, T, 2])
        fn = fn if mask is None else fn.mask(mask[..., None])
        numpyro.sample("y", fn.to_event(2), obs=y)


def path(y, lengths, mask=None, plate=False):
    """A likelihood of a path that is sampled, with time as an event or as a plate."""
    with numpyro.plate("sequences", N, dim=-1):
        eye = jnp.eye(2)
        chain = ns.LinearGaussianChain(
            jnp.zeros(2), eye, 0.5 * eye, eye, num_steps=T, lengths=lengths
        )
        x = numpyro.sample("x", chain)
    fn = dist.Normal(jnp.tanh(x), 0.5).to_event(1)
    fn = fn if mask is None else fn.mask(mask)
    if not plate:
        with numpyro.plate("sequences", N, dim=-1):
            numpyro.sample("y", fn.to_event(1), obs=y)
        return
    with numpyro.plate("data", N, dim=-2), numpyro.plate("time", T, dim=-1):
        numpyro.sample("y", fn, obs=y)


def recognition(y, lengths, mask=None, plate=False):
    return {"x": ns.GaussianPotential.from_loc_scale(y, jnp.ones(2))}


def read(model, *args, jit=False, **options):
    guide = ns.AutoSVAE(model, recognition if model is path else None)

    def run(*args):
        with numpyro.handlers.seed(rng_seed=0):
            return guide(*args, **options)

    (jax.jit(run) if jit else run)(Y, *args)


@pytest.mark.parametrize("lengths", [SHORT, FULL])
@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("model", [states, path])
def test_padding_that_counts_is_an_error(model, lengths, jit):
    text = r"Site 'y': depends on chain '[xz]'.*`lengths`.*mask"
    with pytest.raises(ValueError, match=text):
        read(model, lengths, jit=jit)
    read(model, lengths, exists(lengths), jit=jit)


def test_padding_in_a_plate_of_steps_is_an_error():
    with pytest.raises(ValueError, match="Site 'y': depends on chain 'x'"):
        read(path, SHORT, plate=True)
    read(path, SHORT, exists(SHORT), plate=True)


def test_a_mask_of_something_else_leaves_the_padding():
    seen = exists(jnp.array([4, 4]))
    with pytest.raises(ValueError, match="Site 'y'"):
        read(states, SHORT, seen)
    read(states, SHORT, seen & exists(SHORT))


def later_steps(y, lengths, mask):
    """Data of the steps after the first one, of a path."""
    with numpyro.plate("sequences", N):
        eye = jnp.eye(2)
        chain = ns.LinearGaussianChain(
            jnp.zeros(2), eye, 0.5 * eye, eye, num_steps=T, lengths=lengths
        )
        x = numpyro.sample("x", chain)
        fn = dist.Normal(x[:, 1:], 0.5).to_event(1).mask(mask)
        numpyro.sample("y", fn.to_event(1), obs=y[:, 1:])


def later_states(y, lengths, mask):
    """The same of states with learnt means, which start alike."""
    with numpyro.plate("states", 2):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("sequences", N):
        chain = ns.DiscreteMarkovChain(ROWS[0], ROWS, T, lengths=lengths)
        z = numpyro.sample("z", chain)
        fn = dist.Normal(mu[z[:, 1:]], 1.0).mask(mask)
        numpyro.sample("y", fn.to_event(1), obs=y[:, 1:, 0])


@pytest.mark.parametrize("model", [later_steps, later_states])
def test_a_mask_of_later_steps_ends_where_their_chain_does(model):
    read(model, SHORT, exists(SHORT)[:, 1:])
    with pytest.raises(ValueError, match=r"Site 'y': depends on chain '[xz]'"):
        read(model, SHORT, exists(SHORT)[:, :-1])  # which is a step too late
