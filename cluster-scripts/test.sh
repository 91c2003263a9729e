#!/usr/bin/env bash
# Tests gradwire: test.sh [all | fast | PART…]. docs/testing.md says what each part shows and how tests report skips.
#
# Needs a Rust toolchain and a C compiler. Asks nothing. Keeps each part's output in target/test-logs/PART.log and
# prints the end of it only when the part fails. The last line is the total: `N passed, N failed, N skipped`.
# Exits 1 when anything failed, when a part ran nothing, or when a budget was passed; 2 when called wrongly.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

ALL_PARTS=(fmt lint unit simd tcp loom miri fuzz e2e bench-smoke)
FAST_PARTS=(fmt lint unit)

# Seconds. Every part has its own build and test budget; the whole run has a last bound.
BUILD_BUDGET=900
TEST_BUDGET=480
TOTAL_BUDGET=5400
TOTAL_GOAL=1200

TARGET=${CARGO_TARGET_DIR:-target}
LOGS=$TARGET/test-logs
FAST=false
NAMED=false

# ---- what to run -------------------------------------------------------------------------------------------------

usage() {
    echo "usage: test.sh [all | fast | PART...]     parts: ${ALL_PARTS[*]}"
}

PARTS=()
for argument in "$@"; do
    case $argument in
        -h | --help) usage && exit 0 ;;
        all) PARTS+=("${ALL_PARTS[@]}") ;;
        fast) PARTS+=("${FAST_PARTS[@]}") && FAST=true ;;
        *)
            if [[ " ${ALL_PARTS[*]} " != *" $argument "* ]]; then
                usage >&2
                echo "test.sh: no part is called '$argument'" >&2
                exit 2
            fi
            PARTS+=("$argument") && NAMED=true
            ;;
    esac
