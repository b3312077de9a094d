# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""How many programs XLA compiles before a first result, and for a second one."""

from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, substitute, trace
import pytest

import numpyro_svae as ns
from numpyro_svae.diagnostics.fit import Fit
from numpyro_svae.diagnostics.programs import kept
from tests.compilations import compilations
from tests.data import make_svi
from tests.models import lds_recognition, lds_svae, linear_lds, mixture
from tests.recurrent import Y, recurrent
from tests.switching import hmm

KEY = random.PRNGKey(0)


def run_by_numpyro(model, recognition, *args):
    """What ``SVI.init`` does of its own: both run, operation by operation."""
    messages = trace(seed(model, KEY)).get_trace(*args)
    known = {n: m["value"] for n, m in messages.items() if m["type"] == "param"}
    if recognition is not None:
        substitute(seed(recognition, KEY), data=known)(*args)


@pytest.mark.parametrize(
    "model, recognition, args, most",
    [
        (mixture, None, (random.normal(KEY, (30, 2)),), 19),
        (
            lds_svae,
            lds_recognition,
            (random.normal(KEY, (4, 6, 3)), jnp.ones((4, 5, 1))),
            17,
        ),
        (recurrent, None, (jnp.asarray(Y),), 222),
    ],
    ids=["mixture", "dynamics", "scan"],
)
def test_set_up_compiles_few_programs_of_its_own(model, recognition, args, most):
    """Beside those of NumPyro's first run; there were 280, 350 and 420."""
    jax.clear_caches()  # which others may have filled
    run_by_numpyro(model, recognition, *args)
    svi = make_svi(model, ns.AutoSVAE(model, recognition, num_starts=2))
    with compilations() as count:
        svi.init(KEY, *args)
    assert count() <= most


def test_what_looks_at_a_fit_compiles_nothing_for_other_data():
    y = random.normal(KEY, (2, 6, 3))
    guide = ns.AutoSVAE(linear_lds, num_starts=1)
    svi = make_svi(linear_lds, guide)
    params = svi.get_params(svi.init(KEY, y))

    def look(key: Array, y: Array, params: dict[str, Any]) -> None:
        fit = linear_lds, guide, params
        given = {"horizon": 2, "num_samples": 3}
        ns.forecast(*fit, key, y, **given)
        ns.log_score(*fit, key, y, future={"y": y[:, :2]}, num_samples=3)
        ns.impute(*fit, key, y, num_samples=3)
        ns.filter(*fit, y).update(y=y[:, 0])
        ns.to_arviz(*fit, y, num_samples=3, num_particles=2, rng_key=key)

    look(KEY, y, params)
    other = jax.tree.map(lambda leaf: 1.01 * leaf, params)
    with compilations() as count:
        look(random.PRNGKey(1), y[::-1], other)
    assert count() <= 3  # NumPyro and the binding of data run operations


def test_other_origins_of_a_series_compile_nothing():
    """An origin is an argument; what is stored after it counts nothing."""
    y = random.normal(KEY, (1, 6, 2))
    guide = ns.AutoSVAE(hmm, num_starts=1)
    svi = make_svi(hmm, guide)
    params = svi.get_params(svi.init(KEY, y, lengths=jnp.array([6])))

    def score(origin: int, y: Array) -> Array:
        came = {"future": {"y": y[:, 5:]}, "lengths": jnp.array([origin])}
        return ns.log_score(hmm, guide, params, KEY, y, **came, num_samples=50)["y"]

    first, changed = score(4, y), y.at[:, 4].set(9.0)
    with compilations() as count:
        other, again = score(3, y), score(4, changed)
    assert count() <= 3
    np.testing.assert_array_equal(again, first)
    assert not np.allclose(other, first)


def test_a_numpy_scalar_is_known_by_its_value():
    """It was by its identity, so that every call compiled anew."""
    guide = ns.AutoSVAE(linear_lds)

    def program(scalar: np.generic) -> object:
        return kept(Fit(linear_lds, guide, {}, (scalar,), {}), "program", object)

    assert program(np.float32(2.5)) is program(np.float32(2.5))
    assert program(np.float32(2.5)) is not program(np.float32(3.5))
