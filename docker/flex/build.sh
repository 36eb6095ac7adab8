#!/bin/sh
# Build, push and register the flex template.
#
#   WORKER=IMAGE LAUNCHER=IMAGE docker/flex/build.sh gs://BUCKET/controlset.json
#
# WORKER: the pushed worker image (`make image`). LAUNCHER: Google's launcher base for Python 3.11, whose
# name is in Google's flex template guide (dataflow-templates-base/python311-template-launcher-base).
set -eu

template=${1:?the template file to write, gs://BUCKET/NAME.json}
: "${WORKER:?the pushed worker image}" "${LAUNCHER:?the image of the Python template launcher}"
case $template in gs://*/*.json) ;; *)
  echo "build: need gs://BUCKET/NAME.json, got $template" >&2; exit 2 ;;
esac
for tool in docker gcloud; do
  command -v "$tool" >/dev/null || { echo "build: need $tool in PATH, found none" >&2; exit 2; }
done

here=$(dirname "$0")
launcher=$WORKER-flex
docker build --file "$here/launcher.Dockerfile" --build-arg "WORKER=$WORKER" --build-arg "LAUNCHER=$LAUNCHER" \
  --tag "$launcher" "$here/../.."
docker push "$launcher"
gcloud dataflow flex-template build "$template" --image "$launcher" --sdk-language PYTHON \
  --metadata-file "$here/metadata.json"
