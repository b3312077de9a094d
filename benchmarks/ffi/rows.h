// Copyright Contributors to the numpyro_svae project.
// SPDX-License-Identifier: Apache-2.0

// One chain alone: a row of a matrix is a vector. Steps are taken in order.

#pragma once

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
    Row row[kRow];  // rows past the end are read by Transpose only

    Row& operator[](int i) { return row[i]; }
    const Row& operator[](int i) const { return row[i]; }
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
  void Condition(Row h, Row J) {
    const Row pull = h - J * mean_;
    Row terms = h * mean_;
    double determinant = 1.0;
    for (int i = 0; i < D; ++i) {
      const float spread = 1.0f + J[i] * cov_[i][i], inverse = 1.0f / spread;
      determinant *= spread;
      const Row row = cov_[i], unit = Row{} + 1.0f, scaled = row * (J[i] * inverse);
      const Row others = At(i) ? Row{} : scaled;
      const Row column = At(i) ? unit * inverse : unit;
      for (int a = 0; a < D; ++a) {
        if (a != i) cov_[a] = cov_[a] * column - cov_[a][i] * others;
      }
      cov_[i] = row * inverse;
    }
    cov_ = Symmetrize(cov_);
    mean_ += Times(cov_, pull);
    terms += pull * mean_;
    for (int i = 0; i < D; ++i) log_normalizer_ += 0.5 * terms[i];
    log_normalizer_ -= 0.5 * std::log(determinant);
  }

  // cross_ = A P, next_ = A P A' + Q and ahead_ = A m.
  void Predict() {
    cross_ = Product(matrix_, cov_);
    next_ = Symmetrize(Product(cross_, transposed_, noise_));
    ahead_ = Times(transposed_, mean_);
  }

  Row* Kept(int64_t t) const {
    return reinterpret_cast<Row*>(p_.kept) + Place(t) * kKept;
  }

  int64_t Place(int64_t t) const { return chain_ * p_.steps + t; }

  void Forwards() {
    mean_ = ReadRow(p_.initial_mean);
    cov_ = ReadMatrix(p_.initial_cov);
    for (int64_t t = 0; t < p_.steps; ++t) {
      const Row J = ReadRow(p_.J + Place(t) * D);
      Condition(ReadRow(p_.h + Place(t) * D), J > 0.0f ? J : Row{});
      Row* kept = Kept(t);
      for (int i = 0; i < D; ++i) kept[i] = cov_[i];
      kept[D] = mean_;
      Predict();
      mean_ = ahead_;
      cov_ = next_;
    }
    p_.log_normalizer[chain_] = log_normalizer_;
  }

  void Recall(int64_t t) {
    const Row* kept = Kept(t);
    for (int i = 0; i < D; ++i) cov_[i] = kept[i];
    mean_ = kept[D];
  }

  // cross_ = next_^-1 cross_, by Gauss-Jordan elimination.
  void Solve() {
    Row diagonal;
    for (int i = 0; i < D; ++i) diagonal[i] = next_[i][i];
    for (int k = 0; k < D; ++k) {
      const float floor = diagonal[k] * 1.1920929e-7f + 1.1754944e-38f;
      const float inverse = 1.0f / std::max(next_[k][k], floor);
      next_[k] *= inverse;
      cross_[k] *= inverse;
      for (int a = 0; a < D; ++a) {
        if (a == k) continue;
        const float factor = next_[a][k];
        next_[a] -= factor * next_[k];
        cross_[a] -= factor * cross_[k];
      }
    }
  }

  // See LanesSmoother::Back.
  void Back(int64_t t) {
    Recall(t);
    Predict();
    Solve();
    const Matrix back = cross_;  // G'
    Matrix rest = Product(transposed_, back);
    for (int i = 0; i < D; ++i) rest[i] = (At(i) ? Row{} + 1.0f : Row{}) - rest[i];
    Matrix cov = TransposedProduct(rest, Product(cov_, rest));
    cov = TransposedProduct(back, Product(noise_, back), cov);
    const Matrix cross = TransposedProduct(back, smooth_cov_);
    smooth_cov_ = Symmetrize(Product(cross, back, cov));
    smooth_mean_ = mean_ + Times(back, smooth_mean_ - ahead_);
    WriteMatrix(cross, p_.cross + (chain_ * (p_.steps - 1) + t) * D * D);
  }

  void Backwards() {
    const int64_t last = p_.steps - 1;
    Recall(last);
    smooth_mean_ = mean_;
    smooth_cov_ = cov_;
    for (int64_t t = last; t >= 0; --t) {
      if (t < last) Back(t);
      std::memcpy(p_.mean + Place(t) * D, &smooth_mean_, 4 * D);
      WriteMatrix(smooth_cov_, p_.cov + Place(t) * D * D);
    }
  }

  const Problem& p_;
  const int64_t chain_;
  const Matrix matrix_, transposed_, noise_;
  Row mean_, ahead_, smooth_mean_;
  Matrix cov_, cross_, next_, smooth_cov_;
  double log_normalizer_ = 0.0;
};

}  // namespace chain
