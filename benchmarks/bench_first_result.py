# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What comes before a first result: imports, set-up, compilation; and second calls.

Each program runs in a process of its own, and then in another one with the compiled
programs of the first on disk (``cached``). In the first, all is done by another guide
of the same program too, without what is on disk (``another guide``). Beside ours: a
plain VAE in NumPyro, with the networks of ``lds, network``, and dynamax's EM for the
dynamics of ``lds``.
Processor seconds, which other jobs disturb least. Writes ``results/first_result.json``
and its tables.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any
import warnings

SHAPE, DIM, STATES = (64, 30, 10), 4, 3
STAGES = ("import_s", "init_s", "first_step_s", "second_step_ms")
CALLS = ("forecast", "log_score", "filter", "smooth", "report", "to_arviz")
COUNT = "/jax/core/compile/backend_compile_duration"


class Stages:
    """Times the stages of one process, and counts the programs that they compile.

    :param start: processor time at which the first began.
    """

    def __init__(self, start: float) -> None:
        self.last = start
        self.found: dict[str, float] = {}
        self.compiled = 0

    def begin(self) -> None:
        """A stage begins here."""
        self.last, self.compiled = time.process_time(), 0

    def note(self, event: str, *_: Any, **__: Any) -> None:
        """Count what JAX reports."""
        self.compiled += event == COUNT

    def end(self, name: str, unit: float = 1.0) -> None:
        """A stage ends here, and the next one begins."""
        now = time.process_time()
        self.found[name] = unit * (now - self.last)
        self.found[f"{name}_compilations"] = self.compiled
        self.begin()


def data() -> Any:
    """Sequences of noisy rotations, ``(64, 30, 10)``."""
    import jax
    from jax import random
    import jax.numpy as jnp

    keys = random.split(random.key(0), 3)
    angle = 0.3 * jnp.arange(SHAPE[1]) + 6 * random.uniform(keys[0], (SHAPE[0], 1))
    wave = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)
    y = wave @ random.normal(keys[1], (2, SHAPE[2]))
    return jax.block_until_ready(y + 0.1 * random.normal(keys[2], SHAPE))


# programs: a model, a recognition function, and whether they go on in time


def mixture(y):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    import numpyro_svae as ns

    dim, points = y.shape[-1], y.reshape(-1, y.shape[-1])
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(STATES)))
    prior = ns.NormalInverseWishart(jnp.zeros(dim), 0.1, dim + 2.0, jnp.eye(dim))
    with numpyro.plate("components", STATES):
        mu, cov = ns.sample("parts", prior)
    with numpyro.plate("data", len(points)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.MultivariateNormal(mu[z], cov[z]), obs=points)


def hmm(y):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    import numpyro_svae as ns

    sequences, steps, dim = y.shape
    prior = ns.NormalInverseWishart(jnp.zeros(dim), 0.1, dim + 2.0, jnp.eye(dim))
    with numpyro.plate("states", STATES):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(STATES)))
        mu, cov = ns.sample("parts", prior)
    start = jnp.ones(STATES) / STATES
    with numpyro.plate("sequences", sequences):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(start, rows, steps))
        seen = dist.MultivariateNormal(mu[z], cov[z]).to_event(1)
        numpyro.sample("y", seen, obs=y)


def dynamics():
    """Learnt initial states and dynamics."""
    import jax.numpy as jnp

    import numpyro_svae as ns

    init = ns.NormalInverseWishart(jnp.zeros(DIM), 1.0, DIM + 2.0, jnp.eye(DIM))
    prior = ns.MatrixNormalInverseWishart(
        0.9 * jnp.eye(DIM), jnp.eye(DIM), DIM + 2.0, 0.1 * jnp.eye(DIM)
    )
    return *ns.sample("init", init), *ns.sample("dynamics", prior)


def sensing(sensors: int):
    """Learnt loadings and their noise."""
    import jax.numpy as jnp

    import numpyro_svae as ns

    prior = ns.MatrixNormalInverseWishart(
        jnp.zeros((sensors, DIM)),
        0.1 * jnp.eye(DIM),
        sensors + 2.0,
        0.1 * jnp.eye(sensors),
    )
    return ns.sample("sensing", prior)


def lds(y):
    import numpyro
    import numpyro.distributions as dist

    import numpyro_svae as ns

    sequences, steps, sensors = y.shape
    args = dynamics()
    C, R = sensing(sensors)
    with numpyro.plate("sequences", sequences):
        x = numpyro.sample("x", ns.LinearGaussianChain(*args, num_steps=steps))
        numpyro.sample("y", dist.MultivariateNormal(x @ C.T, R).to_event(1), obs=y)


def networks(width: int, pixels: int):
    """A decoder and an encoder, of NumPyro's parameters."""
    from flax import nnx
    import jax.numpy as jnp

    def network(inputs, outputs, seed):
        rngs = nnx.Rngs(seed)
        first, last = (
            nnx.Linear(inputs, 64, rngs=rngs),
            nnx.Linear(64, outputs, rngs=rngs),
        )
        return nnx.Sequential(first, jnp.tanh, last)

    return network(width, pixels, 2), network(pixels, 2 * width, 3)


