#!/bin/sh
# The install steps of every image, in one place so that they can be run, and tested, without Docker.
#
#   docker/install.sh WHEEL LOCK PREFIX [EXTRAS]
#
# Makes a virtual environment in PREFIX with the wheel, what it needs at the versions of LOCK, and the
# extras (aws,gcp). Development packages of LOCK are not installed: it is a list of constraints here.
set -eu

wheel=$1 lock=$2 prefix=$3 extras=${4:-}
python=${PYTHON:-python3.11}

if ! command -v "$python" >/dev/null; then
  echo "install: need $python in the base image, found none; choose a --build-arg BASE that has it" >&2
  exit 2
fi
"$python" -m venv "$prefix"
"$prefix/bin/python" -m pip install --quiet uv
"$prefix/bin/uv" pip install --quiet --python "$prefix/bin/python" \
  --constraint "$lock" "controlset${extras:+[$extras]} @ file://$(realpath "$wheel")"

# Beam's boot program and Beam itself must be one version; the Dockerfile says which it copied.
beam=$("$prefix/bin/python" -c 'import importlib.metadata as m; print(m.version("apache-beam"))')
if [ -n "${BEAM:-}" ] && [ "$BEAM" != "$beam" ]; then
  echo "install: need apache-beam $BEAM, as in the image that boot comes from, got $beam; set --build-arg BEAM=$beam" >&2
  exit 2
fi
"$prefix/bin/controlset" --version
