#!/usr/bin/env bash
# Runs the tests of the kernels on an emulated ARM processor: `make test-aarch64`, on Debian with qemu-user.
# Debian's Python and PyPI's NumPy for ARM are unpacked into build/aarch64; nothing is installed. Left out are the tests
# that begin processes of their own, which would have to be emulated, too.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
room=$PWD/build/aarch64
command -v qemu-aarch64 > /dev/null || { echo "needs qemu-aarch64: apt install qemu-user" >&2; exit 1; }

if [ ! -e "$room/ready" ]; then
    mkdir -p "$room"/{state/lists/partial,cache/archives/partial,debs,wheels}
    apt=(apt-get -q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$room/state"
        -o Dir::State::status=/dev/null -o Dir::Cache="$room/cache" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd "$room/debs" && "${apt[@]}" download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 \
        libexpat1 zlib1g libffi8 libstdc++6 libgcc-s1 libbz2-1.0 liblzma5 libssl3 libuuid1 libsqlite3-0)
    for deb in "$room"/debs/*.deb; do dpkg-deb -x "$deb" "$room/root"; done
    "$python" -m pip download -q --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --only-binary=:all: --python-version 3.11 -d "$room/wheels" \
        numpy ml_dtypes attrs cattrs pytest pytest-timeout hypothesis
    for wheel in "$room"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$room/site"; done
    touch "$room/ready"
fi

rm -rf "$room/site/corepress"
COREPRESS_TARGET=linux-aarch64 "$python" -m hatchling build -t wheel -d "$room/own" > /dev/null
"$python" -m zipfile -e "$room"/own/*aarch64.whl "$room/site"
QEMU_LD_PREFIX="$room/root" PYTHONPATH="$room/site:$PWD" PYTHONDONTWRITEBYTECODE=1 \
    qemu-aarch64 "$room/root/usr/bin/python3.11" -m pytest -q -p no:cacheprovider -o addopts= -o pythonpath= \
    --ignore tests/kernels/test_library.py --ignore tests/kernels/test_build.py "${@:-tests/kernels}"
