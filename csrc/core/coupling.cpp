// Wu, Lin and Weng, "Probability estimates for multi-class classification by pairwise coupling" (2004), second method, with libsvm's
// iteration and its limits. Rows go kLanes at a time; a row that has converged stands still while the others go on, so each gets what it
// would get alone.
#include "core/coupling.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace ptrt {
namespace {

constexpr int kLanes = 8;
using Lanes = double[kLanes];

struct Block {
  explicit Block(int64_t classes) : n(classes), memory(static_cast<size_t>(classes * classes + 3 * classes) * kLanes) {
    q = reinterpret_cast<Lanes*>(memory.data());
    p = q + n * n;
    qp = p + n;
    inverse = qp + n;
  }

  // From the pairwise probabilities r, where r[i * n + j][l] is that of i against j in lane l, stored in q.
  void prepare() {
    for (int64_t i = 0; i < n; i++) {
      Lanes& d = q[i * n + i];
      for (int l = 0; l < kLanes; l++) d[l] = 0;
      for (int64_t j = 0; j < n; j++)
        if (j != i)
          for (int l = 0; l < kLanes; l++) d[l] += q[j * n + i][l] * q[j * n + i][l];
    }
    for (int64_t i = 0; i < n; i++)
      for (int64_t j = i + 1; j < n; j++)
        for (int l = 0; l < kLanes; l++) q[i * n + j][l] = q[j * n + i][l] = -q[i * n + j][l] * q[j * n + i][l];
    for (int64_t i = 0; i < n; i++)
      for (int l = 0; l < kLanes; l++) {
        p[i][l] = 1.0 / static_cast<double>(n);
        inverse[i][l] = 1 / q[i * n + i][l];
      }
  }

  void iterate() {
    const double limit = 0.005 / static_cast<double>(n);
    for (int64_t round = std::max<int64_t>(100, n); round > 0; round--) {
      Lanes total = {}, worst = {}, moves;
      for (int64_t i = 0; i < n; i++) {
        Lanes sum = {};
        for (int64_t j = 0; j < n; j++)
          for (int l = 0; l < kLanes; l++) sum[l] += q[i * n + j][l] * p[j][l];
        for (int l = 0; l < kLanes; l++) {
          qp[i][l] = sum[l];
          total[l] += p[i][l] * sum[l];
        }
      }
      for (int64_t i = 0; i < n; i++)
        for (int l = 0; l < kLanes; l++) {
          const double error = std::fabs(qp[i][l] - total[l]);
          worst[l] = error > worst[l] || error != error ? error : worst[l];
        }
      bool all = true;
      for (int l = 0; l < kLanes; l++) {
        moves[l] = worst[l] < limit ? 0 : 1;
        all = all && moves[l] == 0;
      }
      if (all) return;
      for (int64_t i = 0; i < n; i++) {
        Lanes step, scale;
        for (int l = 0; l < kLanes; l++) {
          step[l] = moves[l] != 0 ? (total[l] - qp[i][l]) * inverse[i][l] : 0;
          scale[l] = 1 / (1 + step[l]);
          p[i][l] += step[l];
          total[l] = (total[l] + step[l] * (step[l] * q[i * n + i][l] + 2 * qp[i][l])) * scale[l] * scale[l];
        }
        for (int64_t j = 0; j < n; j++)
          for (int l = 0; l < kLanes; l++) {
            qp[j][l] = (qp[j][l] + step[l] * q[i * n + j][l]) * scale[l];
            p[j][l] *= scale[l];
          }
      }
    }
  }

  int64_t n;
  std::vector<double> memory;
  Lanes *q, *p, *qp, *inverse;
};

}  // namespace

void couple(const float* scores, const double* a, const double* b, int64_t rows, int64_t classes, float* out) {
  const int64_t pairs = classes * (classes - 1) / 2;
  Block block(classes);
  for (int64_t first = 0; first < rows; first += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, rows - first));
    int64_t k = 0;
    for (int64_t i = 0; i < classes; i++)
      for (int64_t j = i + 1; j < classes; j++, k++)
        for (int l = 0; l < kLanes; l++) {
          double& r = block.q[i * classes + j][l];
          if (l < count) {
            const double score = scores[(first + l) * pairs + k];
            r = std::min(std::max(1 / (1 + std::exp(score * a[k] + b[k])), 1e-7), 1 - 1e-7);
          } else {  // lanes without a row repeat the first one
            r = block.q[i * classes + j][0];
          }
          block.q[j * classes + i][l] = 1 - r;
        }
    block.prepare();
    block.iterate();
    for (int l = 0; l < count; l++)
      for (int64_t i = 0; i < classes; i++) out[(first + l) * classes + i] = static_cast<float>(block.p[i][l]);
  }
}

}  // namespace ptrt
