// Copyright Contributors to the numpyro_svae project.
// SPDX-License-Identifier: Apache-2.0

// Smoothing in linear Gaussian chains with diagonal potentials, as a target of XLA's
// foreign function interface. The algorithm is that of the package: see
// numpyro_svae/blocks/filtering.py, smoothing.py and propagation.py.

#include "lanes.h"
#include "problem.h"
#include "rows.h"
#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Array>;

template <int D>
ffi::Error Smooth(const chain::Problem& problem, bool as_lanes, int64_t kept) {
  using Rows = chain::RowsSmoother<D>;
  using Lanes = chain::LanesSmoother<D>;
  if (kept != (as_lanes ? Lanes::kKept : Rows::kKept)) {
    return ffi::Error::InvalidArgument("what is kept has another shape");
  }
  for (int64_t b = 0; b < problem.batch; b += as_lanes ? chain::kLanes : 1) {
    if (as_lanes) {
      Lanes(problem, b).Run();
    } else {
      Rows(problem, b).Run();
    }
  }
  return ffi::Error::Success();
}

ffi::Error SmoothAny(Array initial_mean, Array initial_cov, Array matrix, Array noise,
                     Array h, Array J, Result mean, Result cov, Result cross,
                     Result log_normalizer, Result kept, bool as_lanes) {
  const auto shape = h.dimensions();
  const chain::Problem problem = {shape[0],
                                  shape[1],
                                  initial_mean.typed_data(),
                                  initial_cov.typed_data(),
                                  matrix.typed_data(),
                                  noise.typed_data(),
                                  h.typed_data(),
                                  J.typed_data(),
                                  mean->typed_data(),
                                  cov->typed_data(),
                                  cross->typed_data(),
                                  log_normalizer->typed_data(),
                                  kept->typed_data()};
  const int64_t size = kept->dimensions()[2];
  switch (shape[2]) {
    case 2: return Smooth<2>(problem, as_lanes, size);
    case 3: return Smooth<3>(problem, as_lanes, size);
    case 4: return Smooth<4>(problem, as_lanes, size);
    case 6: return Smooth<6>(problem, as_lanes, size);
    case 8: return Smooth<8>(problem, as_lanes, size);
  }
  return ffi::Error::InvalidArgument("states of 2, 3, 4, 6 or 8 dimensions only");
}

}  // namespace

// How many chains are taken at once.
extern "C" int64_t ChainLanes() { return chain::kLanes; }

XLA_FFI_DEFINE_HANDLER_SYMBOL(SmoothChain, SmoothAny,
                              ffi::Ffi::Bind()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<bool>("as_lanes"));
