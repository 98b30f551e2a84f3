#!/usr/bin/env bash
# Runs the tests of the kernels and of weights, and the command line, with one wheel on several versions of Python:
#
#     make test-pythons                             those of python3.10 to python3.14 that are on the PATH
#     tools/pythons.sh /opt/python3.12/bin/python   those named
set -euo pipefail
cd "$(dirname "$0")/.."
room=$PWD/build/pythons
rm -rf "$room/dist"
.venv/bin/python -m hatchling build -t wheel -d "$room/dist" > /dev/null

test $# -gt 0 || set -- python3.10 python3.11 python3.12 python3.13 python3.14
for python in "$@"; do
    if ! version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null); then
        echo "$python: not on this machine"
        continue
    fi
    venv=$room/$version
    "$python" -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet "$room"/dist/*.whl hypothesis pytest pytest-timeout
    echo "Python $version:"
    # From elsewhere, so that the wheel is tested and not the sources beside the tests.
    (cd "$room" && "$venv/bin/python" -m pytest -q -p no:cacheprovider -c ../../pyproject.toml --rootdir ../.. \
        ../../tests/kernels ../../tests/weights | tail -1)
    for command in "palettize --nbits 4" "quantize --dtype int4" "prune --sparsity 0.5"; do
        # shellcheck disable=SC2086
        "$venv/bin/corepress" $command examples/digits.mlpackage -o "$room/$version.mlpackage" --overwrite > /dev/null
        echo "corepress $command: good"
    done
done
