// The program as a user meets it: exit codes, messages, interruption, a full disk.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "iabn/train/csv_log.h"
#include "tests/cpp/train_support.h"

namespace iabn {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Program : public testing::Test {
 protected:
  Program() : folder_("cli_test") {
    data_ = (folder_.path() / "data").string();
    config_ = (folder_.path() / "config.json").string();
    test::write_idx_dataset(data_, 3200, 64);
    train::Config config = test::small_config("inplace");
    config.optimizer.schedule.epochs = 2;
    std::ofstream(config_) << to_json(config).dump();
  }

  // Starts IABN_PROGRAM with stdout and stderr in files; `limit` is the shell's `ulimit -f` (512-byte blocks), or "".
  pid_t start(const std::vector<std::string>& arguments, const std::string& limit = "") const {
    fs::remove(out());  // wait_for must not see the text of the run before
    const pid_t child = ::fork();
    if (child != 0) return child;
    ::close(1);
    ::open(out().c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::close(2);
    ::open(err().c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    // An ignored SIGXFSZ makes a file over the limit an error of write, as on a full disk.
    const std::string script = (limit.empty() ? "" : "trap '' XFSZ; ulimit -f " + limit + "; ") + "exec \"$0\" \"$@\"";
    std::vector<const char*> words{"sh", "-c", script.c_str(), IABN_PROGRAM};
    for (const auto& argument : arguments) words.push_back(argument.c_str());
    words.push_back(nullptr);
    ::execv("/bin/sh", const_cast<char* const*>(words.data()));
    ::_exit(127);
  }

  static int wait(pid_t child) {
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  int run(const std::vector<std::string>& arguments, const std::string& limit = "") const {
    return wait(start(arguments, limit));
  }

  std::vector<std::string> train(const std::string& log_dir, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{"train", config_,     data_, "--log-dir",         log_dir, "--device",
                                       "cpu",   "--threads", "1",   "--print-frequency", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }

  std::string path(const char* name) const { return (folder_.path() / name).string(); }
  std::string out() const { return path("stdout"); }
  std::string err() const { return path("stderr"); }
  std::string stdout_text() const { return test::read_file(out()); }
  std::string stderr_text() const { return test::read_file(err()); }

  // Waits until the running child has printed `text`.
  bool wait_for(const std::string& text) const {
    for (int i = 0; i < 6000; ++i) {
      if (stdout_text().find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  test::TemporaryFolder folder_;
  std::string data_, config_;
};

TEST_F(Program, ModelsListsWhatNetworksCost) {
  ASSERT_EQ(run({"models", "--input", "64"}), 0) << stderr_text();
  EXPECT_THAT(stdout_text(),
              AllOf(HasSubstr("\nwider_resnet38_a2 "), HasSubstr("\ndeeplab_v3 "), HasSubstr("input 64x64")));
  ASSERT_EQ(run({"models", "resnet50", "--batch", "2"}), 0) << stderr_text();
  // 25.557032 million parameters; 4.09 billion multiply-adds per image, whatever the batch.
  EXPECT_THAT(stdout_text(), HasSubstr("\nresnet50                  25.56       4.09 "));
  EXPECT_THAT(stdout_text(), Not(HasSubstr("resnet18")));
  EXPECT_EQ(run({"models", "resnet5"}), 2);
  EXPECT_THAT(stderr_text(), HasSubstr("unknown network \"resnet5\" (did you mean \"resnet50\"?); known: resnet18, "));
  EXPECT_EQ(run({"models", "--input", "8"}), 2);
}

TEST_F(Program, HelpAndVersionEverywhere) {
  for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{{},
                                                                                       {"train"},
                                                                                       {"validate"},
                                                                                       {"bench"},
                                                                                       {"bench", "layer"},
                                                                                       {"bench", "network"},
                                                                                       {"bench", "fit"},
                                                                                       {"bench", "loader"},
                                                                                       {"convert"},
                                                                                       {"predict"},
                                                                                       {"models"},
                                                                                       {"doctor"}}) {
    std::vector<std::string> arguments = command;
    arguments.push_back("--help");
    EXPECT_EQ(run(arguments), 0);
    EXPECT_THAT(stdout_text(), AllOf(HasSubstr("Usage: iabn"), HasSubstr("--help"), HasSubstr("Exit codes")));
    arguments.back() = "--version";
    EXPECT_EQ(run(arguments), 0);
    EXPECT_THAT(stdout_text(), testing::StartsWith("iabn "));
  }
}

TEST_F(Program, AWrongCommandLineIsExitCodeTwo) {
  EXPECT_EQ(run({"trian"}), 2);
  EXPECT_THAT(
      stderr_text(),
      HasSubstr(
          "unknown command \"trian\" (did you mean \"train\"?); commands: train, validate, predict, bench, convert, "));
  EXPECT_EQ(run({"train"}), 2);
  EXPECT_THAT(stderr_text(), AllOf(HasSubstr("CONFIG is required"), HasSubstr("see iabn train --help")));
  EXPECT_EQ(run({"bench", "layer", "--shapes", "32xx5"}), 2);
  EXPECT_THAT(stderr_text(), HasSubstr("\"32xx5\" is not a shape such as 32x64x56x56"));
  EXPECT_EQ(run({"train", config_, data_, "--device", "tpu"}), 2);
  EXPECT_THAT(stderr_text(), HasSubstr("--device must be auto, cpu, cuda or cuda:N, got \"tpu\""));
}

TEST_F(Program, OptionsAreNamedWithTheNearestAndWithTheirBounds) {
  const auto error = [&](const std::vector<std::string>& arguments) {
    EXPECT_EQ(run(arguments), 2);
    return stderr_text();
  };
  EXPECT_EQ(error(train(path("run"), {"--epoch", "3"})),
            "iabn: error: unknown option --epoch (did you mean --epochs?); see iabn train --help\n");
  EXPECT_EQ(error({"predict", "--scale=1"}),
            "iabn: error: unknown option --scale (did you mean --scales?); see iabn predict --help\n");
  EXPECT_EQ(error(train(path("run"), {"--zzzzzz"})), "iabn: error: unknown option --zzzzzz; see iabn train --help\n");
  EXPECT_EQ(error(train(path("run"), {"again"})),
            "iabn: error: unexpected argument \"again\"; see iabn train --help\n");
  EXPECT_EQ(error(train(path("run"), {"--epochs", "0"})),
            "iabn: error: --epochs: must be at least 1, got 0; see iabn train --help\n");
  EXPECT_THAT(error(train(path("run"), {"--workers", "-1"})), HasSubstr("--workers: must be at least 0, got -1;"));
  EXPECT_THAT(error({"validate", config_, path("x"), data_, "--batch-size", "0"}),
              HasSubstr("must be at least 1, got 0"));
  for (const char* memory : {"0", "inf", "nan", "much"}) {
    EXPECT_THAT(error({"bench", "fit", config_, "--memory", memory}),
                HasSubstr(std::string("--memory: must be above 0, got ") + memory));
  }
}

TEST_F(Program, AWrongConfigurationIsExitCodeTwoAndNamesFileAndKey) {
  std::ofstream(path("bad.json")) << R"({"network": {"arch": "preact_resnet8", "actvation": "relu"}})";
  EXPECT_EQ(run({"train", path("bad.json"), data_}), 2);
  EXPECT_THAT(stderr_text(), AllOf(HasSubstr("bad.json: network.actvation: unknown key"), HasSubstr("\"activation\"")));
  for (const auto& [text, key] :
       {std::pair{R"({"optimizer": {"lr": 1}})", "optimizer.lr: unknown key (did you mean \"learning_rate\"?)"},
        {R"({"lerning_rate": 1})", "lerning_rate: unknown key (did you mean \"optimizer.learning_rate\"?)"},
        {R"({"optimizer": {"schedule": {"gamma": 1}}})", "(did you mean \"optimizer.schedule.params.gamma\"?)"},
        {R"({"input": {"classes": 3}})", "(did you mean \"network.classes\"?)"}}) {
    std::ofstream(path("bad.json")) << text;
    EXPECT_EQ(run({"train", path("bad.json"), data_}), 2);
    EXPECT_THAT(stderr_text(), HasSubstr(key));
  }
  EXPECT_EQ(run({"train", path("missing.json"), data_}), 2);
  EXPECT_THAT(stderr_text(), HasSubstr("missing.json: cannot be opened: No such file"));
  EXPECT_EQ(run({"train", folder_.path(), data_}), 2);
  EXPECT_THAT(stderr_text(), HasSubstr("is a folder; expected a configuration file"));
}

TEST_F(Program, ABatchOfMoreImagesThanThereAreIsAnErrorOfTheConfiguration) {
  test::write_idx_dataset(data_, 15, 64);
  EXPECT_EQ(run(train(path("run"))), 2);
  EXPECT_THAT(stderr_text(), AllOf(HasSubstr("optimizer.batch_size: must be at most the number of training images"),
                                   HasSubstr("15 in " + data_ + ", got 16")));
}

TEST_F(Program, ACompleteRunHasNothingToDoAndSaysSo) {
  ASSERT_EQ(run(train(path("run"))), 0) << stderr_text();
  for (const char* epochs : {"2", "1"}) {
    ASSERT_EQ(run(train(path("run"), {"--resume", "auto", "--epochs", epochs})), 0) << stderr_text();
    EXPECT_THAT(stdout_text(), AllOf(HasSubstr(std::string("nothing to do: 2 of ") + epochs + " epochs are done; give"),
                                     Not(HasSubstr("done; weights"))));
  }
}

TEST_F(Program, AMissingDataFolderIsExitCodeOneWithoutABacktrace) {
  EXPECT_EQ(run({"train", config_, path("nothing"), "--log-dir", path("run")}), 1);
  EXPECT_THAT(stderr_text(), AllOf(HasSubstr("iabn: error: "), HasSubstr(path("nothing")), Not(HasSubstr("frame #"))));
}

TEST_F(Program, InterruptionSavesAndTheResumedRunIsTheSame) {
  ASSERT_EQ(run(train(path("straight"))), 0) << stderr_text();
  for (const auto& [signal, code, when] :
       {std::tuple{SIGINT, 130, "epoch 1/2 20/"}, std::tuple{SIGTERM, 143, "epoch 2/2 20/"}}) {
    SCOPED_TRACE(when);
    const std::string log_dir = path(signal == SIGINT ? "int" : "term");
    const pid_t child = start(train(log_dir));
    EXPECT_TRUE(wait_for(when));
    ::kill(child, signal);
    ASSERT_EQ(wait(child), code) << stderr_text();
    EXPECT_THAT(stderr_text(), AllOf(HasSubstr("the state is saved"), HasSubstr("--resume " + log_dir),
                                     HasSubstr(" --device cpu --threads 1")));
    ASSERT_EQ(run(train(log_dir, {"--resume", log_dir + "/checkpoint.pth.tar"})), 0) << stderr_text();
    EXPECT_THAT(stdout_text(), HasSubstr("continuing after epoch "));
    test::expect_same_snapshot(path("straight") + "/checkpoint.pth.tar", log_dir + "/checkpoint.pth.tar");
    EXPECT_EQ(test::log_without_seconds(path("straight")), test::log_without_seconds(log_dir));
  }
}

TEST_F(Program, AFullDiskIsAnErrorAndTheOldSnapshotSurvives) {
  ASSERT_EQ(run(train(path("run"), {"--epochs", "1"})), 0) << stderr_text();
  const std::string checkpoint = path("run") + "/checkpoint.pth.tar";
  const std::string before = test::read_file(checkpoint);
  EXPECT_EQ(run(train(path("run"), {"--resume", checkpoint}), "40"), 1);
  EXPECT_THAT(stderr_text(), AllOf(HasSubstr("cannot write " + checkpoint + ": writing: File too large"),
                                   HasSubstr("the file that was there is unchanged")));
  EXPECT_EQ(test::read_file(checkpoint), before);
}

TEST_F(Program, BenchNetworkWritesItsFiguresBesideTheAccuracyOfTheRun) {
  ASSERT_EQ(run(train(path("run"), {"--epochs", "1"})), 0) << stderr_text();
  std::ofstream(path("result.json")) << R"({"kept": 1})";
  ASSERT_EQ(run({"bench", "network", config_, "--steps", "2", "--device", "cpu", "--accuracy-from", path("run"),
                 "--result", path("result.json")}),
            0)
      << stderr_text();
  EXPECT_THAT(stdout_text(), HasSubstr("activations held after forward"));
  const auto result = nlohmann::json::parse(test::read_file(path("result.json")));
  EXPECT_EQ(result.at("kept"), 1);
  EXPECT_NEAR(result.at("test_accuracy").get<double>() * 100,
              train::last_validation_accuracy(fs::path(path("run")) / "log.csv"), 1e-9);
  EXPECT_GT(result.at("held_bytes_standard"), result.at("held_bytes_inplace"));
  for (const char* key :
       {"held_bytes_inplace", "peak_bytes_standard", "peak_bytes_inplace", "step_ms_standard", "step_ms_inplace"}) {
    EXPECT_GT(result.at(key), 0) << key;
  }
  EXPECT_THAT(result.at("device").get<std::string>(), testing::StartsWith("cpu"));
}

TEST_F(Program, BenchFitFindsMoreInPlaceAndNothingInTooSmallABudget) {
  const auto fit = [&](const char* memory) {
    return run({"bench", "fit", config_, "--memory", memory, "--crop", "32", "--batch-size", "2", "--device", "cpu",
                "--csv", path("rows.csv")});
  };
  ASSERT_EQ(fit("0.0078125"), 0) << stderr_text();  // 8 MiB
  std::istringstream rows(test::read_file(path("rows.csv")));
  std::string line;
  std::getline(rows, line);
  std::vector<double> found;  // batch and crop, standard and then in place
  while (std::getline(rows, line)) {
    EXPECT_THAT(line, testing::StartsWith("fit in 0.0078125 GiB,preact_resnet8 "));
    std::istringstream columns(line);
    std::string column;
    for (int i = 0; i < 8; ++i) std::getline(columns, column, ',');
    found.push_back(std::stod(column));
  }
  ASSERT_EQ(found.size(), 4u);
  EXPECT_GT(found[0], 1);
  EXPECT_GT(found[2], found[0]);
  EXPECT_GE(found[3], found[1]);
  std::ostringstream pixels;  // of both sides, squared
  pixels << "its pixels +" << found[1] * found[1] << " +" << found[3] * found[3] << " ";
  EXPECT_THAT(stdout_text(), testing::ContainsRegex(pixels.str()));
  ASSERT_EQ(fit("0.0001"), 0) << stderr_text();
  EXPECT_THAT(stdout_text(), testing::ContainsRegex("batch of crops of 32 +0 +0 "));
}

TEST_F(Program, BenchLayerWritesRowsOfTheAgreedColumns) {
  ASSERT_EQ(
      run({"bench", "layer", "--shapes", "4x8x6x6", "--rounds", "2", "--device", "cpu", "--csv", path("rows.csv")}), 0)
      << stderr_text();
  std::istringstream rows(test::read_file(path("rows.csv")));
  std::string line;
  std::getline(rows, line);
  EXPECT_EQ(line, "case,variant,shape,dtype,layout,pass,metric,p20,p50,p80,unit,gpu,driver,torch,git_sha,date");
  int count = 0;
  for (; std::getline(rows, line); ++count) EXPECT_EQ(std::count(line.begin(), line.end(), ','), 15) << line;
  EXPECT_EQ(count, 4 * 2 * (3 * 3 + 2));  // dtype x layout, variants, passes x metrics, two of memory
}

TEST_F(Program, BenchLoaderWritesRowsForEveryNumberOfWorkers) {
  ASSERT_EQ(run({"bench", "loader", data_, "--workers", "0,2", "--crop", "8", "--batch-size", "64", "--rounds", "2",
                 "--jitter", "--channels-last", "--csv", path("rows.csv")}),
            0)
      << stderr_text();
  EXPECT_THAT(stdout_text(), AllOf(HasSubstr("3200 images"), HasSubstr("0 workers: "), HasSubstr("2 workers: ")));
  const std::string rows = test::read_file(path("rows.csv"));
  for (const char* row : {"speed", "cpu"}) {
    const std::string start = "loader,iabn,64x3x8x8,float32,channels_last,crop_flip_jitter_lighting,";
    EXPECT_THAT(rows, HasSubstr(start + row)) << row;
  }
  EXPECT_THAT(rows, AllOf(HasSubstr("(0 workers)"), HasSubstr("(2 workers)")));
  EXPECT_EQ(std::count(rows.begin(), rows.end(), '\n'), 5);
  EXPECT_EQ(run({"bench", "loader", path("nothing")}), 1);
  EXPECT_THAT(stderr_text(), HasSubstr(path("nothing") + ": expected a folder, got none"));
}

TEST_F(Program, BenchLayerMeasuresTheShapesOfATableOnceAndWeighsThemByCount) {
  std::ofstream(path("layers.csv")) << "# comment\nnetwork,shape,count\n\na,4x8x6x6,2\na,2x8x4x4x4,1\nb,4x8x6x6,5\n";
  const std::vector<std::string> command{"bench",     "layer",      "--device", "cpu",
                                         "--rounds",  "1",          "--dtypes", "float32",
                                         "--layouts", "contiguous", "--table",  path("layers.csv")};
  std::vector<std::string> arguments = command;
  arguments.insert(arguments.end(), {"--csv", path("rows.csv")});
  ASSERT_EQ(run(arguments), 0) << stderr_text();
  EXPECT_THAT(stdout_text(), AllOf(HasSubstr("== a float32 contiguous: 3 layers of 2 shapes"), HasSubstr("GB/s"),
                                   HasSubstr("== b float32 contiguous: 5 layers of 1 shapes"),
                                   HasSubstr("largest shares of iabn's time: 5 x [4x8x6x6] 100 %")));
  const std::string rows = test::read_file(path("rows.csv"));
  EXPECT_EQ(std::count(rows.begin(), rows.end(), '\n'), 1 + 2 * 2 * (3 * 3 + 2));  // header, shapes x variants x rows
  arguments = command;
  arguments.insert(arguments.end(), {"--networks", "b"});
  ASSERT_EQ(run(arguments), 0) << stderr_text();
  EXPECT_THAT(stdout_text(), AllOf(HasSubstr("== b float32"), Not(HasSubstr("== a")), Not(HasSubstr("2x8x4x4x4"))));
}

TEST_F(Program, BenchLayerNamesTheLineOfATableThatItCannotRead) {
  const auto bench = [&](const std::string& text, const std::vector<std::string>& more = {}) {
    std::ofstream(path("layers.csv")) << text;
    std::vector<std::string> arguments{"bench", "layer", "--device", "cpu", "--table", path("layers.csv")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  };
  for (const char* row : {"a,4x8x6x6", "a,4xx8,1", "a,4,1", "a,,1", "a,4x8x6x6,0", "a,4x8x6x6,1x", "a,4x8x6x6,1,2",
                          ",4x8x6x6,1", "nothing"}) {
    EXPECT_EQ(bench(std::string("# comment\nnetwork,shape,count\n") + row + "\n"), 1) << row;
    EXPECT_THAT(stderr_text(), HasSubstr(std::string("layers.csv:3: expected a row such as resnet50,128x64x112x112,1, "
                                                     "got \"") +
                                         row + "\""));
  }
  EXPECT_EQ(bench("a,4x8x6x6,1\n"), 1);
  EXPECT_THAT(stderr_text(), HasSubstr("layers.csv:1: expected network,shape,count, got \"a,4x8x6x6,1\""));
  EXPECT_EQ(bench("network,shape,count\n"), 1);
  EXPECT_THAT(stderr_text(), HasSubstr("layers.csv has no rows"));
  EXPECT_EQ(bench("network,shape,count\nbig,4x8,1\nwide,4x8,1\n", {"--networks", "bigg"}), 2);
  EXPECT_THAT(stderr_text(), AllOf(HasSubstr("--networks: unknown network \"bigg\" (did you mean \"big\"?)"),
                                   HasSubstr("layers.csv has big, wide")));
  EXPECT_EQ(bench("", {"--shapes", "4x8x6x6"}), 2);
  EXPECT_THAT(stderr_text(), HasSubstr("--shapes excludes --table"));
  EXPECT_EQ(run({"bench", "layer", "--networks", "a"}), 2);
  EXPECT_THAT(stderr_text(), HasSubstr("--networks requires --table"));
  EXPECT_EQ(run({"bench", "layer", "--table", path("nothing.csv")}), 1);
  EXPECT_THAT(stderr_text(), AllOf(HasSubstr("--table: cannot read"), HasSubstr("nothing.csv: No such file")));
}

TEST_F(Program, BenchRefusesAResultThatCannotBeWrittenBeforeMeasuring) {
  EXPECT_EQ(run({"bench", "layer", "--device", "cpu", "--csv", path("missing") + "/rows.csv"}), 1);
  EXPECT_THAT(stderr_text(), HasSubstr("missing/rows.csv: creating a temporary file beside it: No such"));
  EXPECT_EQ(run({"bench", "network", config_, "--device", "cpu", "--result", folder_.path().string()}), 1);
  EXPECT_THAT(stderr_text(), HasSubstr("is not a regular file but a folder"));
  EXPECT_THAT(stdout_text(), Not(HasSubstr("activations held")));
}

TEST_F(Program, DoctorTestsTheLayer) {
  EXPECT_EQ(run({"doctor"}), 0) << stdout_text();
  EXPECT_THAT(stdout_text(),
              AllOf(HasSubstr("self-test cpu      passed"), HasSubstr("LibTorch"), HasSubstr("libiabn_ops.so")));
}

}  // namespace
}  // namespace iabn
