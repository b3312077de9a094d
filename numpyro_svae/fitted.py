# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a fitted guide says: posteriors, draws and quantiles."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any, Self, TypeVar

import jax
from jax import Array, random
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.handlers import block, seed, trace
from numpyro.infer.autoguide import AutoGuide

from numpyro_svae.families import NaturalParameters
from numpyro_svae.inference.declare.sampling import joint_name, path_name
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.deterministic import deterministic_sites, of_values
from numpyro_svae.program.run.fixed import Fixed
from numpyro_svae.program.run.parameters import check_parameters
from numpyro_svae.program.run.parts import whole_name
from numpyro_svae.program.run.subsample import Subsample, find_subsample
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.random_keys import check_key, keys_explained
from numpyro_svae.shared_programs import Recent

__all__ = ["FittedGuide"]

_Read = TypeVar("_Read")


class FittedGuide(AutoGuide):
    """A guide whose parameters are given, by a method for each question.

    Parameters are those of :meth:`~numpyro.infer.svi.SVI.get_params`. If a network has
    mutable state, such as running statistics, they must have it too:
    ``{**result.params, **result.state.mutable_state}``.
    """

    def __init__(self, model: Callable, prefix: str) -> None:
        super().__init__(model, prefix=prefix)
        self._structure: Structure | None = None
        self._shapes: tuple[tuple, dict[str, Any]] | None = None
        self._has_deterministic = False
        self.state_names = frozenset[str]()  # of networks
        self.plate_names = frozenset[str]()
        self.param_names = frozenset[str]()  # of the model and the recognition function
        self.programs = Recent()  # of functions of its fits
        self._local: LocalPosterior | None = None

    @property
    def is_read(self) -> bool:
        """Whether the model has been read."""
        return self._structure is not None

    @property
    def structure(self) -> Structure:
        """How the guide has read its model: ``print`` shows it.

        It has the global blocks (``priors``), the latent local sites (``locals``), the
        conjugate ``factors``, and the observed sites that are sampled
        (``likelihoods``).

        :raises RuntimeError: before the model has been read.
        """
        return self._once_read(self._structure)

    @property
    def shapes(self) -> tuple[tuple, dict[str, Any]]:
        """The arguments that the model was read with: of arrays, the shapes.

        :raises RuntimeError: before the model has been read.
        """
        return self._once_read(self._shapes)

    def _once_read(self, found: _Read | None) -> _Read:
        if found is None:
            raise RuntimeError(
                "AutoSVAE has not read its model yet: call SVI.init, SVI.run, or the "
                "guide itself with the arguments of the model first."
            )
        return found

    def _natural_name(self, name: str) -> str:
        return f"{name}_{self.prefix}_natural"

    @property
    def _messages_name(self) -> str:
        return f"{self.prefix}_messages"

    @property
    def _own_names(self) -> set[str]:
        """The names of what the guide makes for itself, which no program may have."""
        priors, scans = self.structure.priors, self.structure.scans
        joint = (n for n, prior in priors.items() if len(prior.sites) > 1)
        scanned = (n for n in self.structure.locals if any(n in s for s in scans))
        return {
            self._messages_name,
            *map(self._natural_name, priors),
            *(joint_name(name, self.prefix) for name in joint),
            *(path_name(name, self.prefix) for name in scanned),
        }

    def _infer(
        self, args: tuple, kwargs: dict, examine: bool = False
    ) -> tuple[dict[str, NaturalParameters], Bound, LocalPosterior, dict]:
        raise NotImplementedError

    def _knowing(self, local: LocalPosterior | None) -> Self:
        """The same guide, which takes a posterior of the local sites as given, for the
        arguments that it will be called with; None if it is to infer them."""
        other = copy(self)
        other._local = local
        return other

    def get_posterior(self, params: dict[str, Any]) -> dict[str, dist.Distribution]:
        """Posterior distributions of the global blocks.

        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :return: a distribution by site; a prior spelled as two sites has the joint
            distribution of both under the name of its location or weight.
        """
        check_parameters(params, self._natural_names)
        priors = self.structure.priors.items()
        found = {n: p.posterior(params[self._natural_name(n)]) for n, p in priors}
        return self.structure.shown.posteriors(found)

    def posterior_local(
        self, params: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, dist.Distribution]:
        """Posterior distributions of the local sites, given data.

        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :param args: the arguments of the model.
        :param kwargs: the keyword arguments of the model.
        :return: marginal distributions by site, batched by the plates of the site:
            smoothed chains with their ``mean`` (..., T, D) and ``covariance``
            (..., T, D, D), responsibilities, Gaussians or mixtures of them. A plate
            that the model subsamples has all of its members, in their order; those
            alone that ``params`` have under its name, such as
            ``{**params, "data": jnp.arange(100)}``. A label or vector that ``obs_mask``
            makes known in part is under its own name, and certain where it is known.
        """
        _, bound, local = self._infer_all(params, args, kwargs, examine=False)
        return self.structure.shown.posteriors(local.shown(bound.sites))

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
        _, bound, local = self._infer_all(params, args, kwargs)
        ends = local.convergence.items()
        return {whole_name(bound.sites, name): ended for name, ended in ends}

    def _ready(self, params: Any, args: tuple, kwargs: dict) -> Subsample:
        """Read the model, if it has not been, and look at the parameters of a fit.

        :param params: none at all for where training starts.
        :return: what the model subsamples of these arguments.
        """
        check_parameters(params, ())
        with keys_explained(self.model, args):
            found = find_subsample(self.model, params, args, kwargs)
        if not self.is_read:
            given = {**params, **found.members}
            with block(), seed(rng_seed=0), Fixed(data=given):
                self._setup_prototype(*args, **kwargs)
        if params.keys() - self.plate_names:
            check_parameters(params, self._natural_names, self.param_names)
        return found

    @property
    def _natural_names(self) -> list[str]:
        return [self._natural_name(name) for name in self.structure.priors]

    def _infer_all(
        self, params: dict, args: tuple, kwargs: dict, examine: bool = True
    ) -> tuple[dict[str, NaturalParameters], Bound, LocalPosterior]:
        found = self._ready(params, args, kwargs)
        params = {**params, **found.members}
        with block(), seed(rng_seed=0), Fixed(data=params):
            return self._infer(args, kwargs, examine)[:3]

    def sample_posterior(
        self,
        rng_key: Array,
        params: dict[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Array]:
        """Draw the latent sites from the guide, and the deterministic sites at them.

        :param rng_key: random key.
        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :param args: the arguments of the model; without any arguments only the global
            sites are drawn, and deterministic sites that depend on nothing else. Of
            what the model subsamples, all is drawn, as in :meth:`posterior_local`.
        :param sample_shape: shape of the sample.
        :param kwargs: the keyword arguments of the model.
        :return: values by site, with ``sample_shape`` leading.
        :raises TypeError: if the key is none.
        """
        check_key(rng_key, "guide.sample_posterior(rng_key, params, *args)")
        members = dict[str, Any]()
        if args or kwargs:
            members = self._ready(params, args, kwargs).members
        else:
            check_parameters(params, self._natural_names)
        data = {**params, **members}

        def draws(keys: Array, *given: Any) -> dict[str, Array]:
            draw = partial(self._draw, given=given)
            for _ in sample_shape:
                draw = jax.vmap(draw)
            return draw(keys)

        keys = random.split(rng_key, sample_shape) if sample_shape else rng_key
        what = self, "draws", len(sample_shape)
        return self.programs.run(what, draws, keys, data, args, kwargs)

    def _draw(self, key: Array, given: tuple) -> dict[str, Array]:
        """A draw of the latent sites, with deterministic sites at them.

        :param key: random key.
        :param given: parameters with members of what is subsampled, arguments of the
            model and its keyword arguments.
        """
        data, args, kwargs = given
        if not (args or kwargs):
            return self._draw_globals(key, data)
        with block(), trace() as drawn, seed(rng_seed=key), Fixed(data=data):
            values = self(*args, **kwargs)
        known = data, drawn, key, args, kwargs
        return values | deterministic_sites(self.model, *known)

    def _draw_globals(self, key: Array, params: dict[str, Any]) -> dict[str, Array]:
        """A draw of the global sites, with deterministic sites that depend on it."""
        values = self._sample_globals(key, params)
        return values | self._of_globals({**params, **values})

    def _of_globals(self, data: dict[str, Any]) -> dict[str, Array]:
        """Deterministic sites that depend on global sites alone."""
        if not self._has_deterministic:
            return {}
        make = partial(of_values, self.model, self.shapes)
        return self.programs.get_or(of_values, make)(data)

    def _sample_globals(self, key: Array, params: dict[str, Any]) -> dict[str, Array]:
        values: dict[str, Array] = {}
        for name, fn in self.get_posterior(params).items():
            key, draw = random.split(key)
            values.update(self.structure.priors[name].unpack(fn.sample(draw)))
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

        Deterministic sites that depend on nothing else are among them. All are those of
        a sample with a fixed key: the covariances' entries have no quantile function in
        closed form.

        :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
        :param quantiles: the quantiles, between 0 and 1.
        :param num_samples: size of the sample.
        :return: arrays by site, with the quantiles leading.
        """

        def found(params: dict[str, Any], levels: Array) -> dict[str, Array]:
            keys = random.split(random.PRNGKey(0), num_samples)
            draws = jax.vmap(lambda key: self._draw_globals(key, params))(keys)
            return {n: jnp.quantile(v, levels, axis=0) for n, v in draws.items()}

        check_parameters(params, self._natural_names)
        what, levels = (self, "quantiles", num_samples), jnp.asarray(quantiles)
        return self.programs.run(what, found, params, levels)
