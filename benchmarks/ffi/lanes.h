// Copyright Contributors to the numpyro_svae project.
// SPDX-License-Identifier: Apache-2.0

// Sixteen chains at once, or eight: every number is a vector, an entry for each chain.
//
// Loops over time keep their matrices in the first-level cache. Only filtered moments
// are written down in between; what else the way back needs is computed again.

#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "problem.h"

namespace chain {

#ifdef __AVX512F__
constexpr int kLanes = 16, kColumns = 4;
#else
constexpr int kLanes = 8, kColumns = 2;  // half as many registers, of half the size
#endif

typedef float Lanes __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef double Wide __attribute__((vector_size(8 * kLanes)));

// Entries of a and b in turn: their first halves, and their second ones.
inline Lanes First(Lanes a, Lanes b) {
#ifdef __AVX512F__
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                 7, 23);
#else
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#endif
}

inline Lanes Second(Lanes a, Lanes b) {
#ifdef __AVX512F__
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                 30, 15, 31);
#else
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#endif
}

// Transposes a square of kLanes vectors: a perfect shuffle of its rows, log2 times.
inline void Transpose(Lanes* x) {
  Lanes y[kLanes];
#pragma GCC unroll 4
  for (int stage = 1; stage < kLanes; stage *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      y[2 * i] = First(x[i], x[i + kLanes / 2]);
      y[2 * i + 1] = Second(x[i], x[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) x[i] = y[i];
  }
}

template <int D>
class LanesSmoother {
  // Rows and columns of a block of a product, which stays in registers.
  static constexpr int kI = D % 4 == 0 ? 4 : D % 3 == 0 ? 3 : 2;
  static constexpr int kJ = D % kColumns == 0 ? kColumns : kI;
  static constexpr int kTriangle = D * (D + 1) / 2;

  using Matrix = Lanes[D][D];

 public:
  static constexpr int kKept = kTriangle + D;  // lanes written down for each step

  // Chains first, first + 1, ..., at most kLanes of them.
  LanesSmoother(const Problem& problem, int64_t first)
      : p_(problem),
        first_(first),
        count_(std::min<int64_t>(kLanes, problem.batch - first)) {}

  void Run() {
    Forwards();
    Backwards();
  }

 private:
  // out(i, j, sum_k a(i, k) b(k, j)), in blocks of entries that stay in registers;
  // the blocks on and below the diagonal only, where lower.
  template <bool lower, class A, class B, class Out>
  static inline __attribute__((always_inline)) void Product(A a, B b, Out out) {
#pragma GCC unroll 1
    for (int i0 = 0; i0 < D; i0 += kI) {
#pragma GCC unroll 1
      for (int j0 = 0; j0 < (lower ? i0 + kI : D); j0 += kJ) {
        Lanes sum[kI][kJ] = {};
#pragma GCC unroll 1
        for (int k = 0; k < D; ++k) {
#pragma GCC unroll 4
          for (int i = 0; i < kI; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < kJ; ++j) sum[i][j] += a(i0 + i, k) * b(k, j0 + j);
          }
        }
#pragma GCC unroll 4
        for (int i = 0; i < kI; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < kJ; ++j) out(i0 + i, j0 + j, sum[i][j]);
        }
      }
    }
  }

  // Entries (B, T, D) of one step as lanes; chains past the end repeat the last one.
  void Read(const float* from, int64_t t, Lanes* x) const {
    Lanes rows[kLanes] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t b = first_ + std::min<int64_t>(lane, count_ - 1);
      std::memcpy(&rows[lane], from + (b * p_.steps + t) * D, 4 * D);
    }
    Transpose(rows);
    for (int i = 0; i < D; ++i) x[i] = rows[i];
  }

  // The inverse, for (B, steps, size).
  template <int size>
  void Write(const Lanes* x, int64_t steps, int64_t t, float* to) const {
#pragma GCC unroll 1
    for (int begin = 0; begin < size; begin += kLanes) {
      constexpr int kWhole = size < kLanes ? size : kLanes;
      const int some = std::min(kLanes, size - begin);
      Lanes rows[kLanes] = {};
      for (int i = 0; i < some; ++i) rows[i] = x[begin + i];
      Transpose(rows);
      for (int lane = 0; lane < count_; ++lane) {
        float* place = to + ((first_ + lane) * steps + t) * size + begin;
        if (some == kWhole) {
          std::memcpy(place, &rows[lane], 4 * kWhole);
        } else {
          std::memcpy(place, &rows[lane], 4 * some);
        }
      }
    }
  }

  Lanes* Kept(int64_t t) const {
    return reinterpret_cast<Lanes*>(p_.kept) +
           (first_ / kLanes * p_.steps + t) * kKept;
  }

  void Keep(int64_t t) const {
    Lanes* kept = Kept(t);
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j <= i; ++j) *kept++ = cov_[i][j];
    }
    for (int i = 0; i < D; ++i) *kept++ = mean_[i];
  }

  void Recall(int64_t t) {
    const Lanes* kept = Kept(t);
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j <= i; ++j) cov_[i][j] = cov_[j][i] = *kept++;
    }
    for (int i = 0; i < D; ++i) mean_[i] = *kept++;
  }

  // Conditions on a diagonal potential, one entry after the other: what cov_ has in
  // row and column i is divided by s = 1 + J_i P_ii, so that nothing cancels there.
  void Condition(const Lanes* h, const Lanes* J) {
    Lanes pull[D], terms = {};
    for (int i = 0; i < D; ++i) {
      pull[i] = h[i] - J[i] * mean_[i];
      terms += h[i] * mean_[i];
    }
#pragma GCC unroll 1
    for (int i = 0; i < D; ++i) {
      const Lanes spread = 1.0f + J[i] * cov_[i][i], inverse = 1.0f / spread;
      Count(spread);
      Lanes column[D];
      for (int a = 0; a < i; ++a) column[a] = cov_[i][a];
      for (int a = i; a < D; ++a) column[a] = cov_[a][i];
      for (int a = 0; a < D; ++a) {
        const Lanes scaled = column[a] * (J[i] * inverse);
        for (int b = 0; b <= a; ++b) cov_[a][b] -= scaled * column[b];
      }
      for (int a = 0; a < i; ++a) cov_[i][a] = column[a] * inverse;
      for (int a = i; a < D; ++a) cov_[a][i] = column[a] * inverse;
    }
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j < i; ++j) cov_[j][i] = cov_[i][j];
    }
    for (int i = 0; i < D; ++i) {
      for (int k = 0; k < D; ++k) mean_[i] += cov_[i][k] * pull[k];
    }
    for (int i = 0; i < D; ++i) terms += pull[i] * mean_[i];
    terms_ += __builtin_convertvector(terms, Wide);
    product_ = Split(product_);
  }

  // The mantissa of x, in [1, 2); its exponent is added to the count.
  Lanes Split(Lanes x) {
    const Ints bits = (Ints)x;
    exponent_ += (bits >> 23) - 127;
    const Ints mantissa = (bits & 0x7fffff) | 0x3f800000;
    return (Lanes)mantissa;
  }

  // A factor of the determinant. One logarithm of them all, at the end, is enough.
  void Count(Lanes x) { product_ *= Split(x); }

  // cross_ = A P, next_ = A P A' + Q and ahead_ = A m.
  void Predict() {
    const float *A = p_.matrix, *Q = p_.noise;
    Product<false>([&](int i, int k) { return A[i * D + k]; },
                   [&](int k, int j) { return cov_[k][j]; },
                   [&](int i, int j, Lanes x) { cross_[i][j] = x; });
    Product<true>([&](int i, int k) { return cross_[i][k]; },
                  [&](int k, int j) { return A[j * D + k]; },
                  [&](int i, int j, Lanes x) { next_[i][j] = x + Q[i * D + j]; });
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j < i; ++j) next_[j][i] = next_[i][j];
    }
    for (int i = 0; i < D; ++i) {
      ahead_[i] = A[i * D] * mean_[0];
      for (int k = 1; k < D; ++k) ahead_[i] += A[i * D + k] * mean_[k];
    }
  }

  void Forwards() {
    for (int i = 0; i < D; ++i) {
      mean_[i] = Lanes{} + p_.initial_mean[i];
      for (int j = 0; j < D; ++j) cov_[i][j] = Lanes{} + p_.initial_cov[i * D + j];
    }
    terms_ = Wide{};
    product_ = Lanes{} + 1.0f;
    exponent_ = Ints{};
    for (int64_t t = 0; t < p_.steps; ++t) {
      Lanes h[D], J[D];
      Read(p_.h, t, h);
      Read(p_.J, t, J);
      for (int i = 0; i < D; ++i) J[i] = J[i] > 0.0f ? J[i] : Lanes{};
      Condition(h, J);
      Keep(t);
      Predict();
      std::memcpy(mean_, ahead_, sizeof(mean_));
      std::memcpy(cov_, next_, sizeof(cov_));
    }
    for (int lane = 0; lane < count_; ++lane) {
      const double log_det = std::log(product_[lane]) + exponent_[lane] * M_LN2;
      p_.log_normalizer[first_ + lane] = 0.5 * (terms_[lane] - log_det);
    }
  }

  // cross_ = next_^-1 cross_, by L D L'. Pivots are floored at the rounding error of
  // their diagonal entry.
  void Solve() {
    Lanes inverse[D];
#pragma GCC unroll 1
    for (int k = 0; k < D; ++k) {
      Lanes pivot = next_[k][k];
      const Lanes floor = diagonal_[k] * FLT_EPSILON + FLT_MIN;
      pivot = pivot > floor ? pivot : floor;
      inverse[k] = 1.0f / pivot;
#pragma GCC unroll 1
      for (int i = k + 1; i < D; ++i) {
        const Lanes factor = next_[i][k] * inverse[k];
        for (int j = k + 1; j <= i; ++j) next_[i][j] -= factor * next_[j][k];
        for (int j = 0; j < D; ++j) cross_[i][j] -= factor * cross_[k][j];
      }
    }
#pragma GCC unroll 1
    for (int k = D - 1; k >= 0; --k) {
      Lanes row[D];
      for (int j = 0; j < D; ++j) row[j] = cross_[k][j];
#pragma GCC unroll 1
      for (int i = k + 1; i < D; ++i) {
        for (int j = 0; j < D; ++j) row[j] -= next_[i][k] * cross_[i][j];
      }
      for (int j = 0; j < D; ++j) cross_[k][j] = row[j] * inverse[k];
    }
  }

  // From filtered moments, and smoothed ones of the next step, to smoothed ones:
  // G = P A' next^-1, B = I - G A, V = B P B' + G Q G'.
  void Back(int64_t t) {
    const float *A = p_.matrix, *Q = p_.noise;
    Recall(t);
    Predict();
    for (int i = 0; i < D; ++i) diagonal_[i] = next_[i][i];
    Solve();
    Matrix rest, inner, back;  // rest = B'; cross_ = G' from here on
    Product<false>([&](int i, int k) { return A[k * D + i]; },
                   [&](int k, int j) { return cross_[k][j]; },
                   [&](int i, int j, Lanes x) {
                     rest[i][j] = i == j ? 1.0f - x : -x;
                   });
    Product<false>([&](int i, int k) { return cov_[i][k]; },
                   [&](int k, int j) { return rest[k][j]; },
                   [&](int i, int j, Lanes x) { inner[i][j] = x; });
    Product<true>([&](int i, int k) { return rest[k][i]; },
                  [&](int k, int j) { return inner[k][j]; },
                  [&](int i, int j, Lanes x) { next_[i][j] = x; });
    Product<false>([&](int i, int k) { return Q[i * D + k]; },
                   [&](int k, int j) { return cross_[k][j]; },
                   [&](int i, int j, Lanes x) { inner[i][j] = x; });
    Product<true>([&](int i, int k) { return cross_[k][i]; },
                  [&](int k, int j) { return inner[k][j]; },
                  [&](int i, int j, Lanes x) { next_[i][j] += x; });
    Product<false>([&](int i, int k) { return cross_[k][i]; },
                   [&](int k, int j) { return smooth_cov_[k][j]; },
                   [&](int i, int j, Lanes x) { back[i][j] = x; });
    Product<true>([&](int i, int k) { return back[i][k]; },
                  [&](int k, int j) { return cross_[k][j]; },
                  [&](int i, int j, Lanes x) { smooth_cov_[i][j] = x + next_[i][j]; });
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j < i; ++j) smooth_cov_[j][i] = smooth_cov_[i][j];
    }
    for (int k = 0; k < D; ++k) {
      const Lanes gap = smooth_mean_[k] - ahead_[k];
      for (int i = 0; i < D; ++i) mean_[i] += cross_[k][i] * gap;
    }
    std::memcpy(smooth_mean_, mean_, sizeof(mean_));
    Write<D * D>(back[0], p_.steps - 1, t, p_.cross);
  }

  void Backwards() {
    const int64_t last = p_.steps - 1;
    Recall(last);
    std::memcpy(smooth_mean_, mean_, sizeof(mean_));
    std::memcpy(smooth_cov_, cov_, sizeof(cov_));
    for (int64_t t = last; t >= 0; --t) {
      if (t < last) Back(t);
      Write<D>(smooth_mean_, p_.steps, t, p_.mean);
      Write<D * D>(smooth_cov_[0], p_.steps, t, p_.cov);
    }
  }

  const Problem& p_;
  const int64_t first_;
  const int64_t count_;
  Lanes mean_[D], ahead_[D], smooth_mean_[D], diagonal_[D];
  Matrix cov_, cross_, next_, smooth_cov_;
  Wide terms_;
  Lanes product_;
  Ints exponent_;
};

}  // namespace chain
