#include "iabn/io/md5.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace iabn::io {
namespace {

using State = std::array<uint32_t, 4>;
constexpr size_t kBlock = 64;

// The RFC's table: the integer part of 2^32 |sin(i + 1)|.
std::array<uint32_t, 64> sines() {
  std::array<uint32_t, 64> table{};
  for (size_t i = 0; i < table.size(); ++i) {
    table[i] = static_cast<uint32_t>(std::floor(std::fabs(std::sin(static_cast<double>(i + 1))) * 4294967296.0));
  }
  return table;
}

void add_block(State& state, const uint8_t* bytes) {
  static const std::array<uint32_t, 64> kSines = sines();
  constexpr int kShifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};
  std::array<uint32_t, 16> words;
  std::memcpy(words.data(), bytes, kBlock);
  auto [a, b, c, d] = state;
  for (size_t i = 0; i < 64; ++i) {
    uint32_t mixed = 0;
    size_t word = i;
    switch (i / 16) {
      case 0:
        mixed = (b & c) | (~b & d);
        break;
      case 1:
        mixed = (d & b) | (~d & c);
        word = 5 * i + 1;
        break;
      case 2:
        mixed = b ^ c ^ d;
        word = 3 * i + 5;
        break;
      default:
        mixed = c ^ (b | ~d);
        word = 7 * i;
        break;
    }
    const uint32_t rotated = std::rotl(a + mixed + kSines[i] + words[word % 16], kShifts[i / 16][i % 4]);
    a = d;
    d = c;
    c = b;
    b += rotated;
  }
  state = {state[0] + a, state[1] + b, state[2] + c, state[3] + d};
}

}  // namespace

std::string md5(ByteSpan bytes) {
  State state{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
  const size_t whole = bytes.size() / kBlock * kBlock;
  for (size_t i = 0; i < whole; i += kBlock) add_block(state, bytes.data() + i);
  // The rest, a bit 1, zeros, and the length in bits.
  std::array<uint8_t, 2 * kBlock> last{};
  const size_t rest = bytes.size() - whole;
  if (rest > 0) std::memcpy(last.data(), bytes.data() + whole, rest);
  last[rest] = 0x80;
  const size_t padded = rest + 9 <= kBlock ? kBlock : 2 * kBlock;
  const uint64_t bits = uint64_t{bytes.size()} * 8;
  std::memcpy(last.data() + padded - 8, &bits, 8);
  for (size_t i = 0; i < padded; i += kBlock) add_block(state, last.data() + i);

  constexpr const char* kDigits = "0123456789abcdef";
  std::string result;
  for (const uint32_t word : state) {
    for (int shift = 0; shift < 32; shift += 8) {
      result += kDigits[word >> (shift + 4) & 15];
      result += kDigits[word >> shift & 15];
    }
  }
  return result;
}

}  // namespace iabn::io
