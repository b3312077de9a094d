# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Programs written with scan mean the same as those with one site for each chain."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.infer import SVI
import optax
import pytest

import numpyro_svae as ns

# NumPyro's replay takes the shape of everything in the trace of a guide.
pytestmark = pytest.mark.filterwarnings("ignore:shape requires ndarray")

N, T, D, P, K = 3, 6, 2, 3, 3
_RNG = np.random.default_rng(0)
Y = jnp.asarray(_RNG.standard_normal((N, T, P)))
COUNTS = jnp.asarray(_RNG.poisson(2.0, (N, T)))
ACTIONS = jnp.asarray(_RNG.standard_normal((N, T - 1, 1)))
DECODER = jnp.asarray(_RNG.standard_normal((P, D)))
STATES = jnp.asarray(_RNG.standard_normal((K, P)))


class Spelling(NamedTuple):
    """Two spellings of one program, its data, and what is said of its latent sites."""

    one_site: Callable
    scanned: Callable
    data: tuple
    recognition: Callable | None
    states: tuple[str, ...]


def _over_time(x: Any) -> Any:
    return None if x is None else jnp.swapaxes(x, 0, 1)


def _sequences() -> numpyro.plate:
    return numpyro.plate("sequences", N)


def _initial(dim: int = D) -> Any:
    return ns.sample(
        "initial",
        ns.NormalInverseWishart(jnp.zeros(dim), 1.0, dim + 2.0, jnp.eye(dim)),
    )


def _dynamics(columns: int, batch: tuple[int, ...] = ()) -> Any:
    loc = 0.9 * jnp.eye(D, columns)
    prior = ns.MatrixNormalInverseWishart(
        loc, jnp.eye(columns), D + 2.0, jnp.eye(D)
    ).expand(batch)
    if not batch:
        return ns.sample("dynamics", prior)
    with numpyro.plate("states", K):
        return ns.sample("dynamics", prior)


def _emissions(dim: int = P) -> Any:
    with numpyro.plate("states", K):
        return ns.sample(
            "emissions",
            ns.NormalInverseWishart(jnp.zeros(dim), 0.1, dim + 2.0, jnp.eye(dim)),
        )


def _rows() -> tuple[Any, Any]:
    first = numpyro.sample("first", dist.Dirichlet(jnp.ones(K)))
    with numpyro.plate("states", K):
        return first, numpyro.sample("rows", dist.Dirichlet(jnp.ones(K)))


def _picture(x: Any) -> Any:
    return dist.Normal(jnp.tanh(x @ DECODER.T), 0.5).to_event(1)


def _says(y: Any = None, *rest: Any) -> dict[str, ns.GaussianPotential]:
    encoder = numpyro.param("encoder", 0.3 * DECODER)
    return {"x": ns.GaussianPotential.from_loc_scale(y @ encoder, jnp.ones((N, T, D)))}


# a linear dynamical system with actions


def _lds(y: Any = None, actions: Any = ACTIONS) -> None:
    start, (weight, cov) = _initial(), _dynamics(D + 1)
    with _sequences():
        chain = ns.LinearGaussianChain(*start, weight, cov, inputs=actions)
        x = numpyro.sample("x", chain)
        numpyro.sample("y", _picture(x).to_event(1), obs=y)


def _lds_scanned(y: Any = None, actions: Any = ACTIONS) -> None:
    start, (weight, cov) = _initial(), _dynamics(D + 1)
    y = _over_time(y)
    with _sequences():
        x = numpyro.sample("x_first", dist.MultivariateNormal(*start))
        numpyro.sample("y_first", _picture(x), obs=None if y is None else y[0])

    def step(carry: Any, given: Any) -> tuple:
        (x, count), (y, action) = carry, given
        with _sequences():
            loc = jnp.concatenate([x, action], -1) @ weight.T
            x = numpyro.sample("x", dist.MultivariateNormal(loc, cov))
            numpyro.sample("y", _picture(x), obs=y)
        return (x, count + 1), x

    rest = None if y is None else y[1:]
    scan(step, (x, 0), (rest, _over_time(actions)), length=T - 1)


