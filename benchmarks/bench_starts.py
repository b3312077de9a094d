# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Where default runs end, from several keys.

NASCAR as published, BayesPy's mixture of two tight groups and its linear state-space
demo, and the mixtures of scikit-learn, whose best of ten is judged by the same bound.
``old_faithful.csv`` has the eruptions of the geyser and the minutes between them
(Azzalini and Bowman, Applied Statistics 39, 1990), as in R's ``datasets``.
Writes ``benchmarks/results/starts.json`` and ``starts.md``.
"""

from __future__ import annotations

from functools import partial
import json
from pathlib import Path
import sys
import warnings

import jax
from jax import lax, random
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.mixture import BayesianGaussianMixture

import numpyro_svae as ns

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tutorials"))
import track  # noqa: E402

RUNS = 10


def bounds(model, y, natural: float, steps: int, starts: int | None = None) -> list:
    """Bounds that runs from several keys end at, one after the other."""
    guide = ns.AutoSVAE(model, **({} if starts is None else {"num_starts": starts}))
    svi = SVI(model, guide, ns.svae_optimizer(natural=natural), ns.SVAE_ELBO())
    svi.init(random.key(0), y)

    def run(key):
        step = svi.init(key, y)
        return lax.scan(lambda s, _: svi.update(s, y), step, length=steps)[1][-1]

    keys = random.split(random.key(2026), RUNS)
    losses = jax.jit(lambda keys: lax.map(run, keys))(keys)
    return sorted((-np.asarray(losses, float)).tolist(), reverse=True)


# mixtures


def gaussians(y, count, alpha, mean, spread):
    """A mixture with the priors of scikit-learn's ``BayesianGaussianMixture``."""
    weights = numpyro.sample("weights", dist.Dirichlet(alpha * jnp.ones(count)))
    prior = ns.NormalInverseWishart(mean, 1.0, float(y.shape[-1]), spread)
    with numpyro.plate("components", count):
        mu, cov = ns.sample("parts", prior)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.MultivariateNormal(mu[z], cov[z]), obs=y)


def old_faithful() -> np.ndarray:
    return np.loadtxt(HERE / "old_faithful.csv", delimiter=",", skiprows=1)


def peers(y: np.ndarray, count: int) -> dict:
    """Ours beside scikit-learn, by our bound at both solutions."""
    y = (y - y.mean(0)) / y.std(0)
    spread = jnp.asarray(np.cov(y.T))
    prior = {"alpha": 1 / count, "mean": jnp.zeros(y.shape[1]), "spread": spread}
    model = partial(gaussians, count=count, **prior)
    data, theirs = jnp.asarray(y), []
    for seed in range(RUNS):
        fit = BayesianGaussianMixture(
            n_components=count,
            weight_concentration_prior_type="dirichlet_distribution",
            reg_covar=0.0,
            max_iter=2000,
            tol=1e-6,
            random_state=seed,
        ).fit(y)
        df = fit.degrees_of_freedom_
        scale = fit.covariances_ * df[:, None, None]
        parts = fit.means_, fit.mean_precision_, df, scale
        init = {
            "weights": dist.Dirichlet(fit.weight_concentration_),
            "parts": ns.NormalInverseWishart(*map(jnp.asarray, parts)),
        }
        guide = ns.AutoSVAE(model, init=init)
        svi = SVI(model, guide, ns.svae_optimizer(), ns.SVAE_ELBO())
        theirs.append(-float(svi.evaluate(svi.init(random.key(0), data), data)))
    ours = bounds(model, data, 1.0, 300)
    best = max(theirs)
    return {
        "ours": ours,
        "one start": bounds(model, data, 1.0, 300, starts=1),
        "theirs": sorted(theirs, reverse=True),
        "at least their best": sum(b >= best - 0.01 for b in ours),
    }


def tight_groups(y):
    """BayesPy's demonstration of a mixture."""
    weights = numpyro.sample("weights", dist.Dirichlet(1e-3 * jnp.ones(5)))
    with numpyro.plate("components", 5):
        mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 1e3**0.5).to_event(1))
        prior = dist.InverseWishart(2.0, scale_matrix=0.01 * jnp.eye(2))
        cov = numpyro.sample("cov", prior)
    with numpyro.plate("data", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.MultivariateNormal(mu[z], cov[z]), obs=y)


def two_groups(seed: int, spread: float) -> dict:
    rng = np.random.default_rng(seed)
    y = spread * rng.standard_normal((50, 2)) + 10.0 * (np.arange(50) >= 25)[:, None]
    return {
        "ours": bounds(tight_groups, jnp.asarray(y), 0.5, 200),
        "one start": bounds(tight_groups, jnp.asarray(y), 0.5, 200, starts=1),
    }


# dynamics


