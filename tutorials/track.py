# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The NASCAR task: a car that drives laps, seen through ten noisy sensors.

It is the task of Linderman et al. (*Bayesian learning and inference in recurrent
switching linear dynamical systems*, AISTATS 2017): two straights and two bends, each
with linear dynamics of its own.
"""

from typing import NamedTuple

from jax import Array
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score

import numpyro_svae as ns

NUM_STATES = 4
COLORS = np.array(["#4269d0", "#ff725c", "#3ca951", "#efb118"])
"""Of the parts of the track, in figures."""
STYLE = {"figure.dpi": 110, "axes.titlesize": 11, "legend.frameon": False}
"""Of the figures, as parameters of matplotlib."""


class Laps(NamedTuple):
    """Sequences of a car on its track.

    :param sensors: observations, ``(N, T, P)``.
    :param states: part of the track, ``(N, T)``.
    :param position: of the car, ``(N, T, 2)``.
    :param loading: of the sensors, ``(P, 2)``.
    :param centre: of the sensors, ``(P,)``.
    """

    sensors: np.ndarray
    states: np.ndarray
    position: np.ndarray
    loading: np.ndarray
    centre: np.ndarray


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


_TURNS = np.stack(
    [_rotation(-np.pi / 24), _rotation(-np.pi / 48), np.eye(2), np.eye(2)]
)
_CENTRES = np.array([[2.0, 0.0], [-2.0, 0.0]])
_BENDS = np.einsum("kij,kj->ki", np.eye(2) - _TURNS[:2], _CENTRES)
_DRIFT = np.concatenate([_BENDS, [[0.1, 0.0], [-0.25, 0.0]]])
WEIGHTS = np.array(
    [[100.0, 0.0, -200.0], [-100.0, 0.0, -200.0], [0.0, 10.0, 0.0], [0.0, -10.0, 0.0]]
)
"""Of the logits of the parts of the track, by position and one."""
DYNAMICS = np.concatenate([_TURNS, _DRIFT[..., None]], -1)
"""Of the position and one, by part of the track."""


def drive(
    seed: int,
    sequences: int = 20,
    steps: int = 500,
    sensors: int = 10,
    noise: float = 0.1,
) -> Laps:
    """Simulate cars that start somewhere on the track.

    The part of the track that moves a car is drawn from a softmax of its position, the
    sensors have orthonormal loadings, and their noise is as large as a step.

    :param seed: random seed.
    :param sequences: N.
    :param steps: T.
    :param sensors: P.
    :param noise: standard deviation of that of the sensors.
    """
    rng = np.random.default_rng(seed)
    turns, drift = _TURNS, _DRIFT
    weight, offset = WEIGHTS[:, :2], WEIGHTS[:, 2]
    loading = np.linalg.qr(rng.standard_normal((sensors, 2)))[0]
    centre = rng.standard_normal(sensors)
    position = np.zeros((sequences, steps, 2))
    states = np.zeros((sequences, steps), int)
    side = rng.choice([-1.0, 1.0], sequences) * rng.uniform(0.7, 1.3, sequences)
    position[:, 0] = np.stack([rng.uniform(-3, 3, sequences), side], -1)
    for t in range(1, steps):
        before = position[:, t - 1]
        logits = before @ weight.T + offset + rng.gumbel(size=(sequences, NUM_STATES))
        k = states[:, t] = np.argmax(logits, -1)
        mean = np.einsum("nij,nj->ni", turns[k], before) + drift[k]
        position[:, t] = mean + 0.01 * rng.standard_normal(mean.shape)
    states[:, 0] = states[:, 1]
    seen = position @ loading.T + centre
    seen = seen + noise * rng.standard_normal(seen.shape)
    return Laps(seen.astype(np.float32), states, position, loading, centre)


def scaled(laps: Laps) -> Array:
    """What the sensors say, about their means and in units of how far they spread.

    :return: ``(N, T, P)``.
    """
    seen = laps.sensors - laps.sensors.mean((0, 1))
    return jnp.asarray(seen / seen.std())


def matched(states: np.ndarray, found: np.ndarray) -> np.ndarray:
    """States that were found, renamed to agree best with the true ones."""
    counts = np.zeros((NUM_STATES, NUM_STATES))
    np.add.at(counts, (found.ravel(), states.ravel()), 1)
    _, name = linear_sum_assignment(-counts)
    return name[found]


def accuracy(states: np.ndarray, found: np.ndarray) -> float:
    """Share of steps in the right state, after the best renaming."""
    return float(np.mean(matched(states, found) == states))


def mutual_information(states: np.ndarray, found: np.ndarray) -> float:
    """Normalised mutual information of two segmentations."""
    return float(normalized_mutual_info_score(states.ravel(), found.ravel()))


def switching_lds(y):
    """A switching linear dynamical system seen through noisy sensors; all is learnt.

    :param y: observations, ``(N, T, P)``.
    """
    sequences, steps, sensors = y.shape
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(NUM_STATES)))
    sticky = jnp.ones(NUM_STATES) + 50.0 * jnp.eye(NUM_STATES)
    dynamics = ns.MatrixNormalInverseWishart(
        jnp.zeros((2, 3)), 0.1 * jnp.eye(3), 5.0, 0.01 * jnp.eye(2)
    )
    with numpyro.plate("states", NUM_STATES):
        rows = numpyro.sample("rows", dist.Dirichlet(sticky))
        weight, noise = ns.sample("dynamics", dynamics)
    start = ns.NormalInverseWishart(jnp.zeros(2), 0.1, 5.0, jnp.eye(2))
    sensing = ns.MatrixNormalInverseWishart(
        jnp.zeros((sensors, 3)), 0.1 * jnp.eye(3), sensors + 2.0, 0.1 * jnp.eye(sensors)
    )
    loc, cov = ns.sample("start", start)
    loading, spread = ns.sample("sensing", sensing)
    with numpyro.plate("sequences", sequences):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(initial, rows, steps))
        chain = ns.LinearGaussianChain(
            loc,
            cov,
            weight[z[..., 1:]],
            noise[z[..., 1:]],
            inputs=jnp.ones((sequences, steps - 1, 1)),  # a drift
        )
        x = numpyro.sample("x", chain)
        seen = jnp.concatenate([x, jnp.ones((sequences, steps, 1))], -1)
        fn = dist.MultivariateNormal(seen @ loading.T, spread).to_event(1)
        numpyro.sample("y", fn, obs=y)


def recurrent_lds(y):
    """The switching system whose next part of the track hangs on where the car is.

    Weights of the logits are point estimates, all else has a conjugate prior.

    :param y: observations, ``(N, T, P)``.
    """
    sequences, _, sensors = y.shape
    weights = numpyro.param("weights", jnp.zeros((NUM_STATES, 3)))
    dynamics = ns.MatrixNormalInverseWishart(
        jnp.zeros((2, 3)), 0.1 * jnp.eye(3), 5.0, 0.01 * jnp.eye(2)
    )
    with numpyro.plate("states", NUM_STATES):
        weight, noise = ns.sample("dynamics", dynamics)
    start = ns.NormalInverseWishart(jnp.zeros(2), 0.1, 5.0, jnp.eye(2))
    sensing = ns.MatrixNormalInverseWishart(
        jnp.zeros((sensors, 3)), 0.1 * jnp.eye(3), sensors + 2.0, 0.1 * jnp.eye(sensors)
    )
    loc, cov = ns.sample("start", start)
    loading, spread = ns.sample("sensing", sensing)

    def see(name, x, y):
        seen = _with_one(x) @ loading.T
        numpyro.sample(name, dist.MultivariateNormal(seen, spread), obs=y)

    def step(carry, y):
        z, x = carry
        with numpyro.plate("sequences", sequences):
            logits = _with_one(x) @ weights.T
            z = numpyro.sample("z", dist.Categorical(logits=logits))
            mean = jnp.squeeze(weight[z] @ _with_one(x)[..., None], -1)
            x = numpyro.sample("x", dist.MultivariateNormal(mean, noise[z]))
            see("y", x, y)
        return (z, x), None

    with numpyro.plate("sequences", sequences):
        z = numpyro.sample("z0", dist.Categorical(jnp.ones(NUM_STATES) / NUM_STATES))
        x = numpyro.sample("x0", dist.MultivariateNormal(loc, cov))
        see("y0", x, y[:, 0])
    scan(step, (z, x), y[:, 1:].swapaxes(0, 1))


def _with_one(x):
    return jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)


def off_track(position: np.ndarray) -> float:
    """Share of positions that are far from the track.

    The middle of the track is at distance one of the line between the centres of its
    bends; far is more than half of that.

    :param position: ``(..., 2)``.
    """
    x, y = position[..., 0], position[..., 1]
    away = np.maximum(np.abs(x) - 2.0, 0.0)
    return float(np.mean(np.abs(np.hypot(away, y) - 1.0) > 0.5))


def on_the_track(laps: Laps, smoothed: np.ndarray, paths: np.ndarray) -> np.ndarray:
    """Latent paths in the coordinates of the track, of which they know nothing.

    :param smoothed: paths of the same cars, ``(N, T, 2)``, that the affine map which is
        best for them is found with.
    :param paths: what is mapped, ``(..., 2)``.
    """
    design, wanted = _with_one(smoothed).reshape(-1, 3), laps.position.reshape(-1, 2)
    affine, *_ = np.linalg.lstsq(np.asarray(design), wanted, rcond=None)
    return np.asarray(_with_one(paths)) @ affine
