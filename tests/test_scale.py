# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Sequences, or steps, spread over devices: the same results, and what is sent."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import on_devices

DEVICES = "--xla_force_host_platform_device_count=8"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs():
    """What the same work gives on one, two and eight devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    cache = jax.config.jax_compilation_cache_dir
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} {DEVICES} --xla_backend_optimization_level=0",
        **({"JAX_COMPILATION_CACHE_DIR": str(cache)} if cache else {}),
    }
    command = [sys.executable, "-m", on_devices.__name__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("work", "what"),
    [("sequences", "losses"), ("sequences", "params"), ("steps", "gradient")],
)
@pytest.mark.parametrize("count", ["2", "8"])
def test_devices_change_results_by_rounding_only(runs, count, work, what):
    found, expected = runs[work][count][what], runs[work]["1"][what]
    np.testing.assert_allclose(found, expected, 1e-10, 1e-12)


@pytest.mark.parametrize("work", ["sequences", "steps"])
def test_devices_send_nothing_in_loops_over_time(runs, work):
    assert runs[work]["8"]["loops"] == []


def test_devices_add_up_statistics_and_send_no_sequence(runs):
    sent = runs["sequences"]["8"]["entry"]
    assert {kind for _, kind in sent} == {"all-reduce"}
    own = on_devices.SEQUENCES // 8, on_devices.SEQUENCES
    sizes = {
        int(n)
        for shape, _ in sent
        for n in re.findall(r"(?<=[\[,])\d+(?=[\],])", shape)
    }
    assert sizes.isdisjoint(own)