def lds_network():
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro.contrib.module import nnx_module
    import numpyro.distributions as dist

    import numpyro_svae as ns

    decoder, encoder = networks(DIM, SHAPE[2])

    def model(y):
        args, decode = dynamics(), nnx_module("decoder", decoder)
        with numpyro.plate("sequences", len(y)):
            chain = ns.LinearGaussianChain(*args, num_steps=y.shape[1])
            x = numpyro.sample("x", chain)
            numpyro.sample("y", dist.Normal(decode(x), 0.1).to_event(2), obs=y)

    def recognition(y):
        loc, scale = jnp.split(nnx_module("encoder", encoder)(y), 2, -1)
        return {"x": ns.GaussianPotential.from_loc_scale(loc, jax.nn.softplus(scale))}

    return model, recognition


def mixture_network():
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro.contrib.module import nnx_module
    import numpyro.distributions as dist

    import numpyro_svae as ns

    decoder, encoder = networks(DIM, SHAPE[2])
    prior = ns.NormalInverseWishart(jnp.zeros(DIM), 0.1, DIM + 2.0, jnp.eye(DIM))

    def model(y):
        points, decode = y.reshape(-1, y.shape[-1]), nnx_module("decoder", decoder)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(STATES)))
        with numpyro.plate("components", STATES):
            mu, cov = ns.sample("parts", prior)
        with numpyro.plate("data", len(points)):
            z = numpyro.sample("z", dist.Categorical(weights))
            x = numpyro.sample("x", dist.MultivariateNormal(mu[z], cov[z]))
            numpyro.sample("y", dist.Normal(decode(x), 0.1).to_event(1), obs=points)

    def recognition(y):
        points = y.reshape(-1, y.shape[-1])
        loc, scale = jnp.split(nnx_module("encoder", encoder)(points), 2, -1)
        return {"x": ns.GaussianPotential.from_loc_scale(loc, jax.nn.softplus(scale))}

    return model, recognition


def switching(y):
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    import numpyro_svae as ns

    sequences, steps, sensors = y.shape
    prior = ns.MatrixNormalInverseWishart(
        0.9 * jnp.eye(DIM), jnp.eye(DIM), DIM + 2.0, 0.1 * jnp.eye(DIM)
    )
    with numpyro.plate("states", STATES):
        rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones(STATES)))
        F, Q = ns.sample("dynamics", prior)
    C, R = sensing(sensors)
    start, origin, eye = jnp.ones(STATES) / STATES, jnp.zeros(DIM), jnp.eye(DIM)
    with numpyro.plate("sequences", sequences):
        z = numpyro.sample("z", ns.DiscreteMarkovChain(start, rows, steps))
        later = z[..., 1:]
        chain = ns.LinearGaussianChain(origin, eye, F[later], Q[later])
        x = numpyro.sample("x", chain)
        numpyro.sample("y", dist.MultivariateNormal(x @ C.T, R).to_event(1), obs=y)


PROGRAMS: dict[str, Callable[[], tuple]] = {
    "mixture": lambda: (mixture, None),
    "hmm": lambda: (hmm, None),
    "lds": lambda: (lds, None),
    "switching": lambda: (switching, None),
    "mixture, network": mixture_network,
    "lds, network": lds_network,
}
IN_TIME = ("hmm", "lds", "switching", "lds, network")
WAYS = "cold", "cached", "another guide"
PLAIN, PEER = "plain VAE (NumPyro)", "lds (dynamax, EM)"


def plain_vae():
    """Model and guide of a plain VAE on single frames, with the same networks."""
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro.contrib.module import nnx_module
    import numpyro.distributions as dist

    decoder, encoder = networks(DIM, SHAPE[2])

    def model(y):
        decode = nnx_module("decoder", decoder)
        with numpyro.plate("sequences", len(y)):
            standard = dist.Normal(jnp.zeros((y.shape[1], DIM)), 1.0).to_event(2)
            x = numpyro.sample("x", standard)
            numpyro.sample("y", dist.Normal(decode(x), 0.1).to_event(2), obs=y)

    def guide(y):
        loc, scale = jnp.split(nnx_module("encoder", encoder)(y), 2, -1)
        with numpyro.plate("sequences", len(y)):
            posterior = dist.Normal(loc, jax.nn.softplus(scale)).to_event(2)
            numpyro.sample("x", posterior)

    return model, guide


# one process


