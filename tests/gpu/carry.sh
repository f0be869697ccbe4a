#!/usr/bin/env bash
# Collects what a GPU machine without network and without -dev packages needs to build anneal:
#   tests/gpu/carry.sh [FOLDER]      default: build-carry in the repository (ignored by git)
# FOLDER gets the libraries of CMakeLists.txt as this machine has them (shared ones, with all they
# stand on but the C library), their headers, carried.cmake, which CMake includes with
# -DANNEAL_CARRIED=FOLDER instead of asking pkg-config, and the commit. About 9 MB. The machine that
# gets it needs a C library no older than this one's.
set -euo pipefail
cd "$(dirname "$0")/../.."
to="${1:-build-carry}"
# CMake's target, library, header
libraries="
PkgConfig::JANSSON jansson jansson.h
PkgConfig::MHD microhttpd microhttpd.h
PkgConfig::GNUTLS gnutls gnutls/gnutls.h
PkgConfig::CURL curl-gnutls curl/curl.h
PkgConfig::PNG png16 png.h
PkgConfig::WEBP webp webp/encode.h
PkgConfig::WEBP webpmux webp/mux.h
PkgConfig::JPEG jpeg jpeglib.h
PkgConfig::PCRE2 pcre2-8 pcre2.h
PkgConfig::ZLIB z zlib.h
PkgConfig::YAML yaml yaml.h
UNISTRING unistring uninorm.h"

give_up() { echo "carry.sh: $*" >&2; exit 1; }
multiarch="$(cc -print-multiarch)"
find_so() { # NAME: the file that -lNAME finds
    local f
    f="$(cc -print-file-name="lib$1.so")"
    [ -f "$f" ] || give_up "no lib$1.so: install its -dev package (docker/packages.sh)"
    readlink -f "$f"
}
soname() { objdump -p "$1" | sed -n 's/^ *SONAME *//p'; }

rm -rf "$to"
mkdir -p "$to/lib" "$to/include"
list="$to/carried.cmake"
{
    echo "# Made by tests/gpu/carry.sh on $(date -u +%F), $(. /etc/os-release && echo "$PRETTY_NAME"), $multiarch."
    echo 'set(AN_CARRIED_LIB ${CMAKE_CURRENT_LIST_DIR}/lib)'
    # What these libraries stand on lies beside them: the linker and the program look there. Only an
    # RPATH (not a RUNPATH) also serves libraries of libraries.
    echo 'add_link_options(-Wl,--disable-new-dtags -Wl,-rpath-link,${AN_CARRIED_LIB})'
    echo 'set(CMAKE_BUILD_RPATH ${AN_CARRIED_LIB})'
} >"$list"
while read -r target name header; do
    [ -n "$target" ] || continue
    so="$(find_so "$name")"
    file="$(soname "$so")"
    # it and all below it, but for what every machine with a compiler has
    { printf '%s => %s\n' "$file" "$so"; ldd "$so"; } |
        awk '$2 == "=>" && $3 ~ /^\// && $1 !~ /^(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+)\.so/ {print $1, $3}' |
        while read -r n path; do cp -Lf "$path" "$to/lib/$n"; done
    for root in "/usr/include/$multiarch" /usr/include; do
        [ -e "$root/$header" ] || continue
        package="$(dpkg -S "$root/$header" | head -n 1 | sed 's/: .*//')"
        for h in $(dpkg -L "$package" | grep '^/usr/include/.*\.h$'); do
            relative="${h#/usr/include/}"
            relative="${relative#"$multiarch"/}"
            mkdir -p "$to/include/$(dirname "$relative")"
            cp -L "$h" "$to/include/$relative"
        done
    done
    [ -e "$to/include/$header" ] || give_up "no $header"
    {
        if [ "$target" = UNISTRING ]; then
            echo "set(UNISTRING_LIBRARY \${AN_CARRIED_LIB}/$file)"
            echo 'set(UNISTRING_INCLUDE_DIR ${CMAKE_CURRENT_LIST_DIR}/include)'
        else
            echo "if(NOT TARGET $target)"
            echo "  add_library($target INTERFACE IMPORTED GLOBAL)"
            echo "endif()"
            echo "target_include_directories($target SYSTEM INTERFACE \${CMAKE_CURRENT_LIST_DIR}/include)"
            echo "target_link_libraries($target INTERFACE \${AN_CARRIED_LIB}/$file)"
        fi
    } >>"$list"
done <<<"$libraries"
commit="$(git rev-parse HEAD 2>/dev/null || echo unknown)"
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit="$commit and uncommitted changes"
echo "$commit" >"$to/commit"
du -sh "$to" >&2
