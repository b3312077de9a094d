# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The guide: structured variational message passing for a NumPyro program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import block, seed, substitute
from numpyro.infer.autoguide import AutoGuide

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference import emission
from numpyro_svae.inference.engine import global_posteriors, local_posterior
from numpyro_svae.inference.fixed_point import FixedPoint
from numpyro_svae.inference.posterior import Convergence, LocalPosterior
from numpyro_svae.inference.start.parameters import natural_parameters
from numpyro_svae.inference.start.search import Search, check_num_starts
from numpyro_svae.optim import check_enclosing_optimizer
from numpyro_svae.program.binding import Bound, bind
from numpyro_svae.program.checks import check_potentials, stand_ins
from numpyro_svae.program.factors import Structure
from numpyro_svae.program.groups import mixtures
from numpyro_svae.program.plates import Plates, shared_values
from numpyro_svae.program.probing import plain_run
from numpyro_svae.program.setup import read_program, recognise
from numpyro_svae.program.sites import Program, sample_sites

__all__ = ["AutoSVAE"]


class AutoSVAE(AutoGuide):
    """Guide of a structured variational autoencoder.

    Global sites with a conjugate prior get the posterior of the same family, local
    sites the exact posterior under the expected priors, the messages of conjugate
    observations and the potentials of the recognition function (Johnson et al., NIPS
    2016). Use it with :class:`~numpyro_svae.SVAE_ELBO` and
    :func:`~numpyro_svae.svae_optimizer`.

    :param model: a NumPyro program.
    :param recognition: a function of the model's arguments that returns a dictionary
        from local latent sites to their :class:`~numpyro_svae.GaussianPotential` or
        :class:`~numpyro_svae.CategoricalPotential`; its parameters are those of
        ``numpyro.param`` and ``numpyro.contrib.module``.
        Without one, all observations must be conjugate.
    :param prefix: prefix of the names of the parameters of the guide.
    :param mean_field: whether coupled local sites (a discrete site or chain and the
        Gaussian sites that it picks components for) are independent under the guide.
        By default they are inferred jointly where that is tractable, which is exact
        given what is said of them; where all of that is conjugate, its ELBO is never
        the lower one. Chains are always independent of what they are coupled with.
    :param fixed_point: how the best product of independent coupled sites is found and
        differentiated; :class:`~numpyro_svae.FixedPoint` says what the default is.
    :param init: where global posteriors start, by site: a distribution of the
        posterior's family or its natural parameters. The others start where the data
        suggest.
    :param num_starts: how many guesses of a start are made where the bound can judge
        them, which is where nothing is sampled and a discrete site or a chain is
        latent. Each is followed for a few sweeps, and the best one is kept. One makes
        a single guess, which is not judged.

    **Example**

    .. code-block:: python

        guide = AutoSVAE(model, recognition)
        svi = SVI(model, guide, svae_optimizer(optax.adam(1e-3), 0.1), SVAE_ELBO())
        result = svi.run(random.key(0), 1000, data)
        guide.get_posterior(result.params)["components"].mean
    """

    def __init__(
        self,
        model: Callable,
        recognition: Callable | None = None,
        *,
        prefix: str = "auto",
        mean_field: bool = False,
        fixed_point: FixedPoint | None = None,
        init: dict[str, dist.Distribution | NaturalParameters] | None = None,
        num_starts: int = 10,
    ) -> None:
        super().__init__(model, prefix=prefix)
        self.recognition = recognition
        self.mean_field = mean_field
        self.fixed_point = fixed_point or FixedPoint()
        self.init = dict(init or {})
        self.num_starts = check_num_starts(num_starts)
        self.structure: Structure | None = None

    # set-up

    @property
    def _wiring(self) -> Structure:
        if self.structure is None:
            raise RuntimeError(
                "AutoSVAE has not read its model yet: call SVI.init, SVI.run, or the "
                "guide itself with the arguments of the model first."
            )
        return self.structure

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        with block(), jax.ensure_compile_time_eval():
            args, kwargs = stand_ins((args, kwargs))
            self.structure, messages = read_program(
                self.model, self.recognition, args, kwargs
            )
        self.prototype_trace = {
            name: {k: v for k, v in message.items() if k in ("type", "name")}
            for name, message in messages.items()
            if message["type"] in ("sample", "plate")
        }

    # inference

    def _infer(
        self, args: tuple, kwargs: dict, examine: bool = False
    ) -> tuple[dict[str, NaturalParameters], Bound, LocalPosterior, dict]:
        """Posteriors of the global and of the local sites, for these arguments."""
        if self.structure is None:
            self._setup_prototype(*args, **kwargs)
        structure = self._wiring
        key = numpyro.prng_key()
        model_key, guide_key = random.split(random.PRNGKey(0) if key is None else key)
        program = Program(self.model, args, kwargs, model_key, scans=structure.scans)
        messages = plain_run(program, structure, expose=True)
        program = replace(program, fixed=shared_values(messages))
        potentials, _ = recognise(self.recognition, messages, args, kwargs, guide_key)
        sites = sample_sites(messages)
        check_potentials(structure, sites, potentials)
        bound = bind(program, structure, sites)
        search = Search(self.num_starts, self.mean_field, self.fixed_point)
        known = search, bound, potentials, self.init
        naturals = natural_parameters(structure, self._natural_name, *known)
        options = structure, self.mean_field, self.fixed_point
        local = local_posterior(*options, bound, naturals, potentials, examine=examine)
        return naturals, bound, local, messages

    def _natural_name(self, name: str) -> str:
        return f"{name}_{self.prefix}_natural"

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Sample every latent site, and declare the closed forms that are known.

        :param args: the arguments of the model.
        :param kwargs: the keyword arguments of the model.
        :return: values by site name.
        """
        naturals, bound, local, messages = self._infer(args, kwargs)
        if naturals:
            check_enclosing_optimizer(next(iter(naturals)))
        structure, plates = self._wiring, Plates(messages)
        posteriors, divergences = global_posteriors(structure, naturals, bound.priors)
        closed = emission.closed_forms(local, bound.sites, structure.scans, self.prefix)
        values: dict[str, Array] = {}
        for name, prior in structure.priors.items():
            infer = {"kl": divergences[name], **closed}
            with plates.around(bound.sites[name].frames):
                args = prior, posteriors[name], self.prefix, infer
                values |= emission.sample_global(*args)
            closed = {}  # declared at the first site
        picks = {} if self.mean_field else mixtures(structure)
        drawn, paths = emission.draw_graphs(local, bound.sites), dict[str, Array]()
        for name in sorted(structure.locals, key=picks.__contains__):
            with plates.around(bound.sites[name].frames):
                args = name, local, bound.sites, picks, drawn, paths, closed
                values |= emission.sample_local(*args, structure.scans, self.prefix)
            closed = {}
        return values

    # what was learnt

    def get_posterior(self, params: dict[str, Any]) -> dict[str, dist.Distribution]:
        """Posterior distributions of the global blocks.

        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :return: a distribution by site; a prior spelled as two sites has the joint
            distribution of both under the name of its location or weight.
        """
        return {
            name: prior.posterior(params[self._natural_name(name)])
            for name, prior in self._wiring.priors.items()
        }

    def posterior_local(
        self, params: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, dist.Distribution]:
        """Posterior distributions of the local sites, given data.

        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :param args: the arguments of the model.
        :param kwargs: the keyword arguments of the model.
        :return: marginal distributions by site, batched by the plates of the site:
            smoothed chains with their ``mean`` (..., T, D) and ``covariance``
            (..., T, D, D), responsibilities, Gaussians or mixtures of them.
        """
        return self._infer_all(params, args, kwargs, examine=False)[2].marginals

    def convergence(
        self, params: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Convergence]:
        """How the coordinate ascent of coupled local sites ended, given data.

        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :param args: the arguments of the model.
        :param kwargs: the keyword arguments of the model.
        :return: by site, ``sweeps``, ``residual`` (one or less: it has converged) and
            whether the ``adjoint`` is found. Empty if no sites are inferred by ascent.
        """
        return self._infer_all(params, args, kwargs)[2].convergence

    def _infer_all(
        self, params: dict, args: tuple, kwargs: dict, examine: bool = True
    ) -> tuple[dict[str, NaturalParameters], Bound, LocalPosterior]:
        with block(), seed(rng_seed=0), substitute(data=params):
            return self._infer(args, kwargs, examine)[:3]

    def sample_posterior(
        self,
        rng_key: Array,
        params: dict[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Draw the latent sites from the guide.

        :param rng_key: random key.
        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :param args: the arguments of the model; without any arguments only the global
            sites are drawn.
        :param sample_shape: shape of the sample.
        :param kwargs: the keyword arguments of the model.
        :return: values by site, with ``sample_shape`` leading.
        """

        def draw(key: Array) -> dict[str, Array]:
            if args or kwargs:
                with block(), seed(rng_seed=key), substitute(data=params):
                    return self(*args, **kwargs)
            return self._sample_globals(key, params)

        keys = random.split(rng_key, sample_shape)
        for _ in sample_shape:
            draw = jax.vmap(draw)
        return draw(keys if sample_shape else rng_key)

    def _sample_globals(self, key: Array, params: dict[str, Any]) -> dict[str, Array]:
        values: dict[str, Array] = {}
        for name, fn in self.get_posterior(params).items():
            key, draw = random.split(key)
            values.update(self._wiring.priors[name].unpack(fn.sample(draw)))
        return values

    def median(self, params: dict[str, Any]) -> dict[str, Array]:
        """Posterior median of each entry of the global sites.

        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :return: medians by site; see :meth:`quantiles`.
        """
        return {n: value[0] for n, value in self.quantiles(params, [0.5]).items()}

    def quantiles(
        self, params: dict[str, Any], quantiles: Any, num_samples: int = 4000
    ) -> dict[str, Array]:
        """Posterior quantiles of each entry of the global sites.

        They are those of a sample with a fixed key: the covariances' entries have no
        quantile function in closed form.

        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :param quantiles: the quantiles, between 0 and 1.
        :param num_samples: size of the sample.
        :return: arrays by site, with the quantiles leading.
        """
        keys = random.split(random.PRNGKey(0), num_samples)
        draws = jax.vmap(lambda key: self._sample_globals(key, params))(keys)
        levels = jnp.asarray(quantiles)
        return {name: jnp.quantile(v, levels, axis=0) for name, v in draws.items()}
