#pragma once

// What `iabn convert --list` prints.

#include <ostream>
#include <string>

#include "iabn/io/checkpoint.h"
#include "iabn/io/published.h"

namespace iabn::cli {

/// The model that the file is, with its results; "" where it is none of the published ones.
std::string describe_published(const io::PublishedModel* model);

/// A line per value with its key, type, shape and what is notable, then sums and checks.
void print_checkpoint(std::ostream& out, const std::string& name, io::Checkpoint& checkpoint, double eps);

}  // namespace iabn::cli
