# Worker of `controlset generate`: on Dataflow, beside a Flink or Spark task manager, or as a worker pool.
# Build with `make image`, which makes the wheel first.
#
# BASE needs Python 3.11. torch's wheels bring the CUDA libraries and Dataflow mounts the driver, so the
# plain Python image serves GPUs too; take a CUDA image with Python 3.11 if something else needs nvcc.
ARG BASE=python:3.11-slim-bookworm
ARG BEAM=2.77.0
FROM apache/beam_python3.11_sdk:${BEAM} AS beam

FROM ${BASE}
ARG BEAM
ARG EXTRAS=gcp,aws,azure
COPY docker/install.sh requirements.lock dist/*.whl /build/
RUN UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1 BEAM="${BEAM}" /build/install.sh /build/controlset-*.whl /build/requirements.lock /opt/controlset "${EXTRAS}"
ENV PATH=/opt/controlset/bin:$PATH \
    CONTROLSET_WEIGHTS=/opt/weights \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1

# Weights are baked in, so that a thousand workers do not ask the hub: --build-arg WEIGHTS="hed depth blip",
# or put files of your own into docker/weights/ before building. HUB_OPTIONS: e.g. "--depth-model NAME".
ARG WEIGHTS=""
ARG HUB_OPTIONS=""
COPY docker/weights/ /opt/weights/
SHELL ["/bin/sh", "-eu", "-c"]
# Names and options are words, so they are not quoted.
# hadolint ignore=SC2086
RUN if [ -n "${WEIGHTS}" ]; then controlset weights fetch ${WEIGHTS} ${HUB_OPTIONS} --weights /opt/weights; fi

# Beam's entrypoint: starts the worker, `--worker_pool` a pool of them. It runs as root because Dataflow
# mounts its staging folder for root; a pool beside Flink runs as anyone (`docker run --user 1000`).
COPY --from=beam /opt/apache/beam /opt/apache/beam
ENTRYPOINT ["/opt/apache/beam/boot"]