# the same without actions, with an observation that a prior is conjugate to


def _loading() -> Any:
    prior = ns.MatrixNormalInverseWishart(
        jnp.zeros((P, D + 1)), jnp.eye(D + 1), P + 2.0, jnp.eye(P)
    )
    return ns.sample("loading", prior)


def _with_one(x: Any) -> Any:
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1))], -1)


def _factors(y: Any = None) -> None:
    start, (weight, cov), (loading, noise) = _initial(), _dynamics(D), _loading()
    with _sequences():
        chain = ns.LinearGaussianChain(*start, weight, cov, num_steps=T)
        x = numpyro.sample("x", chain)
        loc = _with_one(x) @ loading.T
        seen = dist.MultivariateNormal(loc, noise)
        seen = seen.mask(jnp.arange(T) > 0).to_event(1)
        numpyro.sample("y", seen, obs=y)


def _factors_scanned(y: Any = None) -> None:
    start, (weight, cov), (loading, noise) = _initial(), _dynamics(D), _loading()
    with _sequences():
        x = numpyro.sample("x_first", dist.MultivariateNormal(*start))

    def step(x: Any, y: Any) -> tuple:
        with _sequences():
            x = numpyro.sample("x", dist.MultivariateNormal(x @ weight.T, cov))
            loc = _with_one(x) @ loading.T
            numpyro.sample("y", dist.MultivariateNormal(loc, noise), obs=y)
        return x, None

    scan(step, x, None if y is None else _over_time(y)[1:], length=T - 1)


# hidden Markov models: a conjugate one, one of counts, and one of hidden vectors


def _hmm(y: Any = None) -> None:
    (first, rows), (loc, cov) = _rows(), _emissions()
    with _sequences():
        z = numpyro.sample("z", ns.DiscreteMarkovChain(first, rows, T))
        seen = dist.MultivariateNormal(loc[z], cov[z]).mask(jnp.arange(T) > 0)
        numpyro.sample("y", seen.to_event(1), obs=y)


def _hmm_scanned(y: Any = None) -> None:
    (first, rows), (loc, cov) = _rows(), _emissions()
    with _sequences():
        z = numpyro.sample("z_first", dist.Categorical(first))

    def step(z: Any, y: Any) -> tuple:
        with _sequences():
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            numpyro.sample("y", dist.MultivariateNormal(loc[z], cov[z]), obs=y)
        return z, None

    scan(step, z, None if y is None else _over_time(y)[1:], length=T - 1)


def _counts(y: Any = None) -> None:
    first, rows = _rows()
    rates = numpyro.param("rates", jnp.array([0.5, 2.0, 5.0]))
    with _sequences():
        z = numpyro.sample("z", ns.DiscreteMarkovChain(first, rows, T))
        seen = dist.Poisson(rates[z]).mask(jnp.arange(T) > 0)
        numpyro.sample("y", seen.to_event(1), obs=y)


def _counts_scanned(y: Any = None) -> None:
    first, rows = _rows()
    rates = numpyro.param("rates", jnp.array([0.5, 2.0, 5.0]))
    with _sequences():
        z = numpyro.sample("z_first", dist.Categorical(first))

    def step(z: Any, y: Any) -> tuple:
        with _sequences():
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            numpyro.sample("y", dist.Poisson(rates[z]), obs=y)
        return z, None

    scan(step, z, None if y is None else _over_time(y)[1:], length=T - 1)


# the same with hidden vectors behind a network, which are no chain


def _hidden(y: Any = None) -> None:
    (first, rows), (loc, cov) = _rows(), _emissions(D)
    with _sequences():
        z = numpyro.sample("z", ns.DiscreteMarkovChain(first, rows, T))
        seen = dist.MultivariateNormal(loc[z], cov[z]).to_event(1)
        x = numpyro.sample("x", seen)
        numpyro.sample("y", _picture(x).to_event(1), obs=y)


