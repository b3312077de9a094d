# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Random programs of the grammar that is read, against enumeration and dense algebra.

Each is read, started and moved by one natural step. Its bound at the start is that of
:mod:`tests.property.oracle`, or below it where coupled sites are independent under the
guide, and the step is the gradient of that bound in the moments of the blocks.
"""

from dataclasses import replace
from functools import partial
import os

from hypothesis import HealthCheck, Phase, example, given, settings, strategies as st
import jax
from jax import random
import jax.numpy as jnp
import numpy as np
import pytest

import numpyro_svae as ns
from tests.data import make_svi
from tests.property import oracle
from tests.property.programs import CLASSES, COUNT, LATENTS, STEPS, Spec, model

# How many programs to try, others each time; the same few, if not given.
EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
FEW = settings(
    deadline=None,
    database=None,
    derandomize=not EXAMPLES,
    phases=[Phase.explicit, Phase.generate],  # each example compiles a program
    suppress_health_check=list(HealthCheck),
)


@st.composite
def specs(draw):
    """Any program of the grammar."""
    latent = draw(st.sampled_from(LATENTS))
    counted = ("gaussian", "bernoulli", "poisson", "categorical", "laplace")
    mixed = latent in ("none", "labels", "states")
    family = draw(st.sampled_from(counted)) if mixed else "gaussian"
    if (latent, family) == ("none", "laplace"):
        family = "gaussian"
    spec = Spec(
        latent=latent,
        family=family,
        rows=draw(st.sampled_from(("known", "dirichlet"))),
        prior=draw(st.sampled_from(("known", "joint", "pair", "apart"))),
        seen=draw(st.sampled_from(("known", "joint", "pair", "apart"))),
        by_state=draw(st.booleans()),
        bias=draw(st.booleans()),
        spelling=draw(st.sampled_from(("matmul", "einsum", "column"))),
        missing="nothing",
        plate=draw(st.booleans()),
        states=draw(st.sampled_from((2, 1))),
        dim=draw(st.sampled_from((2, 1))),
        outputs=draw(st.sampled_from((2, 1))),
    )
    if spec.prior == "apart" and not spec.positions:
        spec = replace(spec, prior="joint")  # a lone vector would be a global one
    return replace(spec, missing=draw(st.sampled_from(gaps(spec))))


def gaps(spec):
    """What may be missing in a program."""
    found = ["nothing"]
    if spec.positions:
        found.append("vectors")
    if spec.positions and spec.family == "gaussian" and spec.seen in ("known", "apart"):
        found.append("entries")
    if spec.timed and spec.plate:
        found.append("ends")
    if spec.latent in ("labels", "mixture") and spec.plate:
        found.append("labels")
    return found


def data_of(spec):
    """Arguments of a program, and what the oracle needs of them: time is never left
    out there, nor is the axis of sequences."""
    rng = np.random.default_rng(0)
    shape = (*spec.positions, spec.outputs)
    y = {
        "gaussian": lambda: rng.normal(0.5, 1.5, shape),
        "laplace": lambda: rng.normal(0.5, 1.5, shape),
        "bernoulli": lambda: rng.integers(0, 2, shape),
        "poisson": lambda: rng.poisson(1.5, shape),
        "categorical": lambda: rng.integers(0, CLASSES, spec.positions),
    }[spec.family]()
    count, steps = spec.plate * COUNT or 1, spec.timed * STEPS or 1
    given, lengths = {}, np.full(count, steps)
    mask = np.ones((count, steps, spec.outputs), bool)
    data = {}
    if spec.missing == "vectors":
        mask = mask & (rng.random((count, steps, 1)) < 0.6)
    elif spec.missing == "entries":
        mask = rng.random(mask.shape) < 0.6
    elif spec.missing == "ends":
        lengths = np.array([3, 2])
        mask = mask & (np.arange(steps)[:, None] < lengths[:, None, None])
        given["lengths"] = jnp.asarray(lengths)
    elif spec.missing == "labels":
        labels = rng.integers(0, spec.states, count)
        seen = np.arange(count) == 0
        given["obs"], given["obs_mask"] = jnp.asarray(labels), jnp.asarray(seen)
        data["label"] = np.where(seen, labels, -1)
    if spec.missing not in ("nothing", "labels"):
        own = mask if spec.missing == "entries" else mask[..., 0]
        given["mask"] = jnp.asarray(own.reshape(*spec.positions, *own.shape[2:]))
    whole = y.reshape(count, steps, *y.shape[len(spec.positions) :])
    data |= {"y": whole, "mask": mask, "length": lengths}
    return (jnp.asarray(y), given), data


def check(spec, num_starts=1):
    """A program has the bound and the natural gradient of the oracle."""
    (y, given), data = data_of(spec)
    program = partial(model, spec)
    svi = make_svi(program, ns.AutoSVAE(program, num_starts=num_starts), natural=0.5)

    @jax.jit
    def one_step(key):
        state = svi.init(key, y, **given)
        moved, loss = svi.update(state, y, **given)
        return *(naturals(svi.get_params(s)) for s in (state, moved)), loss

    before, after, loss = one_step(random.PRNGKey(0))
    bound, expected = jax.jit(partial(exact, spec, data))(before)
    if spec.states > 1 and is_product(spec):
        assert loss >= -bound - 1e-7 * abs(bound)
        return
    np.testing.assert_allclose(loss, -bound, rtol=1e-7, atol=1e-7)
    for name in expected:
        for own, leaf in zip(*map(jax.tree.leaves, (after[name], expected[name]))):
            np.testing.assert_allclose(own, leaf, rtol=1e-6, atol=1e-6)


def exact(spec, data, blocks):
    """The bound at some blocks, and where half a natural step takes each of them."""
    found = oracle.blocks(spec, blocks)
    log_mass = jax.value_and_grad(partial(oracle.log_mass, spec), allow_int=True)
    mass, slopes = log_mass(found, data)
    bound = mass - sum(oracle.divergence(spec, n, b) for n, b in blocks.items())
    expected = {}
    for name in blocks.keys() & found.keys():
        seen = oracle.seen(name, blocks[name], slopes[name])
        prior = oracle.prior_of(spec, name, blocks[name])
        expected[name] = jax.tree.map(
            lambda b, p, s: 0.5 * (b + p + s), blocks[name], prior, seen
        )
    return bound, expected


def is_product(spec):
    """Whether a path of states is independent of the vectors under the guide: they
    are coupled by more than what the states pick for each vector alone."""
    return spec.latent == "switching"


def naturals(params):
    return {n.removesuffix("_auto_natural"): value for n, value in params.items()}


@pytest.mark.x64
@given(spec=specs())
@settings(FEW, max_examples=EXAMPLES or 4)
def test_programs_have_the_bound_and_the_gradient_of_dense_algebra(spec):
    check(spec)


# A mixture of factor analysers without a plate, which has one datum.
ALONE = Spec(
    latent="mixture",
    family="gaussian",
    rows="dirichlet",
    prior="known",
    seen="pair",
    by_state=True,
    bias=False,
    spelling="einsum",
    missing="nothing",
    plate=False,
    states=2,
    dim=2,
    outputs=2,
)


@pytest.mark.slow
@pytest.mark.x64
@given(spec=specs())
@example(ALONE)
@settings(FEW, max_examples=EXAMPLES or 10)
def test_more_programs_do(spec):
    check(spec, num_starts=2)
