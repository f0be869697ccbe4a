# packages.sh: the Debian/Ubuntu packages anneal needs, in one place: ./run, ./test and the
# Dockerfile read it. Sourced, not run.

# compilers (C++ for the GPU's kernels) and build tool; libraries: HTTP, JSON, pictures, tokenizer patterns, CPU kernels
BUILD_PACKAGES="gcc g++ libc6-dev cmake ninja-build pkg-config
    libmicrohttpd-dev libjansson-dev libpng-dev libwebp-dev libjpeg-dev libpcre2-dev zlib1g-dev
    libunistring-dev libdnnl-dev"
# tests: clang for libFuzzer, wrk for load, python3 for the HTTP suites
TEST_PACKAGES="clang libclang-rt-14-dev wrk curl jq python3 git"
# docker/fetch-smollm2, where no Python has pip
FETCH_PACKAGES="python3 python3-pip"

# need_packages WHY PACKAGE...: installs those that are missing, saying which and why.
need_packages() {
    local why="$1" missing="" p
    shift
    if ! command -v dpkg-query >/dev/null; then
        echo "This is not Debian or Ubuntu: please install what these packages hold $why: $*" >&2
        return 0
    fi
    local have
    have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null |
        sed -n 's/^installed //p')
    for p in "$@"; do
        grep -qx -- "$p" <<<"$have" || missing="$missing $p"
    done
    [ -z "$missing" ] && return 0
    echo "Installing$missing ($why)" >&2
    local sudo=""
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "Not root and no sudo. Please run: apt-get install$missing" >&2
            return 1
        fi
        sudo=sudo
    fi
    export DEBIAN_FRONTEND=noninteractive
    $sudo apt-get -qq update >&2
    # shellcheck disable=SC2086
    $sudo apt-get -qq install -y --no-install-recommends $missing >/dev/null
}