def _hidden_scanned(y: Any = None) -> None:
    (first, rows), (loc, cov) = _rows(), _emissions(D)
    y = _over_time(y)
    with _sequences():
        z = numpyro.sample("z_first", dist.Categorical(first))
        x = numpyro.sample("x_first", dist.MultivariateNormal(loc[z], cov[z]))
        numpyro.sample("y_first", _picture(x), obs=None if y is None else y[0])

    def step(z: Any, y: Any) -> tuple:
        with _sequences():
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            x = numpyro.sample("x", dist.MultivariateNormal(loc[z], cov[z]))
            numpyro.sample("y", _picture(x), obs=y)
        return z, None

    scan(step, z, None if y is None else y[1:], length=T - 1)


def _says_of_both(y: Any = None) -> dict[str, ns.GaussianPotential]:
    said = _says(y)["x"]
    first = ns.GaussianPotential(said.info_vector[:, 0], said.precision[:, 0])
    return {"x_first": first, "x": said}


# a switching linear dynamical system


def _switching(y: Any = None) -> None:
    start, (first, rows), (weight, cov) = _initial(), _rows(), _dynamics(D, (K,))
    with _sequences():
        z = numpyro.sample("z", ns.DiscreteMarkovChain(first, rows, T))
        later = z[..., 1:]
        chain = ns.LinearGaussianChain(*start, weight[later], cov[later])
        x = numpyro.sample("x", chain)
        numpyro.sample("y", _picture(x).to_event(1), obs=y)


def _switching_scanned(y: Any = None) -> None:
    start, (first, rows), (weight, cov) = _initial(), _rows(), _dynamics(D, (K,))
    y = _over_time(y)
    with _sequences():
        z = numpyro.sample("z_first", dist.Categorical(first))
        x = numpyro.sample("x_first", dist.MultivariateNormal(*start))
        numpyro.sample("y_first", _picture(x), obs=None if y is None else y[0])

    def step(carry: Any, y: Any) -> tuple:
        z, x = carry
        with _sequences():
            z = numpyro.sample("z", dist.Categorical(rows[z]))
            loc = jnp.squeeze(weight[z] @ x[..., None], -1)
            x = numpyro.sample("x", dist.MultivariateNormal(loc, cov[z]))
            numpyro.sample("y", _picture(x), obs=y)
        return (z, x), None

    scan(step, (z, x), None if y is None else y[1:], length=T - 1)


SPELLINGS = {
    "lds": Spelling(_lds, _lds_scanned, (Y, ACTIONS), _says, ("x",)),
    "factors": Spelling(_factors, _factors_scanned, (Y,), None, ("x",)),
    "hmm": Spelling(_hmm, _hmm_scanned, (Y,), None, ("z",)),
    "counts": Spelling(_counts, _counts_scanned, (COUNTS,), None, ("z",)),
    "switching": Spelling(_switching, _switching_scanned, (Y,), _says, ("z", "x")),
}


_SLOW = ("factors", "counts", "switching")
_CASES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in _SLOW else [])
    for name in SPELLINGS
]


@pytest.fixture(scope="module", params=_CASES)
def fits(request: pytest.FixtureRequest) -> Any:
    """Both spellings after a few steps in float64, with what their guides say."""
    spelling = SPELLINGS[request.param]
    with jax.enable_x64(True):
        data = jax.tree.map(
            lambda x: x.astype(float) if x.dtype.kind == "f" else x, spelling.data
        )
        found = [
            _fit(model, spelling, data)
            for model in (spelling.one_site, spelling.scanned)
        ]
    return spelling, *found


def _fit(model: Callable, spelling: Spelling, data: tuple) -> dict[str, Any]:
    # That guesses of a start are judged alike is shown once.
    guesses = 2 if spelling is SPELLINGS["lds"] else 1
    guide = ns.AutoSVAE(model, spelling.recognition, num_starts=guesses)
    optimizer = ns.svae_optimizer(optax.adam(1e-2), 0.5)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    result = svi.run(jax.random.key(0), 3, *data, progress_bar=False)
    draws = guide.sample_posterior(
        jax.random.key(1), result.params, *data, sample_shape=(2,)
    )
    marginals = guide.posterior_local(result.params, *data)
    shown = {n: q.probs if n == "z" else q.mean for n, q in marginals.items()}
    return {
        "losses": result.losses,
        "params": result.params,
        "marginals": shown,
        "draws": draws,
    }