def child(name: str, again: bool) -> None:
    """Run the stages of one program, and print what they took.

    :param name: of the program.
    :param again: whether they are run by another guide of it, too.
    """
    warnings.simplefilter("ignore")
    start = time.process_time()
    import jax
    from jax.experimental.compilation_cache import compilation_cache
    from numpyro.infer import SVI, Trace_ELBO
    import optax

    if name not in (PLAIN, PEER):
        import numpyro_svae as ns
    stages = Stages(start)
    jax.monitoring.register_event_duration_secs_listener(stages.note)
    stages.end("import_s")
    y = data()
    stages.begin()
    if name == PEER:
        return print(json.dumps([em(stages, y)]))
    if name == PLAIN:
        model, guide = plain_vae()
        fit(stages, SVI(model, guide, optax.adam(1e-3), Trace_ELBO()), y)
        return print(json.dumps([stages.found]))
    model, recognition = PROGRAMS[name]()
    found = list[dict[str, float]]()
    for _ in range(2 if again else 1):
        if found:  # nor does it read what the first has left on disk
            stages.found = {}
            jax.config.update("jax_enable_compilation_cache", False)
            compilation_cache.reset_cache()  # it has been looked at, once
        guide = ns.AutoSVAE(model, recognition)
        optimizer = ns.svae_optimizer(optax.adam(1e-3), 0.1)
        stages.begin()
        params = fit(stages, SVI(model, guide, optimizer, ns.SVAE_ELBO()), y)
        calls(stages, name, model, guide, params, y)
        found.append(stages.found)
    print(json.dumps(found))


def fit(stages: Stages, svi, y) -> dict:
    """Set-up and two steps; the parameters."""
    import jax

    state = jax.block_until_ready(svi.init(jax.random.key(0), y))
    stages.end("init_s")
    step = jax.jit(svi.update)
    state, _ = jax.block_until_ready(step(state, y))
    stages.end("first_step_s")
    jax.block_until_ready(step(state, y))
    stages.end("second_step_ms", 1e3)
    return svi.get_params(state)


def calls(stages: Stages, name: str, model, guide, params, y) -> None:
    """What looks at a fit, twice each, the second time at other data."""
    import jax

    import numpyro_svae as ns

    key = jax.random.key(1)
    todo: dict[str, Callable] = {
        "smooth": ns.smooth,
        "report": partial(ns.report, num_samples=200, show=False),
        "to_arviz": partial(ns.to_arviz, num_samples=200),
    }
    if name in IN_TIME:
        todo["forecast"] = lambda m, g, p, y: jax.block_until_ready(
            ns.forecast(m, g, p, key, y, horizon=5, num_samples=200)
        )
        todo["log_score"] = lambda m, g, p, y: jax.block_until_ready(
            ns.log_score(m, g, p, key, y, future={"y": y[:, :5]}, num_samples=200)
        )
        todo["filter"] = lambda m, g, p, y: jax.block_until_ready(
            ns.filter(m, g, p, y).update(y=y[:, 0]).beliefs
        )
    for what in (call for call in CALLS if call in todo):
        for label, seen in ((what, y), (f"second_{what}", y[::-1])):
            stages.begin()
            todo[what](model, guide, params, seen)
            stages.end(label)


def em(stages: Stages, y) -> dict[str, float]:
    """The same dynamics and sensors by expectation maximisation."""
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM
    import jax

    model = LinearGaussianSSM(DIM, SHAPE[2])
    params, props = model.initialize(jax.random.key(0))
    stages.end("init_s")
    fit = partial(model.fit_em, params, props, y, num_iters=1, verbose=False)
    jax.block_until_ready(fit())
    stages.end("first_step_s")
    jax.block_until_ready(fit())
    stages.end("second_step_ms", 1e3)
    return stages.found


# all of them


def run(name: str, way: str, cache: str) -> list[dict[str, Any]]:
    """What a process of a program took, and another guide in it, if it is cold."""
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, __file__, "--child", name, way]
    output = subprocess.check_output(command, env=environment, text=True)
    found = json.loads(output.splitlines()[-1])
    ways = way, "another guide"
    return [{"program": name, "way": w, **own} for w, own in zip(ways, found)]


def write(rows: list[dict]) -> None:
    """Write the results and their tables."""
    import timing

    kept = ("init_s_compilations", "first_step_s_compilations")
    seconds = dict.fromkeys(("program", "way"), "{}")
    first = seconds | dict.fromkeys(STAGES, "{:.2f}") | dict.fromkeys(kept, "{}")
    second = seconds | dict.fromkeys(
        (f"{prefix}{call}" for call in CALLS for prefix in ("", "second_")), "{:.2f}"
    )
    names = dict.fromkeys([*first, *second])
    rows = [dict.fromkeys(names) | row for row in rows]
    timing.write("first_result", rows, first)
    ours = [row for row in rows if row["smooth"] is not None]
    text = timing.table({"hardware": timing.hardware(), "rows": ours}, second)
    (timing.RESULTS / "second_result.md").write_text(text)
    print(text)


def main() -> None:
    chosen, rows = sys.argv[1:] or [PLAIN, PEER, *PROGRAMS], list[dict]()
    for name in chosen:
        with tempfile.TemporaryDirectory() as cache:
            for way in WAYS[:2]:
                rows += run(name, way, cache)
                print(rows[-1], flush=True)
    rows.sort(key=lambda row: (chosen.index(row["program"]), WAYS.index(row["way"])))
    write(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], again=sys.argv[3] == WAYS[0])
    else:
        main()
