#pragma once

// MD5 (RFC 1321), by which published files are known. Tells files apart; says nothing about who made them.

#include <string>

#include "iabn/io/value.h"

namespace iabn::io {

/// 32 lower-case hexadecimal digits.
std::string md5(ByteSpan bytes);

}  // namespace iabn::io