def _close(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8),
        found,
        expected,
    )


@pytest.mark.x64
def test_both_spellings_learn_the_same(fits: Any) -> None:
    _, one, scanned = fits
    _close(scanned["losses"], one["losses"])
    _close(scanned["params"], one["params"])


@pytest.mark.x64
def test_both_spellings_infer_the_same_states(fits: Any) -> None:
    spelling, one, scanned = fits
    for name in spelling.states:
        _close(scanned["marginals"][name], one["marginals"][name])


@pytest.mark.x64
def test_sites_of_a_scan_are_drawn_as_the_program_has_them(fits: Any) -> None:
    spelling, one, scanned = fits
    for name in spelling.states:
        path = one["draws"][name]
        _close(scanned["draws"][f"{name}_first"], path[:, :, 0])
        _close(scanned["draws"][name], jnp.moveaxis(path[:, :, 1:], 2, 1))


def _losses(model: Callable, guide: Any, params: dict, y: Any) -> np.ndarray:
    def draw(key: Any) -> Any:
        return ns.SVAE_ELBO().loss(key, params, model, guide, y)

    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 900)))


@pytest.mark.slow
@pytest.mark.x64
def test_hidden_vectors_in_a_scan_are_those_of_one_site() -> None:
    y = Y.astype(float)
    places = jnp.array([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]])
    start = ns.NormalInverseWishart(places, 5.0, 9.0, jnp.eye(D))
    probs, divergence, losses = [], [], []
    for model, says in ((_hidden, _says), (_hidden_scanned, _says_of_both)):
        guide = ns.AutoSVAE(model, says, init={"emissions": start})
        svi = SVI(model, guide, ns.svae_optimizer(optax.adam(0.1)), ns.SVAE_ELBO())
        state = svi.init(jax.random.key(0), y)
        params = svi.get_params(state)
        probs.append(guide.posterior_local(params, y)["z"].probs)
        run = numpyro.handlers.substitute(guide, data=params)
        run = numpyro.handlers.seed(run, 0)
        sites = numpyro.handlers.trace(run).get_trace(y).values()
        kinds = [m["infer"]["kl"] for m in sites if m["name"].startswith("z")]
        divergence.append(sum(jnp.sum(kl) for kl in kinds))
        losses.append(_losses(model, guide, params, y))
    _close(probs[1], probs[0])
    _close(divergence[1], divergence[0])
    error = np.hypot(*(np.std(loss) / np.sqrt(len(loss)) for loss in losses))
    assert error < 0.25
    assert abs(np.mean(losses[0]) - np.mean(losses[1])) < 4 * error


def _errs(model: Callable, accepted: str) -> None:
    guide = ns.AutoSVAE(model, _says)
    svi = SVI(model, guide, ns.svae_optimizer(optax.adam(1e-2)), ns.SVAE_ELBO())
    with pytest.raises(ValueError, match=accepted):
        svi.init(jax.random.key(0), Y)


def test_a_scan_that_starts_from_what_is_computed_of_sites_is_refused() -> None:
    def model(y: Any = None) -> None:
        top = numpyro.sample("top", dist.Normal(0.0, 1.0).expand([D]).to_event(1))

        def step(x: Any, y: Any) -> tuple:
            with _sequences():
                x = numpyro.sample("x", dist.MultivariateNormal(0.9 * x, jnp.eye(D)))
                numpyro.sample("y", _picture(x), obs=y)
            return x, None

        scan(step, jnp.zeros((N, D)) + 2 * top, _over_time(y))

    _errs(model, "'x': the scan carries it .* does not start from a latent site")


