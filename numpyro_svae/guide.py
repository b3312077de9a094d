# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""The guide: structured variational message passing for a NumPyro program."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from jax import Array, random
import numpyro
import numpyro.distributions as dist

from numpyro_svae.enclosing import check_enclosing, is_initialising
from numpyro_svae.families import NaturalParameters
from numpyro_svae.fitted import FittedGuide
from numpyro_svae.inference.declare import sampling
from numpyro_svae.inference.declare.watch import Watch
from numpyro_svae.inference.local.ascent import Ascent, check_refine
from numpyro_svae.inference.local.cubature import Cubature, Rule
from numpyro_svae.inference.local.engine import global_posteriors
from numpyro_svae.inference.local.fixed_point import FixedPoint
from numpyro_svae.inference.local.kept_messages import KeptMessages
from numpyro_svae.inference.local.posterior import LocalPosterior
from numpyro_svae.inference.local.site_posteriors import site_posteriors
from numpyro_svae.inference.start.given import check_names, check_starts
from numpyro_svae.inference.start.parameters import natural_parameters
from numpyro_svae.inference.start.search import Search, check_num_starts
from numpyro_svae.program.bind.binding import Bound, bind
from numpyro_svae.program.read.gradient_sites import check_groups
from numpyro_svae.program.read.later_calls import LaterCalls
from numpyro_svae.program.read.numpy_calls import numpy_is_named
from numpyro_svae.program.read.setup import read_program, recognise
from numpyro_svae.program.run.deterministic import shapes_of
from numpyro_svae.program.run.mutable_state import Given, check_state
from numpyro_svae.program.run.names import Names
from numpyro_svae.program.run.plates import Plates, shared_values
from numpyro_svae.program.run.sites import Program, sample_sites
from numpyro_svae.program.structure.checks import (
    Potential,
    check_potentials,
    check_shapes,
)
from numpyro_svae.program.structure.groups import mixtures
from numpyro_svae.program.structure.probing import plain_run, read_of
from numpyro_svae.shared_inference import once
from numpyro_svae.shared_programs import Recent

__all__ = ["AutoSVAE"]


class _Reading(NamedTuple):
    """A program with its data, and what inference starts from."""

    naturals: dict[str, NaturalParameters]
    bound: Bound
    potentials: dict[str, Potential]
    messages: dict[str, dict]
    program: Program
    kept: KeptMessages


