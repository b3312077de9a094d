# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""NumPyro's own battery (its test_distributions.py), applied to every case.

Its checks, and where each of them is applied here:

- dist_shape, infer_shapes, has_rsample, args_attributes, repr, custom_prng,
  independent_shape, cdf_and_icdf (not defined for arrays: it must say so),
  enumerate_support (the same, being continuous): this module;
- jit_log_likelihood, log_prob against SciPy with and without jit, log_prob_gradient,
  sample_gradient, pathwise_gradient, entropy (SciPy has none for these, so samples),
  mean_var, generated_sample_distribution, kl: test_battery_numbers.py;
- distribution_constraints, omnistaging_invalid_param and _sample,
  explicit_validate_args, vmap_validate_args, get_args: this module and test_errors.py;
- constraints, biject_to: test_weight_cov.py, for the support that is new;
- expand, expand_shuffle_regression, expand_reshaped_distribution, mask, mask_grad,
  dist_pytree, special_dist_pytree, consistent_pytree,
  expand_no_unnecessary_batch_shape_expansion, vmap_dist, pickle, and what it checks of
  dtypes: test_battery_transforms.py.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    biject_to,
    constraints,
)
import pytest

from tests.distributions.cases import (
    CASES,
    CHAINS,
    PRIORS,
    Case,
    draws,
    every_case,
    every_case_with_moments,
)

KEY = jax.random.key(0)


def sample_shape_of(made: Distribution, sample_shape: tuple[int, ...] = ()):
    """Shape of a sample, without compiling the sampler."""
    return jax.eval_shape(lambda key: made.sample(key, sample_shape), KEY).shape


def log_prob_shape_of(made: Distribution, shape: tuple[int, ...]):
    """Shape of the log density of a value of some shape."""
    value = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(made.log_prob, value).shape


@every_case
@pytest.mark.parametrize("sample_shape", [(), (2,), (2, 3)])
def test_sample_shape(case: Case, sample_shape):
    made = case.make()
    shape = sample_shape + made.batch_shape + made.event_shape
    assert sample_shape_of(made, sample_shape) == made.shape(sample_shape) == shape
    assert log_prob_shape_of(made, shape) == sample_shape + made.batch_shape


