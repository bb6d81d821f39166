#!/usr/bin/env bash
# All that must hold before a change goes in: lints, documentation, tests of both languages, examples, and that none of
# it leaves a process behind. The first failure ends the run.
#
# Needs Rust (stable, with rustfmt and clippy), one CPython from 3.10 with pip and venv, the package registries, and
# redis-server, which is installed if it is missing and this runs as root where there is apt-get.
# Writes into target/ only (and what cargo and pip keep for themselves). Other CPythons that are at hand, on PATH or
# from pyenv, are tried as well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
logs=$target/test-logs
mkdir -p "$logs"
rm -f "$logs"/*.log

# Every process of this run carries this variable, which is how the last step finds those that are left.
SNAKEPEN_TEST_RUN=$$-$(date +%s%N)
export SNAKEPEN_TEST_RUN
export SNAKEPEN_CACHE_DIR=$target/package-cache
export PYRIGHT_PYTHON_CACHE_DIR=$target/pyright
# What is built once gains nothing from the former, and nobody debugs it: without, programs are built in two thirds of the time.
[[ -z ${CI:-} ]] || export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=none
# Without bytecode every process that a test starts would compile the package first.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV SNAKEPEN_PYTHON PYTHONDONTWRITEBYTECODE

# === Steps ===

steps=0
current=''
shown=''
timings=()

# step NAME COMMAND...: runs a command under a heading; its output is shown and kept.
step() {
    current=$1
    shift
    steps=$((steps + 1))
    local start=$SECONDS
    printf '\n=== %s\n' "$current"
    # Not a pipe: a process that a test leaves behind would hold it open, and the run would wait for it. And `tee` is no
    # process of the run, for the step that looks for those.
    exec 9> >(env -u SNAKEPEN_TEST_RUN tee "$logs/$(printf %02d "$steps").log")
    shown=$!
    "$@" >&9 2>&1 9>&-
    settle
    timings+=("$(printf '%4d s  %s' $((SECONDS - start)) "$current")")
    printf -- '--- %s: ok, %d s\n' "$current" $((SECONDS - start))
    current=''
}

# Lets the output of a step be shown to its end, if nobody holds it open.
settle() {
    exec 9>&-
    for _ in {1..20}; do
        kill -0 "$shown" 2>/dev/null || return 0
        sleep 0.05
    done
}

summary() {
    local status=$?
    if ((status != 0)); then
        settle
        printf '\nFAILED%s (status %d, after %d s)\n' "${current:+: $current}" "$status" "$SECONDS"
        # What goes on in the background; what that has started is found below.
        jobs -p | xargs -r kill 2>/dev/null || true
        local left
        left=$(processes_of_run)
        if [[ -n $left ]]; then
            printf 'Processes of this run were left, and are killed now:\n%s\n' "$left"
            awk '{ print $1 }' <<<"$left" | xargs kill -9 || true
        fi
    fi
}
trap summary EXIT

# === Interpreters ===

# usable COMMAND: prints the path of a CPython from 3.10 that can make virtual environments, and its version. Asked of
# the interpreter itself, because the command may be a version manager's shim.
usable() {
    "$1" -c '
import ensurepip, platform, sys, sysconfig, venv
assert platform.python_implementation() == "CPython" and (3, 10) <= sys.version_info < (3, 15)
assert not sysconfig.get_config_var("Py_GIL_DISABLED")
print(sys.executable, "%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# environment DIRECTORY PYTHON REQUIREMENT...: a virtual environment in which the requirements are installed.
environment() {
    local directory=$1 python=$2
    shift 2
    if [[ ! -e $directory/complete ||
        $("$directory/bin/python" -c 'import sys; print(sys._base_executable)' 2>/dev/null) != "$python" ]]; then
        "$python" -m venv --clear "$directory"
    fi
    rm -f "$directory/complete"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    touch "$directory/complete"
    "$directory/bin/python" --version
}

python='' version=''
for command in python3.11 python3 python3.12 python3.13 python3.10 python3.14; do
    if read -r python version < <(usable "$command"); then break; fi
done
if [[ -z $python ]]; then
    echo "No CPython 3.10 to 3.14 with venv and pip: install python3 and python3-venv." >&2
    exit 1
fi
venv=$target/venv

others=() # "VERSION PATH"
for wanted in 3.10 3.11 3.12 3.13 3.14; do
    [[ $wanted != "$version" ]] || continue
    for command in "python$wanted" "$HOME/.pyenv/versions/$wanted".*/bin/python; do
        if read -r other found < <(usable "$command") && [[ $found == "$wanted" ]]; then
            others+=("$wanted $other")
            break
        fi
    done
done

# === What the steps do ===

format() {
    cargo fmt --check
    if compgen -G 'fuzz/fuzz_targets/*.rs' >/dev/null; then
        rustfmt --check --edition 2024 --config-path . fuzz/fuzz_targets/*.rs
    fi
    bash -n scripts/test.sh .ci/run
}

python_lint() {
    (cd python_worker && "$venv/bin/ruff" check . && "$venv/bin/ruff" format --check .)
    "$venv/bin/ruff" check --config python_worker/pyproject.toml examples benches tests
    "$venv/bin/ruff" format --check --config python_worker/pyproject.toml examples benches tests
}

python_types() {
    (cd python_worker && "$venv/bin/pyright" --pythonpath "$venv/bin/python")
}

python_tests() {
    (cd python_worker && "$1/bin/python" -m pytest -n auto)
}

# The environments of all interpreters, "$target/venv" and "$target/venv-VERSION".
environments() {
    environment "$venv" "$python" -r python_worker/requirements-dev.txt
    # Only what the tests import: linters and NumPy are checked once, with the first. Not the pinned versions, which need not
    # exist for this interpreter.
    local requirements other version path
    mapfile -t requirements < <(sed -nE 's/^(pytest|pytest-xdist|hypothesis)==.*/\1/p' python_worker/requirements-dev.txt)
    for other in "${others[@]}"; do
        read -r version path <<<"$other"
        environment "$target/venv-$version" "$path" "${requirements[@]}"
    done
}

