#pragma once

// Class names of an image folder, beside the weights that were trained with them: a label is a name's place in the
// list, so a folder whose names differ may mean other classes by the same labels.

#include <string>
#include <vector>

namespace iabn::train {

/// As snapshots hold them: a JSON list. Bytes that are no UTF-8 are replaced, for torch.load reads text alone.
std::string class_names_text(const std::vector<std::string>& names);

/// One text per label whose class differs, `label 0 is "cat" there, "dog" here`, of two class_names_text().
std::vector<std::string> class_differences(const std::string& there, const std::string& here);

/// Text of an error for such differences, in a line, that `option` would pass over.
std::string other_classes(const std::string& differences, const std::string& option);

}  // namespace iabn::train
