#pragma once

// "Did you mean ...?": the known name closest to a mistyped one.

#include <string>
#include <vector>

namespace iabn {

/// The entry of `known` with the smallest edit distance to `name` (insert, delete, replace, swap of neighbours each
/// cost 1; case is ignored), or "" where none is close enough to be a plausible typing error (more than half the
/// characters differ).
std::string nearest(const std::string& name, const std::vector<std::string>& known);

/// The names in one line: "a, b, c".
std::string join(const std::vector<std::string>& names);

/// ` (did you mean "x"?)` or "" where nothing is near: made to end an error message.
std::string did_you_mean(const std::string& name, const std::vector<std::string>& known);

}  // namespace iabn