class AutoSVAE(FittedGuide):
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
        A Gaussian vector or chain that gets no potential, and is observed through a
        likelihood that is not conjugate, is sent the gradient of the expected log
        likelihood in sweeps (Khan and Lin, AISTATS 2017).
    :param prefix: prefix of the names of the parameters of the guide.
    :param mean_field: whether coupled local sites (a discrete site or chain and the
        Gaussian sites that it picks components for) are independent under the guide.
        By default they are inferred jointly where that is tractable, which is exact
        given the messages to them; where all of that is conjugate, its ELBO is never
        the lower one. Chains are always independent of what they are coupled with.
    :param fixed_point: how the best product of independent coupled sites is found and
        differentiated, and how many sweeps there are for likelihoods that are not
        conjugate and for steps that are not linear;
        :class:`~numpyro_svae.FixedPoint` says what the default is.
    :param cubature: how these are averaged over a latent vector, a
        :class:`~numpyro_svae.Cubature`, which says what the default is, or
        :class:`~numpyro_svae.Samples`.
    :param refine: the most sweeps, from what the recognition function says of vectors
        and chains that are seen through such likelihoods, towards the best posterior.
        In training the bound is that of the refined posterior, and the recognition
        function learns to say what the sweeps ended at. :meth:`refined` gives the same
        guide with sweeps after training alone.
    :param init: where global posteriors start, by site: a distribution of the
        posterior's family or its natural parameters; others start where data suggest.
    :param num_starts: how many guesses of a start are made where the bound can judge
        them, which is where nothing is sampled and a discrete site or a chain is
        latent. Each is followed for a few sweeps, the best is kept, one is not judged.

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
        cubature: Rule | None = None,
        refine: int = 0,
        init: dict[str, dist.Distribution | NaturalParameters] | None = None,
        num_starts: int = 10,
    ) -> None:
        super().__init__(model, prefix=prefix)
        self.recognition = recognition
        self.mean_field = mean_field
        self.fixed_point = fixed_point or FixedPoint()
        self.cubature = cubature or Cubature()
        self.refine = check_refine(refine)
        self.init = dict(init or {})
        self.num_starts = check_num_starts(num_starts)
        self.watch = Watch(self._has_few_sweeps)
        self._strict: AutoSVAE | None = None

    def refined(self, sweeps: int) -> AutoSVAE:
        """The same guide with other sweeps after its recognition function.

        Its parameters are those of this one. So a guide that was trained without sweeps
        may be asked for its posteriors, scores and forecasts with them.

        :param sweeps: the number of sweeps, as ``refine``.
        """
        other = copy(self)
        other.refine, other.programs = check_refine(sweeps), Recent()
        other.watch, other._strict = Watch(self._has_few_sweeps), None
        other._structure = None
        return other

    @property
    def strict(self) -> AutoSVAE:
        """The same guide, which says that sweeps have not converged though few are
        meant, as forecasts do: their paths are not drawn from what sweeps lead to."""
        if not self._has_few_sweeps:
            return self
        if self._strict is None:
            self._strict = copy(self)
            self._strict.watch = Watch()
        return self._strict

    @property
    def _has_few_sweeps(self) -> bool:
        """Whether fewer sweeps than the default are chosen beside a network, which
        learns what they lead to."""
        few = self.fixed_point.max_sweeps < FixedPoint.max_sweeps
        return few and self.recognition is not None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"programs": Recent(), "_strict": None}

    # set-up

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        with numpy_is_named(self.model, args, kwargs):
            self._structure, messages, *names = self._reading(args, kwargs, self.model)
        self.state_names, self.param_names = names
        check_groups(self._structure, self.mean_field)
        check_names(self.structure.priors, self.init)
        self.prototype_trace = {
            name: {k: v for k, v in message.items() if k in ("type", "name")}
            for name, message in messages.items()
            if message["type"] in ("sample", "plate")
        }
        kinds = {name: message["type"] for name, message in messages.items()}
        self.plate_names = frozenset(n for n in kinds if kinds[n] == "plate")
        self._has_deterministic = "deterministic" in kinds.values()
        self._shapes = shapes_of((args, kwargs))
        self._calls = LaterCalls(self._shapes)

    def _reading(self, args: tuple, kwargs: dict, model: Callable) -> tuple:
        """What is read of a model, with these arguments."""
        return read_program(model, self.recognition, args, kwargs, bool(self.refine))

    # inference

    @property
    def ascent(self) -> Ascent:
        """How local posteriors are found."""
        return Ascent(self.mean_field, self.fixed_point, self.cubature, self.refine)

    def _read(self, args: tuple, kwargs: dict) -> _Reading:
        """The program with its data, and what inference starts from."""
        if not self.is_read:
            self._setup_prototype(*args, **kwargs)
        structure = self.structure
        key = numpyro.prng_key()
        model_key, guide_key = random.split(random.PRNGKey(0) if key is None else key)
        spelled = structure.scans, structure.shown
        program = Program(self.model, args, kwargs, model_key, {}, *spelled)
        run = partial(plain_run, program, structure, expose=True)
        with Given() as held:
            messages = run()
        again = partial(self._reading, args, kwargs)
        self._calls.check(program, structure, messages, again)
        program = replace(program, fixed=shared_values(messages))
        names = Names(messages.values(), self._own_names)
        given = self.recognition, messages, args, kwargs, guide_key, names

        def recognised() -> dict[str, Potential]:
            return recognise(*given)[0]

        with Given() as state:
            potentials = recognised()
        if not is_initialising():
            check_state(lambda: read_of(structure, run()), held.values, held.begun)
            check_state(recognised, state.values, state.begun)
        sites = sample_sites(messages)
        check_shapes(sites)
        check_potentials(structure, sites, potentials)
        bound = bind(program, structure, sites, self.cubature)
        init = structure.shown.starts(self.init)
        check_starts(structure.priors, init, bound.priors)
        search = Search(self.num_starts, self.mean_field, self.fixed_point)
        known = search, bound, potentials, init, messages
        naturals = natural_parameters(structure, self._natural_name, *known)
        found = structure, program, self.ascent, bound, naturals, potentials
        kept = KeptMessages.of(self._messages_name, *found, messages)
        return _Reading(naturals, bound, potentials, messages, program, kept)

    def _infer(
        self, args: tuple, kwargs: dict, examine: bool = False
    ) -> tuple[dict[str, NaturalParameters], Bound, LocalPosterior, dict]:
        """Posteriors of the global and of the local sites, for these arguments."""
        naturals, bound, potentials, messages, program, kept = self._read(args, kwargs)
        if self._local is not None:
            return naturals, bound, self._local, messages
        known = self.structure, program, self.ascent, bound, naturals, potentials
        local = site_posteriors(*known, kept=kept, examine=examine)
        if not examine:  # else it is looked at anyway
            local = self.watch.watch(local, bound.sites)
        return naturals, bound, local, messages

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """Sample every latent site, and declare the closed forms that are known.

        :param args: the arguments of the model.
        :param kwargs: the keyword arguments of the model.
        :return: values by site name.
        """
        if is_initialising():
            return self._begin(args, kwargs)
        with numpy_is_named(self.model, args, kwargs):
            found = once(self, (args, kwargs), partial(self._infer, args, kwargs))
        naturals, bound, local, messages = found
        structure, plates = self.structure, Plates(messages)
        shown = structure.shown
        posteriors, divergences = global_posteriors(structure, naturals, bound)
        closed = sampling.closed_forms(local, bound.sites, structure.scans, self.prefix)
        values: dict[str, Array] = {}
        for name, prior in structure.priors.items():
            infer = {"kl": divergences[name], **closed}
            with plates.around(*shown.plates(bound.sites[name])):
                args = prior, posteriors[name], bound.sites, shown
                values |= sampling.sample_global(*args, self.prefix, infer)
            closed = {}  # declared at the first site
        picks = {} if self.mean_field else mixtures(structure)
        drawn = sampling.draw_graphs(local, bound.sites, shown)
        paths = dict[str, Array]()
        for name in sorted(structure.locals, key=picks.__contains__):
            with plates.around_guide(*shown.placed(bound.sites[name])):
                args = name, local, bound.sites, shown, picks, drawn, paths, closed
                values |= sampling.sample_local(*args, structure, self.prefix)
            closed = {}
        return values

    def _begin(self, args: tuple, kwargs: dict) -> dict[str, Array]:
        """The parameters, and plain values of the latent sites.

        ``SVI.init`` wants no more, and would compile all that is inferred for nothing.
        """
        with numpy_is_named(self.model, args, kwargs):
            read = self._read(args, kwargs)
        check_enclosing(read.naturals, read.kept.start is not None)
        return sampling.sample_plain(self.structure, read.messages)
