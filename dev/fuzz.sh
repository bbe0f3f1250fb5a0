#!/usr/bin/env bash
# fuzz.sh [SECONDS [FORMAT...]]: fuzzes the checkpoint readers with libFuzzer under the address and undefined-behaviour
# sanitizers, each format for SECONDS (default 15), one after the other. Fails where one finds something; the input is
# then in build/fuzz/findings. Needs clang with its runtime libraries (installed where missing, as root). What was
# learnt stays in build/fuzz/corpus, so that the next run goes on from there.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds=${1:-15}
shift || true
formats=("$@")
[ "$#" -gt 0 ] || formats=(pickle zip legacy safetensors)

has_fuzzer() {
  have clang++ && echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
    clang++ -fsanitize=fuzzer,address -x c++ - -o /dev/null 2>/dev/null
}

if ! has_fuzzer; then
  is_root || die "no clang++ with libFuzzer here. As root: apt-get install clang libclang-rt-dev"
  say "installing clang and libclang-rt-dev"
  apt_get install --yes --no-install-recommends clang libclang-rt-dev >"$CACHE/apt-fuzz.log" ||
    die "apt-get install clang libclang-rt-dev failed: see above and .cache/apt-fuzz.log"
  has_fuzzer || die "clang++ cannot link libFuzzer: see whether its version and that of libclang-rt-dev agree"
fi

dev/build.sh fuzz
mkdir -p build/fuzz/findings
python tests/fuzz/make_seeds.py build/fuzz/seeds
for format in "${formats[@]}"; do
  mkdir -p "build/fuzz/corpus/$format"
  options=(-max_total_time="$seconds" -max_len=4096 -timeout=10 -malloc_limit_mb=64 -rss_limit_mb=1024)
  options+=(-print_final_stats=1 -artifact_prefix="build/fuzz/findings/$format-")
  dictionary=tests/fuzz/$format.dict
  [ "$format" != legacy ] || dictionary=tests/fuzz/pickle.dict # pickles, one after the other
  options+=(-dict="$dictionary")
  log=build/fuzz/$format.log
  "build/fuzz/bin/${format}_fuzzer" "${options[@]}" "build/fuzz/corpus/$format" "build/fuzz/seeds/$format" >"$log" 2>&1 || {
    tail -n 60 "$log"
    die "the fuzzer of the format $format found something: see above; the input is in build/fuzz/findings"
  }
  awk -v format="$format" '/cov: /{for (i = 1; i < NF; i++) if ($i == "cov:") coverage = $(i + 1)}
    /number_of_executed_units/{runs = $2} /peak_rss_mb/{rss = $2}
    END {printf "== %s: %d executions, coverage %d edges, peak %d MB\n", format, runs, coverage, rss}' "$log"
done
