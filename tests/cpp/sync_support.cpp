#include "tests/cpp/sync_support.h"

#include <cstdlib>
#include <sstream>

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/cpp/train_support.h"

extern char** environ;  // NOLINT

namespace iabn::test {

std::string told(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

bool on_gpus() { return told("IABN_TEST_DEVICE") == "cuda"; }

torch::Device device_of(const train::World& world) {
  return on_gpus() ? torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(world.local_rank)) : torch::kCPU;
}

bool can_run(int64_t ranks) { return !on_gpus() || static_cast<int64_t>(torch::cuda::device_count()) >= ranks; }

std::vector<int64_t> parts(const std::string& text) {
  std::vector<int64_t> result;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');) result.push_back(std::stoll(word));
  return result;
}

torch::Tensor own_part(const torch::Tensor& whole, const train::World& world) {
  const auto sizes = parts(told("IABN_TEST_PARTS"));
  int64_t begin = 0;
  for (int rank = 0; rank < world.rank; ++rank) begin += sizes[static_cast<size_t>(rank)];
  return whole.slice(0, begin, begin + sizes[static_cast<size_t>(world.rank)]).clone().to(device_of(world));
}

std::vector<std::vector<torch::Tensor>> results(const std::filesystem::path& folder, size_t ranks) {
  std::vector<std::vector<torch::Tensor>> all(ranks);
  for (size_t rank = 0; rank < ranks; ++rank) torch::load(all[rank], (folder / std::to_string(rank)).string());
  return all;
}

namespace {

int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ::bind(socket, reinterpret_cast<sockaddr*>(&address), size);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(socket);
  return ntohs(address.sin_port);
}

}  // namespace

Job run(const std::string& worker, const std::string& part_sizes, const std::string& argument) {
  const int ranks = static_cast<int>(parts(part_sizes).size()), port = free_port();
  TemporaryFolder folder("sync_output");
  std::vector<pid_t> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto set = [](const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); };
    set("IABN_TEST_WORKER", worker);
    set("IABN_TEST_PARTS", part_sizes);
    set("IABN_TEST_ARGUMENT", argument);
    set("RANK", std::to_string(rank));
    set("LOCAL_RANK", std::to_string(rank));
    set("WORLD_SIZE", std::to_string(ranks));
    set("MASTER_ADDR", "127.0.0.1");
    set("MASTER_PORT", std::to_string(port));
    set("OMP_NUM_THREADS", "1");
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    const std::string path = (folder.path() / std::to_string(rank)).string();
    ::posix_spawn_file_actions_addopen(&actions, 1, path.c_str(), O_WRONLY | O_CREAT, 0600);
    ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
    std::string self = "/proc/self/exe";
    char* arguments[] = {self.data(), nullptr};
    pid_t process = 0;
    EXPECT_EQ(::posix_spawn(&process, self.c_str(), &actions, nullptr, arguments, environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
    processes.push_back(process);
  }
  Job job;
  for (int rank = 0; rank < ranks; ++rank) {
    int status = 0;
    ::waitpid(processes[static_cast<size_t>(rank)], &status, 0);
    job.codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    job.output += read_file(folder.path() / std::to_string(rank));
  }
  return job;
}

}  // namespace iabn::test
