// Copyright Contributors to the numpyro_svae project.
// SPDX-License-Identifier: Apache-2.0

// One chain alone: a row of a matrix is a vector. Steps are taken in order.

#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "problem.h"

namespace chain {

template <int size>
struct Vectors;

template <>
struct Vectors<4> {
  typedef float Row __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));
};

template <>
struct Vectors<8> {
  typedef float Row __attribute__((vector_size(32)));
  typedef int32_t Mask __attribute__((vector_size(32)));
};

template <int D>
class RowsSmoother {
  static constexpr int kRow = D <= 4 ? 4 : 8;  // entries past the end are zero
  using Row = typename Vectors<kRow>::Row;
  using Mask = typename Vectors<kRow>::Mask;

  struct Matrix {
    Row row[kRow];  // rows past the end are zero too

    Row& operator[](int i) { return row[i]; }
    const Row& operator[](int i) const { return row[i]; }
  };

  struct Moments {
    Row mean;
    Matrix cov;
  };

 public:
  static constexpr int kKept = D + 1;  // rows that are written down for each step

  RowsSmoother(const Problem& problem, int64_t chain)
      : p_(problem),
        chain_(chain),
        matrix_(ReadMatrix(problem.matrix)),
        transposed_(Transpose(matrix_)),
        noise_(ReadMatrix(problem.noise)) {}

  void Run() {
    Forwards();
    Backwards();
  }

 private:
  static Row ReadRow(const float* from) {
    Row x = {};
    std::memcpy(&x, from, 4 * D);
    return x;
  }

  static Matrix ReadMatrix(const float* from) {
    Matrix a = {};
    for (int i = 0; i < D; ++i) a[i] = ReadRow(from + i * D);
    return a;
  }

  static void WriteMatrix(const Matrix& a, float* to) {
    for (int i = 0; i < D; ++i) std::memcpy(to + i * D, &a[i], 4 * D);
  }