@every_case
def test_infer_shapes(case: Case):
    made = case.make()
    shapes = case.params | {n: x.shape for n, x in case.arrays.items()}
    assert case.cls.infer_shapes(**shapes) == (made.batch_shape, made.event_shape)
    signature = inspect.signature(case.cls).parameters
    first = [n for n, p in signature.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    positional = [shapes.get(name) for name in first]
    rest = {name: x for name, x in shapes.items() if name not in first}
    found = case.cls.infer_shapes(*positional, **rest)
    assert found == (made.batch_shape, made.event_shape)


@every_case
def test_has_rsample(case: Case):
    made = case.make()
    assert made.has_rsample
    assert set(made.arg_constraints) == set(made.reparametrized_params)
    assert made.mask(False).has_rsample
    assert made.expand_by([2]).to_event(1).has_rsample
    assert TransformedDistribution(made, biject_to(constraints.real)).has_rsample
    assert jax.eval_shape(made.rsample, KEY).shape == made.shape()


@every_case
def test_arguments_have_constraints_and_attributes(case: Case):
    made = case.make()
    for name, constraint in made.arg_constraints.items():
        assert isinstance(constraint.event_dim, int)
        assert constraint.is_discrete is False
        assert isinstance(getattr(made, name), jax.Array)


@every_case
def test_get_args(case: Case):
    made = case.make()
    derived = {"scale_matrix": "scale_tril", "num_steps": "inputs"}
    assert set(made.get_args()) == {
        derived.get(name, name) for name in case.params if name != "transition"
    }


@every_case
def test_independent_shape(case: Case):
    made = case.make()
    shape = made.batch_shape + made.event_shape
    for count in range(len(made.batch_shape) + 1):
        grouped = Independent(made, count)
        boundary = len(made.batch_shape) - count
        assert grouped.batch_shape == shape[:boundary]
        assert grouped.event_shape == shape[boundary:]
        assert sample_shape_of(grouped) == shape
        assert log_prob_shape_of(grouped, shape) == shape[:boundary]


@every_case_with_moments
def test_moments_have_the_shape_of_a_sample(case: Case):
    made = case.make()
    for name in (
        ("mean", "variance") if case in CHAINS else ("mean", "mode", "variance")
    ):
        moment = jax.eval_shape(lambda made: getattr(made, name), made)  # noqa: B023
        assert moment.shape == made.shape()


@every_case
def test_entropy_has_the_shape_of_the_batch(case: Case):
    made = case.make()
    assert jax.eval_shape(lambda made: made.entropy(), made).shape == made.batch_shape


@every_case
def test_cdf_and_support_enumeration_are_not_defined(case: Case):
    made = case.make()
    assert not made.has_enumerate_support
    assert not made.is_discrete
    with pytest.raises(NotImplementedError):
        made.cdf(jnp.zeros(made.shape()))
    with pytest.raises(NotImplementedError):
        made.icdf(0.5)
    with pytest.raises(NotImplementedError):
        made.enumerate_support()


@every_case
def test_samples_are_in_the_support(case: Case):
    made = case.make(validate_args=True)
    value = draws(case)[:100].astype(np.float32)
    assert made.support.event_dim == made.event_dim
    np.testing.assert_array_equal(made.support(value), True)
    feasible = made.support.feasible_like(value)
    assert feasible.shape == value.shape
    np.testing.assert_array_equal(made.support(feasible), True)


@every_case
def test_out_of_support_samples_warn(case: Case):
    made = case.make(validate_args=True)
    value = np.full(made.shape(), np.nan, np.float32)
    with pytest.warns(UserWarning, match="Out-of-support"):
        assert np.all(np.isneginf(made.log_prob(value)))
    with pytest.warns(UserWarning, match="Out-of-support"):
        jax.jit(lambda: case.make(validate_args=True).log_prob(value))()


def _outside(case: Case) -> dict[str, np.ndarray]:
    bad = {"df": -1.0, "scale_tril": -np.eye(1), "concentration": -1.0}
    return {
        name: np.broadcast_to(bad.get(name, np.full((), np.nan)), np.shape(value))
        for name, value in case.arrays.items()
    }


@every_case
def test_invalid_parameters_raise_only_under_validation(case: Case):
    for name, value in _outside(case).items():
        with numpyro.validation_enabled(False):
            made = case.make(**{name: value})
        assert isinstance(made, Distribution)
        with pytest.raises(ValueError, match=name):
            case.make(**{name: value}, validate_args=True)
        with pytest.raises(ValueError, match=name):
            jax.jit(lambda: case.make(**{name: value}, validate_args=True))()  # noqa: B023
        with pytest.raises(
            ValueError, match=name.replace("scale_matrix", "scale_tril")
        ):
            made.validate_args()


@every_case
def test_explicit_validation(case: Case):
    case.make(validate_args=False).validate_args()
    jitted = jax.jit(
        lambda made, strict: made.validate_args(strict), static_argnames=["strict"]
    )
    jitted(case.make(), strict=False)
    with pytest.raises(RuntimeError, match="Cannot validate arguments"):
        jitted(case.make(), strict=True)


@every_case
def test_validation_under_vmap(case: Case):
    names = list(case.arrays)
    batched = [jnp.stack([jnp.asarray(case.arrays[name])] * 2) for name in names]
    for validate in (True, False):
        made = jax.vmap(
            lambda *values: case.make(
                **dict(zip(names, values, strict=True)),
                validate_args=validate,  # noqa: B023
            )
        )(*batched)
        assert made._validate_args is validate


@every_case
def test_repr(case: Case):
    result = repr(case.make().expand_by([3, 4]))
    assert f"batch shape (3, 4{''.join(f', {n}' for n in case.make().batch_shape)}" in (
        result
    )
    assert f"event shape {case.make().event_shape}" in result


def test_other_key_types():
    made = CASES[0].make()
    with jax.enable_custom_prng():
        assert np.all(np.isfinite(made.sample(jax.random.PRNGKey(0))))
    with jax.default_prng_impl("rbg"):
        assert np.all(np.isfinite(made.sample(jax.random.key(0))))
    assert np.all(np.isfinite(made.sample(jax.random.PRNGKey(0))))


def test_key_that_is_none():
    with pytest.raises(ValueError, match=r"key must be a jax\.random key; got None"):
        CASES[0].make().sample(None)


@pytest.mark.parametrize("case", PRIORS, ids=lambda case: case.name)
def test_components_of_a_mixture(case: Case):
    made = case.make().expand((3,)) if not case.make().batch_shape else case.make()
    size = made.batch_shape[-1]
    weights = jnp.arange(1.0, 1 + size) / (size * (size + 1) / 2)
    mixture = MixtureSameFamily(Categorical(weights), made)
    value = mixture.sample(KEY)
    each = jnp.log(weights) + made.log_prob(value[..., None, :, :])
    np.testing.assert_allclose(
        mixture.log_prob(value), jax.nn.logsumexp(each, -1), rtol=1e-5
    )
