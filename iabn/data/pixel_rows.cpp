// Reads 3 bytes and writes 12 per pixel; the arithmetic of either change hides behind the stores. Compiled
// once per instruction set through Highway's foreach_target.h.

#include "iabn/data/pixel_rows.h"

#include "iabn/kernels/cpu/processor.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "iabn/data/pixel_rows.cpp"
#include "hwy/foreach_target.h"
// Highway's order: foreach_target.h comes first.
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace iabn::data::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Ints = hn::RebindToSigned<Floats>;
using Bytes = hn::Rebind<uint8_t, Floats>;
constexpr auto kLanes = static_cast<int64_t>(hn::MaxLanes(Floats()));

HWY_INLINE hn::Vec<Floats> to_float(hn::Vec<Bytes> bytes) {
  return hn::ConvertTo(Floats(), hn::PromoteTo(Ints(), bytes));
}

using Vector = hn::Vec<Floats>;

HWY_INLINE Vector change_channel(const Vector (&in)[3], size_t c, const ByteColors& colors) {
  const Floats d;
  const Vector red = hn::MulAdd(in[0], hn::Set(d, colors.matrix[c][0]), hn::Set(d, colors.shift[c]));
  const Vector green = hn::MulAdd(in[1], hn::Set(d, colors.matrix[c][1]), red);
  return hn::MulAdd(in[2], hn::Set(d, colors.matrix[c][2]), green);
}

HWY_INLINE Vector change_channel(const Vector (&in)[3], size_t c, const ByteScale& scale) {
  const Floats d;
  const Vector unit = hn::Div(in[c], hn::Set(d, 255.0f));
  return hn::Div(hn::Sub(unit, hn::Set(d, scale.mean[c])), hn::Set(d, scale.std[c]));
}

// kLanes pixels.
template <bool kMirrored, bool kPlanes, class Change>
HWY_INLINE void write_vector(const uint8_t* rgb, const Change& change, int64_t channel_stride, float* out) {
  const Floats d;
  hn::Vec<Bytes> bytes[3];
  hn::LoadInterleaved3(Bytes(), rgb, bytes[0], bytes[1], bytes[2]);
  const Vector in[3] = {to_float(bytes[0]), to_float(bytes[1]), to_float(bytes[2])};
  Vector result[3];
  for (size_t c = 0; c < 3; ++c) {
    result[c] = change_channel(in, c, change);
    if constexpr (kMirrored) result[c] = hn::Reverse(d, result[c]);
    if constexpr (kPlanes) hn::StoreU(result[c], d, out + static_cast<int64_t>(c) * channel_stride);
  }
  if constexpr (!kPlanes) hn::StoreInterleaved3(result[0], result[1], result[2], d, out);
}

template <bool kMirrored, bool kPlanes, class Change>
void write_row_as(const uint8_t* rgb, int64_t count, const Change& change, int64_t channel_stride, float* out) {
  constexpr int64_t kStep = kPlanes ? 1 : 3;
  // The last vector may overlap the one before; a row shorter than a vector goes through a copy.
  if (count < kLanes) {
    uint8_t bytes[3 * kLanes] = {};
    float values[3 * kLanes];
    const int64_t first = kMirrored ? kLanes - count : 0;  // where the row's first output pixel lands
    for (int64_t i = 0; i < 3 * count; ++i) bytes[i] = rgb[i];
    write_vector<kMirrored, kPlanes>(bytes, change, kLanes, values);
    for (int64_t x = 0; x < count; ++x) {
      for (int64_t c = 0; c < 3; ++c) {
        out[x * kStep + c * (kPlanes ? channel_stride : 1)] = values[(first + x) * kStep + c * (kPlanes ? kLanes : 1)];
      }
    }
    return;
  }
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t x = i + kLanes <= count ? i : count - kLanes;
    const int64_t from = kMirrored ? count - kLanes - x : x;
    write_vector<kMirrored, kPlanes>(rgb + 3 * from, change, channel_stride, out + x * kStep);
  }
}

template <class Change>
void write_row(const uint8_t* rgb, int64_t count, bool mirrored, const Change& change, int64_t channel_stride,
               float* out) {
  if (channel_stride > 0) {
    (mirrored ? write_row_as<true, true, Change> : write_row_as<false, true, Change>)(rgb, count, change,
                                                                                      channel_stride, out);
  } else {
    (mirrored ? write_row_as<true, false, Change> : write_row_as<false, false, Change>)(rgb, count, change,
                                                                                        channel_stride, out);
  }
}

void add_to(std::array<int64_t, 3>& sums, const uint8_t* rgb, int64_t count) {
  const hn::ScalableTag<uint8_t> d;
  const hn::ScalableTag<uint64_t> wide;
  constexpr auto kBytes = static_cast<int64_t>(hn::MaxLanes(d));
  auto red = hn::Zero(wide), green = red, blue = red;
  int64_t x = 0;
  for (; x + kBytes <= count; x += kBytes) {
    hn::Vec<decltype(d)> r, g, b;
    hn::LoadInterleaved3(d, rgb + 3 * x, r, g, b);
    red = hn::Add(red, hn::SumsOf8(r));
    green = hn::Add(green, hn::SumsOf8(g));
    blue = hn::Add(blue, hn::SumsOf8(b));
  }
  sums[0] += static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(wide, red)));
  sums[1] += static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(wide, green)));
  sums[2] += static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(wide, blue)));
  for (; x < count; ++x) {
    for (size_t c = 0; c < 3; ++c) sums[c] += rgb[3 * x + static_cast<int64_t>(c)];
  }
}

}  // namespace

PixelRows rows(const char* name) { return {name, write_row<ByteColors>, write_row<ByteScale>, add_to}; }

}  // namespace iabn::data::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace iabn::data {
namespace {

std::vector<PixelRows> make_tables() {
  using kernels::cpu::InstructionSet;
  std::vector<PixelRows> tables = {HWY_STATIC_DISPATCH(rows)("baseline")};
#if (HWY_TARGETS & HWY_SSE4) && HWY_STATIC_TARGET != HWY_SSE4
  if (processor_has(InstructionSet::kSSE4)) tables.push_back(N_SSE4::rows("sse4"));
#endif
#if (HWY_TARGETS & HWY_AVX2) && HWY_STATIC_TARGET != HWY_AVX2
  if (processor_has(InstructionSet::kAVX2)) tables.push_back(N_AVX2::rows("avx2"));
#endif
#if (HWY_TARGETS & HWY_AVX3) && HWY_STATIC_TARGET != HWY_AVX3
  if (processor_has(InstructionSet::kAVX512)) tables.push_back(N_AVX3::rows("avx512"));
#endif
  return tables;
}

}  // namespace

const std::vector<PixelRows>& supported_pixel_rows() {
  static const std::vector<PixelRows> tables = make_tables();
  return tables;
}

}  // namespace iabn::data

#endif  // HWY_ONCE