done
[ ${#PARTS[@]} -gt 0 ] || PARTS=("${ALL_PARTS[@]}")

# ---- what the machine must have ----------------------------------------------------------------------------------

# Debian packages, and how to see that what they give is there already (from whatever source).
need_packages() {
    local missing=()
    command -v cc >/dev/null || missing+=(gcc)
    echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || missing+=(libc6-dev)
    command -v git >/dev/null || missing+=(git)
    echo "Debian packages: gcc libc6-dev git (missing here: ${missing[*]:-none})"
    [ ${#missing[@]} -eq 0 ] && return 0
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "installing ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } \
            </dev/null >"$LOGS/packages.log" 2>&1 && return 0
        tail -n 20 "$LOGS/packages.log"
    fi
    echo "test.sh: missing packages; as root: apt-get install ${missing[*]}" >&2
    return 1
}

need_rust() {
    command -v cargo >/dev/null && return 0
    echo "test.sh: cargo is not installed; install a stable Rust toolchain with rustup, then run this again" >&2
    return 1
}

# ---- running steps within budgets --------------------------------------------------------------------------------

CHILD=
stop() {
    [ -z "$CHILD" ] || kill -TERM "$CHILD" 2>/dev/null
    exit 130
}
trap stop INT TERM

# State of the part that runs: seconds left, what is to be said about it, checks that are no cargo tests, tests that
# `fast` left out.
build_left=0 test_left=0 part_failed=false part_skips=() part_checks=0 part_left_out=0

# step build|test COMMAND…: runs the command within what is left of that budget; its output goes to the part's log.
step() {
    local kind=$1 left began rc
    shift
    if [ "$kind" = build ]; then left=$build_left; else left=$test_left; fi
    local total_left=$((TOTAL_BUDGET - SECONDS))
    [ "$left" -le "$total_left" ] || left=$total_left
    if [ "$left" -le 0 ]; then
        say_failed "no time left for: $*"
        return 1
    fi
    echo "\$ $*" >>"$log"
    began=$SECONDS
    # In the background, so that an interrupt reaches `timeout`, which passes it on to all it started.
    timeout --kill-after=20 "$left" "$@" </dev/null >>"$log" 2>&1 &
    CHILD=$!
    wait "$CHILD"
    rc=$?
    CHILD=
    if [ "$kind" = build ]; then
        build_left=$((build_left - (SECONDS - began)))
    else
        test_left=$((test_left - (SECONDS - began)))
    fi
    if [ $rc -eq 124 ] || [ $rc -eq 137 ]; then
        say_failed "over its $kind budget: $*"
        return 1
    elif [ $rc -ne 0 ]; then
        say_failed "exit $rc: $*"
        return 1
    fi
}

# run_tests COMMAND…: a step in which at least one test must run: a filter that fits nothing is a failure.
run_tests() {
    local from ran
    from=$(wc -c <"$log")
    step test "$@" || return 1
    ran=$(count_tests <(tail -c "+$((from + 1))" "$log") | awk 'NR == 1 { print $1 + $2 + $3 }')
    if [ "$ran" -eq 0 ]; then
        say_failed "ran no test: $*"
        return 1
    fi
}

# tests ARGUMENTS…: `cargo ARGUMENTS`, first built, then run, each within its own budget. Whatever follows `--` goes to
# the tests; `--show-output` makes the lines visible by which a test reports what it skipped.
tests() {
    local cargo=() harness=() after=false argument
    for argument in "$@"; do
        if [ "$argument" = -- ] && ! $after; then
            after=true
        elif $after; then
            harness+=("$argument")
        else
            cargo+=("$argument")
        fi
    done
    step build cargo "${cargo[@]}" --no-run || return 1
    run_tests cargo "${cargo[@]}" --no-fail-fast -- --show-output "${harness[@]}"
}

say_failed() {
    part_failed=true
    echo "test.sh: $*" >>"$log"
}

# skip REASON: something this machine cannot run. Counted, and listed at the end.
skip() {
    part_skips+=("$*")
    echo "test.sh: skipped: $*" >>"$log"
}

# Passed, failed and skipped tests of a log, then one line for each skip: `NAME<tab>REASON`.
#
# A test that cannot run here is `#[ignore = "reason"]`, or prints `skipped: reason` and is then not counted as passed.
# One that ran all but some cases prints `skipped case: reason` and counts as passed and as one skip a line.
count_tests() {
    awk '
        /^test result: / {
            for (i = 1; i < NF; i++) {
                if ($(i + 1) ~ /^passed/) passed += $i
                if ($(i + 1) ~ /^failed/) failed += $i
            }
        }
        /^test .* \.\.\. ignored/ {
            name = $2
            reason = $0
            if (!sub(/^test .* \.\.\. ignored, /, "", reason)) reason = "no reason given"
            skips[++skipped] = name "\t" reason
        }
        /^---- .* stdout ----$/ { name = $2; counted = 0 }
        /^skipped: / {
            if (counted++) next
            passed--
            skips[++skipped] = name "\t" substr($0, 10)
        }
        /^skipped case: / { skips[++skipped] = name "\t" substr($0, 15) }
        /^Success$/ { passed++ }
        END {
            print passed + 0, failed + 0, skipped + 0
            for (i = 1; i <= skipped; i++) print skips[i]
        }
    ' "$1"
}

# ---- the parts ---------------------------------------------------------------------------------------------------

# Integration tests by what they need: an end-to-end test runs the program itself.
is_end_to_end() {
    grep -rqsE 'CARGO_BIN_EXE_gradwire|^mod program;' "$1" "${1%.rs}"
}

# integration_tests FOLDER all|e2e|rest: the names of the test targets there.
integration_tests() {
    local path name
    for path in "$1"/tests/*.rs "$1"/tests/*/main.rs; do
        [ -f "$path" ] || continue
        name=${path#"$1"/tests/}
        name=${name%/main.rs}
        name=${name%.rs}
        case $2 in
            all) echo "$name" ;;
            e2e) is_end_to_end "${path%/main.rs}" && echo "$name" ;;
            rest) is_end_to_end "${path%/main.rs}" || echo "$name" ;;
        esac
    done
}

part_fmt() {
    step test cargo fmt --all --check && part_checks=1
}

part_lint() {
    step build cargo clippy --workspace --all-targets -- -D warnings &&
        RUSTDOCFLAGS='-D warnings' step build cargo doc --workspace --no-deps &&
        part_checks=2
}

# Everything that runs inside the test process, in the development profile. `fast` leaves out documentation tests and
# every test with a module `slow` in its path.
part_unit() {
    local targets=(--workspace --lib --bins --examples) folder name
    for folder in . ffi kernels bench; do
        while read -r name; do
            targets+=(--test "$name")
        done < <(integration_tests "$folder" rest)
    done
    if $FAST; then
        tests test "${targets[@]}" -- --skip slow::
        part_left_out=$(awk '/^test result: / { sum += $(NF - 5) } END { print sum + 0 }' "$log")
        return
    fi
    tests test "${targets[@]}"
    # Documentation tests are built while they run, hence the build budget.
    step build cargo test --workspace --doc -- --show-output
}

# The vector sets this CPU has; the names are those of GRADWIRE_SIMD.
simd_sets() {
    local flags
    flags=" $(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo) "
    echo scalar
    echo portable
    [[ $flags == *' avx2 '* ]] && echo avx2
    [[ $flags == *' avx512f '* && $flags == *' avx512bw '* && $flags == *' avx512dq '* && $flags == *' avx512vl '* ]] &&
        echo avx512
}

part_simd() {
    local set sets
    sets=" $(simd_sets | tr '\n' ' ')"
    step build cargo test -p gradwire-kernels --no-run && step build cargo test -p gradwire --lib --no-run || return
    for set in scalar portable avx2 avx512; do
        if [[ $sets != *" $set "* ]]; then
            skip "GRADWIRE_SIMD=$set: this CPU does not have it"
            continue
        fi
        export GRADWIRE_SIMD=$set
        run_tests cargo test -p gradwire-kernels --lib --tests --no-fail-fast -- --show-output
        run_tests cargo test -p gradwire --lib --no-fail-fast -- --show-output
        unset GRADWIRE_SIMD
    done
}

# Everything that uses lanes, over each driver of tcp.
part_tcp() {
    local driver
    step build cargo test -p gradwire --lib --test conformance --test sessions --no-run || return
    for driver in uring epoll; do
        export GRADWIRE_TCP=$driver
        run_tests cargo test -p gradwire --test conformance --test sessions --no-fail-fast -- --show-output
        run_tests cargo test -p gradwire --lib --no-fail-fast -- --show-output lane:: server:: client::
        unset GRADWIRE_TCP
    done
}

# Every interleaving of the few atomics. loom replaces the atomics of the whole build, hence a target folder apart.
part_loom() {
    RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" CARGO_TARGET_DIR=$TARGET/loom \
        tests test -p gradwire-ffi --release --lib -- loom
}

# Undefined behaviour in what miri can run: no SIMD, no mappings, few cases.
part_miri() {
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        skip "miri: there is no nightly toolchain with it (rustup component add --toolchain nightly miri rust-src)"
        return
    fi
    step build cargo +nightly miri setup || return
    export MIRIFLAGS=-Zmiri-disable-isolation GRADWIRE_SIMD=scalar PROPTEST_CASES=2
    run_tests cargo +nightly miri test -p gradwire-kernels --lib --no-fail-fast -- --show-output
    unset MIRIFLAGS GRADWIRE_SIMD PROPTEST_CASES
}

# Every target for FUZZ_SECONDS; the properties of the part `unit` call the same functions.
part_fuzz() {
    local file target
    if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
        skip "fuzz: there is no nightly toolchain with cargo-fuzz (rustup toolchain install nightly; cargo install cargo-fuzz)"
        return
    fi
    for file in fuzz/fuzz_targets/*.rs; do
        target=$(basename "$file" .rs)
        step build cargo +nightly fuzz build "$target" &&
            step test cargo +nightly fuzz run "$target" -- -max_total_time="${FUZZ_SECONDS:-10}" &&
            part_checks=$((part_checks + 1))
    done
}

# The program as a user runs it, in the release profile.
part_e2e() {
    local targets=() name
    while read -r name; do
        targets+=(--test "$name")
    done < <(integration_tests . e2e)
    if [ ${#targets[@]} -eq 0 ]; then
        say_failed 'no file in tests/ runs the program (none names CARGO_BIN_EXE_gradwire or has `mod program;`)'
        return
    fi
    step build cargo build --release && tests test --release -p gradwire "${targets[@]}"
}

# Every bench runs once, and every `gradwire bench` writes its report; the figures mean nothing here.
part_bench_smoke() {
    local op report
    step build cargo bench -p gradwire-bench --benches --no-run &&
        run_tests cargo bench -p gradwire-bench --benches -- --test
    step build cargo build --release || return
    for op in push pull latency lane kernels ledger; do
        report=$LOGS/bench-$op.json
        rm -f "$report"
        step test "$TARGET/release/gradwire" bench "$op" --seconds 1 --report "$report" || continue
        if grep -qsE "\"op\": *\"$op\"" "$report"; then
            part_checks=$((part_checks + 1))
        else
            say_failed "no report of the operation $op in $report"
        fi
    done
}

# ---- the run -----------------------------------------------------------------------------------------------------

mkdir -p "$LOGS" || exit 1
need_packages && need_rust || exit 1
rustc --version

all_passed=0 all_failed=0 all_skipped=0 any_failed=false
skip_list=() warning_list=()

for part in "${PARTS[@]}"; do
    log=$LOGS/$part.log
    : >"$log"
    build_left=$BUILD_BUDGET test_left=$TEST_BUDGET part_failed=false part_skips=() part_checks=0 part_left_out=0
    began=$SECONDS
    printf '%-12s ' "$part"
    "part_${part//-/_}"

    { read -r passed failed skipped && mapfile -t skips; } < <(count_tests "$log")
    passed=$((passed + part_checks))
    skipped=$((skipped + ${#part_skips[@]} + part_left_out))
    [ "$part_left_out" -eq 0 ] || skip_list+=("$part: $part_left_out tests under \`slow\`, left out by \`fast\`")
    for line in "${skips[@]}"; do
        skip_list+=("$part: ${line/$'\t'/: }")
    done
    for line in "${part_skips[@]}"; do
        skip_list+=("$part: $line")
    done
    while read -r line; do
        warning_list+=("$line")
    done < <(grep -h '^tidy warning: ' "$log")

    # A part that ran nothing proves nothing. Only `all` may meet a part that this machine cannot run.
    if ! $part_failed && [ "$passed" -eq 0 ] && { $NAMED || [ "$skipped" -eq 0 ]; }; then
        say_failed "nothing ran in the part '$part'"
    fi
    # A failure that no test stands for (a build, a budget, a lint) is counted as one.
    $part_failed && [ "$failed" -eq 0 ] && failed=1
    [ "$failed" -eq 0 ] || part_failed=true

    verdict=ok
    [ "$passed" -gt 0 ] || verdict=skip
    $part_failed && verdict=FAILED && any_failed=true
    printf '%-6s %4d s  (builds %d s, tests %d s)  %d passed, %d failed, %d skipped\n' "$verdict" \
        $((SECONDS - began)) $((BUILD_BUDGET - build_left)) $((TEST_BUDGET - test_left)) "$passed" "$failed" "$skipped"
    if $part_failed; then
        echo "---- the end of $log ----"
        grep -E '^test .* FAILED$|^test\.sh: ' "$log" | awk '!seen[$0]++' | head -n 40
        echo ...
        tail -n 60 "$log"
        echo "---- end ----"
    fi
    all_passed=$((all_passed + passed))
    all_failed=$((all_failed + failed))
    all_skipped=$((all_skipped + skipped))
done

if [ ${#warning_list[@]} -gt 0 ]; then
    printf '%s\n' "${warning_list[@]}" | sort -u
fi
if [ ${#skip_list[@]} -gt 0 ]; then
    echo "skipped, and why:"
    printf '  %s\n' "${skip_list[@]}"
fi
echo "logs in $LOGS, ${SECONDS} s in all"
[ "$SECONDS" -le "$TOTAL_GOAL" ] || echo "slower than the $TOTAL_GOAL s that a fresh machine of two cores should need"
echo "$all_passed passed, $all_failed failed, $all_skipped skipped"
if $any_failed || [ "$all_passed" -eq 0 ]; then
    exit 1
fi
