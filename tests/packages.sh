#!/usr/bin/env bash
# .ci/packages asks apt-get for what is missing and no more: with stand-ins for all that it looks for.
#
#   tests/packages.sh .ci/packages
set -u
packages=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
mkdir tools
stand_in() { # NAME TEXT
    printf '#!/bin/sh\n%s\n' "$2" >"tools/$1"
    chmod +x "tools/$1"
}
for tool in cmake ninja cc c++ pkg-config clang-format python3 clang; do stand_in $tool 'exit 0'; done
stand_in id 'echo 0'
stand_in apt-cache 'exit 0'
stand_in apt-get "echo \"\$*\" >>'$folder/asked'; touch '$folder/installed'"
fail() {
    echo "packages: $1" >&2
    cat said asked >&2
    exit 1
}
run() {
    rm -f asked installed
    touch asked
    PATH=$folder/tools:$PATH CC=cc CXX=c++ "$packages" "$@" >said 2>&1
}
for purpose in demo test fuzz; do
    run $purpose || fail "$purpose: all is there, and it fails"
    [ -s asked ] && fail "$purpose: all is there, and it installs"
done
# clang without the libraries of its sanitizers, which Debian has apart
stand_in clang "case \"\$*\" in *-fsanitize=*) [ -e '$folder/installed' ] ;; esac"
run test || fail "test: needs no clang"
[ -s asked ] && fail "test: needs no clang, and it installs"
run fuzz || fail "fuzz: fails after installing"
grep -q '^install .* libclang-rt-dev$' asked || fail "fuzz: expected the sanitizers' libraries to be installed"
stand_in apt-get 'exit 1'
run fuzz && fail "fuzz: expected a failed apt-get to be told"
grep -q 'could not be installed: libclang-rt-dev' said || fail "fuzz: expected to hear what is missing"
echo "packages: as expected"