# They are fetched and installed while cargo lints.
environments_are_there() {
    local status=0
    wait "$installing" || status=$?
    cat "$logs/environments.txt"
    return "$status"
}

# The tests start servers of their own. One that the package starts is not used, and no process of this run.
redis_server() {
    if ! command -v redis-server >/dev/null; then
        if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
            echo 'No redis-server: install it (Debian: apt-get install redis-server).' >&2
            return 1
        fi
        env -u SNAKEPEN_TEST_RUN DEBIAN_FRONTEND=noninteractive bash -c \
            'apt-get update -q && apt-get install -qy --no-install-recommends redis-server' </dev/null
    fi
    redis-server --version
}

# The library with no feature and with each alone; everything with all.
rust_lint() {
    cargo clippy --locked -- -D warnings
    local feature
    for feature in arrow cluster durable ndarray redis; do
        cargo clippy --locked --features "$feature" -- -D warnings
    done
    cargo clippy --locked --keep-going --all-targets --all-features -- -D warnings
}

rust_docs() {
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --all-features
}

# With the environment's interpreter: some tests need NumPy, PyArrow or DSPy.
features=arrow,durable,ndarray,redis
rust_tests() {
    # One more than there are cores: a third of their time they wait for processes.
    SNAKEPEN_PYTHON=$venv/bin/python RUST_TEST_THREADS=$(($(nproc) + 1)) cargo test --locked --no-fail-fast --features $features
}

# Counted, not timed: a change that makes a call dearer by over 5 % is to be seen here, however busy the machine is.
instructions() {
    SNAKEPEN_PYTHON=$venv/bin/python cargo bench --locked --bench instructions
}

# As the tests have built them. With the bare interpreter, as the examples need nothing but the standard library; those of
# DSPy with the environment's.
examples() {
    cargo build --locked --examples --features $features
    local file name interpreter
    for file in examples/*.rs; do
        name=$(basename "$file" .rs)
        printf '\n--- example %s\n' "$name"
        interpreter=$python
        [[ $name != dspy_* ]] || interpreter=$venv/bin/python
        SNAKEPEN_PYTHON=$interpreter timeout 120 "$target/debug/examples/$name"
    done
}

# Everything at once, for 30 s; how fast does not matter.
chaos() {
    SNAKEPEN_PYTHON=$python timeout 240 "$target/debug/examples/chaos" --seconds 30 --seed 1
}

# Every process whose environment says that it belongs to this run. The script itself and its subshells don't say so:
# /proc shows the environment with which a program was started.
processes_of_run() {
    local files file pid
    files=$(env -u SNAKEPEN_TEST_RUN grep -slzx "SNAKEPEN_TEST_RUN=$SNAKEPEN_TEST_RUN" /proc/[0-9]*/environ || true)
    for file in $files; do
        pid=${file#/proc/}
        pid=${pid%/environ}
        printf '%s %s\n' "$pid" "$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || true)"
    done
}

# What a killed host left to its launcher is gone 2 s later.
nothing_left() {
    local left
    for _ in {1..50}; do
        left=$(processes_of_run)
        if [[ -z $left ]]; then
            echo 'No process of this run is left.'
            return
        fi
        sleep 0.1
    done
    return 1
}

# passed LINE_PATTERN: the sum of the "N passed" in those lines of all logs. A test that starts itself again as the host
# to be killed prints a result of its own, with the other tests "filtered out".
passed() {
    { grep -hE "$1" "$logs"/*.log || true; } | { grep -oE '[0-9]+ passed' || true; } |
        awk '{ sum += $1 } END { print sum + 0 }'
}

# === The run ===

echo "Python $version: $python"
for other in "${others[@]}"; do echo "Python $other"; done
step 'Rust format' format
environments >"$logs/environments.txt" 2>&1 &
installing=$!
step 'Rust lint' rust_lint
step 'Rust documentation' rust_docs
step 'Python environments' environments_are_there
step 'Python lint and format' python_lint
step 'Python types' python_types
step "Python $version tests" python_tests "$venv"
step 'Redis server' redis_server
step 'Rust tests' rust_tests
# Built beside the Python tests, which leave the cores idle now and then. Should it fail, so does the step that needs it.
cargo bench --locked --bench instructions --no-run >"$logs/instructions.txt" 2>&1 &
for other in "${others[@]}"; do
    read -r other_version _ <<<"$other"
    step "Python $other_version tests" python_tests "$target/venv-$other_version"
done
step 'Instruction counts' instructions
step 'Examples' examples
step 'Chaos' chaos
step 'Processes' nothing_left

printf '\n=== Summary\n'
printf '%s\n' "${timings[@]}"
printf 'ok: %d steps in %d s; %d Rust tests; %d Python tests on %d interpreters; %d examples; no process left\n' \
    "$steps" "$SECONDS" "$(passed '^test result: .* 0 filtered out')" "$(passed '[0-9]+ passed.* in [0-9.]+s')" \
    "$((1 + ${#others[@]}))" "$(compgen -G 'examples/*.rs' | wc -l)"