def relevance(y, dim=3):
    """BayesPy's linear state-space model, with relevance of dynamics and loadings."""
    steps, sensors = y.shape
    columns = dist.Gamma(1e-5, 1e-5).expand([dim]).to_event(1)
    alpha = numpyro.sample("alpha", columns)
    prior = dist.Normal(jnp.zeros((dim, dim)), alpha**-0.5).to_event(2)
    a = numpyro.sample("a", prior)
    gamma = numpyro.sample("gamma", columns)
    prior = dist.Normal(jnp.zeros((sensors, dim)), gamma**-0.5).to_event(2)
    c = numpyro.sample("c", prior)
    tau = numpyro.sample("tau", dist.Gamma(1e-5, 1e-5))
    loc, eye = jnp.zeros(dim), jnp.eye(dim)
    chain = ns.LinearGaussianChain(loc, 1e3 * eye, a, eye, num_steps=steps)
    x = numpyro.sample("x", chain)
    numpyro.sample("y", dist.Normal(x @ c.T, tau**-0.5).to_event(2), obs=y)


def state_space(seed: int, steps: int = 40, sensors: int = 5) -> dict:
    from bayespy.demos import lssm

    np.random.seed(seed)  # noqa: NPY002 (what BayesPy draws from)
    y, _ = lssm.simulate_data(sensors, steps)
    theirs = []
    for start in range(3):
        np.random.seed(100 + start)  # noqa: NPY002
        found = lssm.infer(y, 3, maxiter=300, monitor=False, plot_C=False)
        theirs.append(float(found.L[found.iter - 1]))
    data = jnp.asarray(y.T)
    return {
        "ours": bounds(relevance, data, 0.5, 1500),
        "one start": bounds(relevance, data, 0.5, 1500, starts=1),
        "theirs": sorted(theirs, reverse=True),
    }


def nascar(data: int, runs: int = 5) -> dict:
    laps, found = track.drive(data), []
    y = laps.sensors - laps.sensors.mean((0, 1))
    y = jnp.asarray(y / y.std(), jnp.float32)
    guide = ns.AutoSVAE(track.switching_lds)
    optimizer = ns.svae_optimizer(natural=0.5)
    svi = SVI(track.switching_lds, guide, optimizer, ns.SVAE_ELBO())
    for key in range(runs):
        result = svi.run(random.key(100 + key), 40, y, progress_bar=False)
        states = guide.posterior_local(result.params, y)["z"].probs
        own = track.accuracy(laps.states[:, 1:], np.argmax(states, -1)[:, 1:])
        found.append({"accuracy": own, "bound": -float(result.losses[-1])})
    return {"accuracies": [f["accuracy"] for f in found], "runs": found}


CASES = {
    "two tight groups, seed 1": partial(two_groups, 1, 0.45),
    "two tight groups, seed 2": partial(two_groups, 2, 0.3),
    "Old Faithful, K = 5": lambda: peers(old_faithful(), 5),
    "Old Faithful, K = 8": lambda: peers(old_faithful(), 8),
    "iris, K = 5": lambda: peers(load_iris().data, 5),
    "iris, K = 8": lambda: peers(load_iris().data, 8),
    "wine, K = 4": lambda: peers(load_wine().data, 4),
    "wine, K = 8": lambda: peers(load_wine().data, 8),
    "breast cancer, K = 5": lambda: peers(load_breast_cancer().data[:, :10], 5),
    "state space, seed 1": partial(state_space, 1),
    "state space, seed 12": partial(state_space, 12),
    "state space, seed 14": partial(state_space, 14),
    "state space, seed 15": partial(state_space, 15),
    "NASCAR, seed 7": partial(nascar, 7),
    "NASCAR, seed 21": partial(nascar, 21),
    "NASCAR, seed 22": partial(nascar, 22),
}


def main() -> None:
    warnings.simplefilter("ignore")
    chosen, out = sys.argv[1:] or list(CASES), HERE / "results" / "starts.json"
    found = json.loads(out.read_text()) if out.exists() else {}
    for name in chosen:
        jax.config.update("jax_enable_x64", not name.startswith("NASCAR"))
        jax.clear_caches()  # a process may have 65,530 mappings, some for each kernel
        found[name] = CASES[name]()
        print(name, found[name], flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
        out.with_suffix(".md").write_text(_table(found))


def _table(found: dict) -> str:
    """One row for each case: the best, the median and the worst of its runs."""
    lines = [
        "| case | default runs: best, median, worst | one start | others | note |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, case in found.items():
        cells = [_range(case.get(key)) for key in ("ours", "one start", "theirs")]
        note = ""
        if "accuracies" in case:
            cells[0] = "accuracy " + _range(case["accuracies"], 3)
        if "at least their best" in case:
            note = f"{case['at least their best']} of {RUNS} at least their best"
        lines.append(f"| {' | '.join([name, *cells, note])} |")
    return "\n".join(lines) + "\n"


def _range(values: list | None, digits: int = 1) -> str:
    if not values:
        return ""
    three = max(values), float(np.median(values)), min(values)
    return ", ".join(f"{value:.{digits}f}" for value in three)


if __name__ == "__main__":
    main()
