#include "iabn/io/text.h"

namespace iabn::io {

std::string printable(std::string_view text, size_t longest) {
  std::string result(text.substr(0, longest));
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < ' ' || c == 127) c = '?';
  }
  return result + (text.size() > longest ? "..." : "");
}

}  // namespace iabn::io