  static Matrix Transpose(Matrix x) {
    Matrix y;
    for (int stage = 1; stage < kRow; stage *= 2) {
      for (int i = 0; i < kRow / 2; ++i) {
        const Row a = x[i], b = x[i + kRow / 2];
        if constexpr (kRow == 4) {
          y[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
          y[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
        } else {
          y[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
          y[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
        }
      }
      x = y;
    }
    return x;
  }

  static Matrix Symmetrize(const Matrix& a) {
    Matrix b = Transpose(a);
    for (int i = 0; i < D; ++i) b[i] = 0.5f * (a[i] + b[i]);
    return b;
  }

  static Row Times(const Matrix& transposed, Row x) {
    Row sum = x[0] * transposed[0];
    for (int k = 1; k < D; ++k) sum += x[k] * transposed[k];
    return sum;
  }

  // sum + a b
  static Matrix Product(const Matrix& a, const Matrix& b, Matrix sum = {}) {
    for (int i = 0; i < D; ++i) {
      for (int k = 0; k < D; ++k) sum[i] += a[i][k] * b[k];
    }
    return sum;
  }

  // sum + a' b
  static Matrix TransposedProduct(const Matrix& a, const Matrix& b, Matrix sum = {}) {
    for (int k = 0; k < D; ++k) {
      for (int i = 0; i < D; ++i) sum[i] += a[k][i] * b[k];
    }
    return sum;
  }

  static Mask At(int i) {
    Mask mask = {};
    mask[i] = -1;
    return mask;
  }

  // See LanesSmoother::Condition.
  Moments Condition(const Moments& prior, Row h, Row J) {
    const Row pull = h - J * prior.mean, unit = Row{} + 1.0f;
    double determinant = 1.0;
    Matrix cov = prior.cov;
#pragma GCC unroll 8
    for (int i = 0; i < D; ++i) {
      const float spread = 1.0f + J[i] * cov[i][i], inverse = 1.0f / spread;
      determinant *= spread;
      const Row row = cov[i], scaled = row * (J[i] * inverse);
      const Row others = At(i) ? Row{} : scaled;
      const Row column = At(i) ? unit * inverse : unit;
#pragma GCC unroll 8
      for (int a = 0; a < D; ++a) {
        if (a != i) cov[a] = cov[a] * column - cov[a][i] * others;
      }
      cov[i] = row * inverse;
    }
    cov = Symmetrize(cov);
    const Row mean = prior.mean + Times(cov, pull);
    const Row terms = h * prior.mean + pull * mean;
    for (int i = 0; i < D; ++i) log_normalizer_ += 0.5 * terms[i];
    log_normalizer_ -= 0.5 * std::log(determinant);
    return {mean, cov};
  }

  // N(A m, A P A' + Q), with A P.
  Moments Predict(const Moments& state, Matrix& cross) const {
    cross = Product(matrix_, state.cov);
    return {Times(transposed_, state.mean),
            Symmetrize(Product(cross, transposed_, noise_))};
  }

  // cov^-1 right, by Gauss-Jordan elimination.
  static Matrix Solve(const Matrix& cov, Matrix right) {
    Matrix rest = cov;
#pragma GCC unroll 8
    for (int k = 0; k < D; ++k) {
      const float floor = cov[k][k] * FLT_EPSILON + FLT_MIN;
      const float inverse = 1.0f / std::max(rest[k][k], floor);
      rest[k] *= inverse;
      right[k] *= inverse;
#pragma GCC unroll 8
      for (int a = 0; a < D; ++a) {
        if (a == k) continue;
        const float factor = rest[a][k];
        rest[a] -= factor * rest[k];
        right[a] -= factor * right[k];
      }
    }
    return right;
  }

  int64_t Place(int64_t t) const { return chain_ * p_.steps + t; }

  Row* Kept(int64_t t) const {
    return reinterpret_cast<Row*>(p_.kept) + Place(t) * kKept;
  }

  void Keep(const Moments& state, int64_t t) const {
    Row* kept = Kept(t);
    for (int i = 0; i < D; ++i) kept[i] = state.cov[i];
    kept[D] = state.mean;
  }

  Moments Recall(int64_t t) const {
    const Row* kept = Kept(t);
    Moments state = {kept[D], {}};
    for (int i = 0; i < D; ++i) state.cov[i] = kept[i];
    return state;
  }

  void Forwards() {
    Matrix cross;
    Moments state = {ReadRow(p_.initial_mean), ReadMatrix(p_.initial_cov)};
    for (int64_t t = 0; t < p_.steps; ++t) {
      const Row h = ReadRow(p_.h + Place(t) * D), J = ReadRow(p_.J + Place(t) * D);
      state = Condition(state, h, J > 0.0f ? J : Row{});
      Keep(state, t);
      state = Predict(state, cross);
    }
    p_.log_normalizer[chain_] = log_normalizer_;
  }

  // See LanesSmoother::Back.
  Moments Back(const Moments& later, int64_t t) const {
    Matrix cross;
    const Moments state = Recall(t), ahead = Predict(state, cross);
    const Matrix back = Solve(ahead.cov, cross);  // G'
    Matrix rest = Product(transposed_, back);
    for (int i = 0; i < D; ++i) rest[i] = (At(i) ? Row{} + 1.0f : Row{}) - rest[i];
    Matrix cov = TransposedProduct(rest, Product(state.cov, rest));
    cov = TransposedProduct(back, Product(noise_, back), cov);
    cross = TransposedProduct(back, later.cov);
    WriteMatrix(cross, p_.cross + (chain_ * (p_.steps - 1) + t) * D * D);
    return {state.mean + Times(back, later.mean - ahead.mean),
            Symmetrize(Product(cross, back, cov))};
  }

  void Write(const Moments& state, int64_t t) const {
    std::memcpy(p_.mean + Place(t) * D, &state.mean, 4 * D);
    WriteMatrix(state.cov, p_.cov + Place(t) * D * D);
  }

  void Backwards() const {
    Moments state = Recall(p_.steps - 1);
    Write(state, p_.steps - 1);
    for (int64_t t = p_.steps - 2; t >= 0; --t) {
      state = Back(state, t);
      Write(state, t);
    }
  }

  const Problem& p_;
  const int64_t chain_;
  const Matrix matrix_, transposed_, noise_;
  double log_normalizer_ = 0.0;
};

}  // namespace chain
