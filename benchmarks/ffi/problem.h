// Copyright Contributors to the numpyro_svae project.
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <algorithm>
#include <cstdint>

namespace chain {

// Arguments and results, all of them rows first: matrices (D, D); h, J and the mean
// (B, T, D), the covariances (B, T, D, D), and those of neighbours, Cov(x_t, x_{t+1}),
// (B, T - 1, D, D).
struct Problem {
  int64_t batch, steps;
  const float *initial_mean, *initial_cov, *matrix, *noise, *h, *J;
  float *mean, *cov, *cross, *log_normalizer, *kept;
};

}  // namespace chain