def _from_first(step: Callable, handler: Any = None) -> Callable:
    def model(y: Any = None) -> None:
        with _sequences():
            first = dist.MultivariateNormal(jnp.zeros(D), jnp.eye(D))
            x = numpyro.sample("x_first", first)
        with handler or nullcontext():
            scan(step, x, _over_time(y)[1:])

    return model


def test_a_scan_without_steps_is_refused() -> None:
    model = _from_first(lambda x, y: (x, None))
    accepted = r"found no steps.*write ns\.filter\(\.\.\.\)\.begin"
    _errs(lambda y=None: model(y[:, :1]), accepted)


def test_a_scan_that_carries_a_function_of_a_site_is_refused() -> None:
    def step(x: Any, y: Any) -> tuple:
        with _sequences():
            x = numpyro.sample("x", dist.MultivariateNormal(0.9 * x, jnp.eye(D)))
            numpyro.sample("y", _picture(x), obs=y)
        return 2 * x, None

    _errs(_from_first(step), "'x': the scan carries something that is computed from it")


def test_what_is_two_steps_before_is_part_of_the_state() -> None:
    """A later site of the body is not blamed for it, though its name comes first."""

    def vectors(y: Any) -> None:
        first = numpyro.sample("x0", dist.Normal(jnp.zeros(D), 1.0).to_event(1))

        def step(before: Any, y: Any) -> tuple:
            fn = dist.Normal(1.7 * before[0] - 0.9 * before[1], 0.1)
            x = numpyro.sample("x", fn.to_event(1))
            numpyro.sample("data", dist.Normal(x, 1.0).to_event(1), obs=y)
            return (x, before[0]), None

        scan(step, (first, jnp.zeros(D)), y)

    def states(y: Any) -> None:
        first = numpyro.sample("z0", dist.Categorical(jnp.ones(2) / 2))

        def step(before: Any, y: Any) -> tuple:
            z = numpyro.sample("z", dist.Categorical(jnp.eye(2)[before[1]]))
            numpyro.sample("data", dist.Normal(z * y, 1.0).to_event(1), obs=y)
            return (z, before[0]), None

        scan(step, (first, jnp.array(0)), y)

    y = jnp.zeros((3, D))
    with pytest.raises(ValueError, match=r"'x': the scan carries.*one site of both"):
        ns.AutoSVAE(vectors)(y)
    with pytest.raises(ValueError, match=r"'z': the scan carries.*one site of pairs"):
        ns.AutoSVAE(states)(y)


def test_steps_whose_noise_depends_on_the_state_are_refused() -> None:
    def step(x: Any, y: Any) -> tuple:
        with _sequences():
            moved = dist.Normal(jnp.tanh(x), jnp.exp(0.1 * x)).to_event(1)
            x = numpyro.sample("x", moved)
            numpyro.sample("y", _picture(x), obs=y)
        return x, None

    _errs(_from_first(step), "'x': in the scan its covariance depends on the state")


def test_a_mask_on_the_states_of_a_scan_is_one_of_what_is_seen_too() -> None:
    def step(x: Any, y: Any) -> tuple:
        with _sequences():
            fn = dist.MultivariateNormal(0.9 * x, jnp.eye(D))
            x = numpyro.sample("x", fn.mask(jnp.arange(N) > 0))
            numpyro.sample("y", _picture(x), obs=y)
        return x, None

    _errs(_from_first(step), "'y': depends on chain 'x', whose states are masked in a")


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        (numpyro.handlers.mask(mask=jnp.arange(N) > 0), "'x': found a mask"),
        (numpyro.handlers.scale(scale=2.0), r"'.*', 'x': found scales 1\.0 and 2\.0"),
    ],
)
def test_handlers_around_a_scan_alone_are_refused(handler: Any, found: str) -> None:
    def step(x: Any, y: Any) -> tuple:
        with _sequences():
            x = numpyro.sample("x", dist.MultivariateNormal(0.9 * x, jnp.eye(D)))
            numpyro.sample("y", _picture(x), obs=y)
        return x, None

    _errs(_from_first(step, handler), found)
